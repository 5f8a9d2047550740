"""Group Sequence Policy Optimization: one ratio for the whole completion, clipped as a whole.

Zheng et al. 2025, arXiv:2507.18071, eq. 5-7: s_i = exp(mean over the tokens of logprobs - old_logprobs), the
likelihood ratio of the completion with the length taken out, in PPO's clipped surrogate, averaged over
completions. A completion is learned from as a whole or not at all; that keeps mixture-of-experts models
steady, where the ratio of a single token is mostly noise. The clip range is 3e-4 below and 4e-4 above 1.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). verl computes the token form (eq. 13-14) with the
ratio s_i in value and a token's own gradient: while the advantage is the same on all tokens of a
completion, value and gradient are equal, which a test shows.
"""

from __future__ import annotations

from typing import ClassVar

from truing.algorithms._policy import group_credit, policy_terms
from truing.config import (
    ClipHigh,
    ClipLow,
    DataKind,
    EntropyCoef,
    Mismatch,
    MismatchCap,
    Options,
    ScaleRewards,
)
from truing.math.reduce import seq_mean_token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of GSPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    clip_low: ClipLow = 3e-4
    clip_high: ClipHigh = 4e-4
    scale_rewards: ScaleRewards = "group"
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch, scale=config.scale_rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    return policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        ratio_level="sequence",
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2507.18071 eq. 5-7", config=Config, loss=_loss, credit=_credit)
