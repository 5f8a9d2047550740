"""Dr. GRPO, "GRPO done right": no division by the group's std, and none by a completion's own length.

Liu et al. 2025, arXiv:2503.20783, section 3.2: A_i = r_i - mean of the group, PPO's clipped surrogate,
summed over tokens and divided by the number of completions and by a CONSTANT, the longest completion that
the sampler may draw. GRPO's two divisors bias it: dividing by |y| favours short right and long wrong
completions, dividing by the std favours prompts that are nearly solved or nearly hopeless.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). max_tokens must be the sampler's limit. It scales
the gradient, so a learning rate found at one limit does not hold at another. verl divides by the padded
width of the batch instead, which differs from step to step.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from truing.algorithms._policy import group_credit, policy_terms
from truing.config import ClipHigh, ClipLow, DataKind, EntropyCoef, Mismatch, MismatchCap, Options
from truing.math.reduce import seq_mean_token_sum_norm
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of Dr. GRPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    max_tokens: int = Field(
        3000, gt=0, description="the constant that divides a completion's sum; the sampler's limit"
    )
    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def sampler_max_tokens(self) -> int | None:
        """Return what sampler.max_tokens must be."""
        return self.max_tokens

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch, scale="none")


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    return policy_terms(
        outputs,
        batch,
        reduction=partial(seq_mean_token_sum_norm, norm=float(config.max_tokens)),
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2503.20783 section 3.2", config=Config, loss=_loss, credit=_credit)
