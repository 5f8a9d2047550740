"""Decoupled PPO, for stale rollouts: the policy that drew a token is not the one that clips it.

Hilton et al. 2021, arXiv:2110.00641, and Fu et al. 2025 (AReaL), arXiv:2505.24298: L = -token_mean(w min(
rho A, clip(rho) A)) with three policies. The behaviour policy drew the token some versions ago
(sampler_logprobs); the proximal policy is the one that began this batch (old_logprobs); rho = pi /
pi_proximal is clipped; w = sg(pi_proximal / pi_behaviour) corrects for who drew. PPO's ratio pi /
pi_behaviour would be outside the clip range before the first update, and clip what is not even new.

A token whose w is above 5 is left out, and the count of tokens stays the same (AReaL's former default;
today's code has it as an option that is off). mismatch_cap = inf weighs every token by its plain w.

Differs from the papers: there is no critic; the advantage is GRPO's, (r_i - mean of the group) / std, where
AReaL normalises over the whole batch (scale_rewards = "batch" comes near).
"""

from __future__ import annotations

from typing import ClassVar

from truing.algorithms._policy import group_credit, policy_terms
from truing.config import (
    ClipHigh,
    ClipLow,
    DataKind,
    EntropyCoef,
    MaxGap,
    Mismatch,
    MismatchCap,
    Options,
    ScaleRewards,
)
from truing.math.reduce import token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of decoupled PPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    scale_rewards: ScaleRewards = "group"
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_mask"
    mismatch_cap: MismatchCap = 5.0
    max_gap: MaxGap = 0.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy", "old_logprobs"})


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch, scale=config.scale_rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    batch.require("sampler_logprobs")
    return policy_terms(
        outputs,
        batch,
        reduction=token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        max_gap=config.max_gap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2110.00641; arXiv:2505.24298", config=Config, loss=_loss, credit=_credit)
