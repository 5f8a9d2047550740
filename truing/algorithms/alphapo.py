"""AlphaPO: SimPO with a power of the probability in place of its logarithm as the reward.

Gupta et al. 2025, arXiv:2501.03884: L = -log sigmoid(r_w - r_l - gamma), where
r = beta (1 - p^-alpha) / alpha and p = exp(S / |y|) is the probability of a completion, normalised by its
length. For alpha -> 0 the reward is beta log p and the method is SimPO. With alpha > 0 the reward falls
steeply where p is small, so a pair is mended more by keeping both sides likely than by pushing the
rejected one down. gamma = beta * gamma_over_beta, as in SimPO.

Differs from the paper: alpha is not negative. Where p^-alpha exceeds e^20 the reward goes on along its
tangent, for e^89 is no float32.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import mean_logprobs, pair_metrics
from truing.algorithms.simpo import simpo_loss
from truing.config import DataKind, Options
from truing.math.ratios import MAX_LOG_RATIO
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of AlphaPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (6e-7, 6e-6)

    alpha: float = Field(0.25, ge=0, le=10, description="shape of the reward; 0 is SimPO's logarithm")
    beta: float = Field(2.0, gt=0, allow_inf_nan=False, description="scale of the reward, as in SimPO")
    gamma_over_beta: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="lead asked of the chosen side, divided by beta"
    )


def power_reward(logprobs: Float[Tensor, " N"], *, alpha: float, beta: float) -> Float[Tensor, " N"]:
    """Return beta (1 - exp(-alpha m)) / alpha, and beta m for alpha = 0.

    Args:
        logprobs: m, mean log-prob of a completion's tokens [nats per token].
        alpha: >= 0.
        beta: > 0.
    """
    if alpha == 0:
        return beta * logprobs
    exponent = -alpha * logprobs
    inner = exponent.clamp(max=MAX_LOG_RATIO)
    return -beta / alpha * (torch.expm1(inner) + (exponent - inner) * inner.exp())


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (
        power_reward(side, alpha=config.alpha, beta=config.beta) for side in mean_logprobs(outputs, batch)
    )
    losses = simpo_loss(chosen, rejected, gamma=config.beta * config.gamma_over_beta)
    metrics = pair_metrics(outputs, batch, chosen, rejected)
    return [Term("loss/alphapo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2501.03884", config=Config, loss=_loss)
