"""CISPO: clip the importance weight, not the token; every token keeps a gradient.

MiniMax 2025 (MiniMax-M1), arXiv:2506.13585, eq. 4-5: L = -token_mean(sg(clip(rho, ratio_min, ratio_max)) A
log pi). PPO's clip takes a token out of the update once its ratio has left the range, and those are often
the rare words on which reasoning turns. Here only the weight is bounded. The upper bound is ABSOLUTE, 5 by
default (Khatri et al. 2025 (ScaleRL), arXiv:2510.13786, find 4 to 8 equally good), and there is no lower one.

Differs from the paper: the bound is not tuned for each run; a token is weighted by min(exp(old_logprobs -
sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025). Libraries hold three
meanings of the bound: TRL's epsilon_high is absolute, and left out it falls back to 0.2, so every weight is
0.2 and the loss is REINFORCE at a fifth of its size; verl's clip is relative, 1 - 0.2 to 1 + 0.2, which is
ratio_min = 0.8, ratio_max = 1.2 here; open-instruct has only 1 + 0.2. A bound below 1 is an error here.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._policy import (
    Objective,
    group_credit,
    objective_terms,
    token_advantages,
    token_log_ratios,
)
from truing.config import DataKind, EntropyCoef, Mismatch, MismatchCap, Options, ScaleRewards
from truing.math.ratios import token_ratio
from truing.math.reduce import masked, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of CISPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    ratio_max: float = Field(
        5.0,
        ge=1,
        allow_inf_nan=False,
        description="largest weight of a token, absolute: 1.2 is verl's 1 + 0.2",
    )
    ratio_min: float = Field(0.0, ge=0, le=1, description="smallest weight of a token, absolute; 0: none")
    scale_rewards: ScaleRewards = "group"
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def cispo_loss(
    logprobs: Float[Tensor, "B C"],
    ratio: Float[Tensor, "B C"],
    advantages: Float[Tensor, "B C"],
    *,
    ratio_min: float,
    ratio_max: float,
) -> Float[Tensor, "B C"]:
    """Return -sg(clip(rho, ratio_min, ratio_max)) A log pi for each token.

    Args:
        logprobs: with gradient, 0 on untrained tokens.
        ratio: rho; it gets no gradient.
        advantages: A.
        ratio_min: absolute lower bound of the weight.
        ratio_max: absolute upper bound.
    """
    return -ratio.detach().clamp(ratio_min, ratio_max) * advantages * logprobs


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch, scale=config.scale_rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    ratio = token_ratio(token_log_ratios(outputs, batch)).detach()
    logprobs = masked(outputs.require("logprobs"), batch.mask)
    losses = cispo_loss(
        logprobs, ratio, token_advantages(batch), ratio_min=config.ratio_min, ratio_max=config.ratio_max
    )
    return objective_terms(
        outputs,
        batch,
        Objective(losses, ratio < config.ratio_min, ratio > config.ratio_max),
        reduction=token_mean,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2506.13585 eq. 4-5", config=Config, loss=_loss, credit=_credit)
