"""Group Relative Policy Optimization: a group's rewards are its own baseline; there is no critic.

Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, eq. 3-4 and section 4.1.2: A_i = (r_i - mean) / std over
the completions of one prompt, PPO's clipped surrogate, averaged over the tokens of each completion and
then over completions (seq_mean_token_mean), plus kl_coef times k3 of policy and reference.

Differs from the paper: kl_coef is 0 by default (theirs is 0.04), as in most later work with verifiable
rewards; with kl_coef > 0 the term is theirs. A token is weighted by min(exp(old_logprobs -
sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025). The standard
deviation has Bessel's correction. dual_clip is also the two-sided clip of INTELLECT-2 (arXiv:2505.07291):
the same function for every bound above 1 + clip_high.

A loss near 0 is normal, since advantages of a group sum to 0. Groups whose rewards are all equal teach
nothing: watch policy/dead_group_share.
"""

from __future__ import annotations

from typing import ClassVar

from truing.algorithms._policy import group_credit, kl_loss_terms, policy_terms
from truing.config import (
    ClipHigh,
    ClipLow,
    DataKind,
    DualClip,
    EntropyCoef,
    KlEstimator,
    KlLossCoef,
    MaxGap,
    Mismatch,
    MismatchCap,
    Options,
    ScaleRewards,
)
from truing.math.reduce import seq_mean_token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of GRPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"kl_estimator": "kl_coef", "mismatch": "mismatch_cap"}

    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    dual_clip: DualClip = None
    scale_rewards: ScaleRewards = "group"
    kl_coef: KlLossCoef = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0
    max_gap: MaxGap = 0.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"} | ({"ref_logprobs"} if self.kl_coef else set()))


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch, scale=config.scale_rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        max_gap=config.max_gap or None,
        entropy_coef=config.entropy_coef,
    )
    return terms + kl_loss_terms(
        outputs, batch, reduction=seq_mean_token_mean, kl_coef=config.kl_coef, estimator=config.kl_estimator
    )


ALGORITHM = Algorithm(source="arXiv:2402.03300 eq. 3-4", config=Config, loss=_loss, credit=_credit)
