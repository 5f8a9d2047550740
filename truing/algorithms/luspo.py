"""Length-Unbiased Sequence Policy Optimization: GSPO whose completions weigh by their length.

arXiv:2602.05261: the surrogate of GSPO with the completion's ratio s_i, multiplied by |y_i| before the
mean over completions. GSPO gives each completion the same weight, so a token of a long one counts for
less; here every token counts alike, and learning does not prefer short completions.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). The clip range is GSPO's. The fixture that pins it
is TRL's, with TRL's default range of 0.2.
"""

from __future__ import annotations

from typing import ClassVar

from truing.algorithms._policy import group_credit, policy_terms
from truing.config import ClipHigh, ClipLow, DataKind, EntropyCoef, Mismatch, MismatchCap, Options
from truing.math.reduce import seq_mean_token_sum
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of LUSPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    clip_low: ClipLow = 3e-4
    clip_high: ClipHigh = 4e-4
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    return policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_sum,  # the row's own loss, the same on each of its |y| tokens
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        ratio_level="sequence",
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2602.05261", config=Config, loss=_loss, credit=_credit)
