"""REINFORCE++-baseline: the group's mean is the baseline, the whole batch gives the scale.

Hu 2025, arXiv:2501.03262: A = r_i - mean of its group, without the group's std, then normalised over all
trained tokens of the batch; PPO's clipped surrogate, plus kl_coef times k2 of policy and reference. Dividing
by one std for the whole batch does not blow up prompts that are nearly solved, as GRPO's division can.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). The statistics weigh by token and take the population's
variance, as in OpenRLHF; verl takes Bessel's correction. kl_coef is that of OpenRLHF's scripts; 0 saves the
reference.
"""

from __future__ import annotations

from typing import ClassVar

from truing.algorithms._policy import kl_loss_terms, policy_terms, scored_only, with_advantages
from truing.config import (
    ClipHigh,
    ClipLow,
    DataKind,
    EntropyCoef,
    KlEstimator,
    KlLossCoef,
    Mismatch,
    MismatchCap,
    Options,
)
from truing.math.advantages import group_advantages, whiten
from truing.math.reduce import token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of REINFORCE++-baseline."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"kl_estimator": "kl_coef", "mismatch": "mismatch_cap"}

    kl_coef: KlLossCoef = 1e-5
    kl_estimator: KlEstimator = "k2"
    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"} | ({"ref_logprobs"} if self.kl_coef else set()))


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    centred = group_advantages(batch.require("rewards"), batch.groups, scale="none")
    wide = with_advantages(batch, centred).require("advantages")
    return with_advantages(batch, whiten(wide, batch.mask, correction=0))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    return terms + kl_loss_terms(
        outputs, batch, reduction=token_mean, kl_coef=config.kl_coef, estimator=config.kl_estimator
    )


ALGORITHM = Algorithm(source="arXiv:2501.03262", config=Config, loss=_loss, credit=_credit)
