"""Weighted Preference Optimization: DPO on pairs that the policy itself might have written.

Zhou et al. 2024, arXiv:2406.11827, eq. 2: the DPO loss of a pair times w(y_w) w(y_l), without gradient, where
w(y) = exp(mean over tokens of [log p(y_t) - log sum_v p_v^2]). Off-policy data is so weighed towards what
the policy samples; the second term makes a token of average probability count 1.

The sum over the vocabulary needs no logits: it is p(y_t)^2 over the same policy's probability of y_t at half
the temperature, so that log w is the mean of sharp_logprobs - logprobs. They cost a forward pass without
gradient.

TRL 1.16 has the paper's weight without a bound, as here; earlier versions cap a pair's weight at 1, which
is max_weight = 1.
"""

from __future__ import annotations

import math
from typing import ClassVar

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.math.ratios import log_ratio, truncated_weight
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of WPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    max_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="largest weight of a pair; 0: no bound, as in the paper"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "sharp_logprobs", "ref_logprobs"})


def pair_weights(
    logprobs: Float[Tensor, "B C"],
    sharp_logprobs: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    max_weight: float,
) -> Float[Tensor, " N"]:
    """Return w(y_w) w(y_l) of each pair, detached.

    Args:
        logprobs: of the chosen rows, then the rejected rows of the same pairs [nats].
        sharp_logprobs: the same at half the temperature: 2 logprobs - log sum_v p_v^2 [nats].
        mask: True on trained tokens.
        max_weight: largest weight of a pair; 0 for none (exp(20) then, so that it stays finite).
    """
    excess = log_ratio(sharp_logprobs, logprobs, mask).sum(-1) / mask.sum(-1).clamp(min=1)
    chosen, rejected = excess.chunk(2)
    return truncated_weight(chosen + rejected, cap=max_weight or math.inf)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    weights = pair_weights(
        outputs.require("logprobs"),
        outputs.require("sharp_logprobs"),
        batch.mask,
        max_weight=config.max_weight,
    )
    losses = weights * dpo_loss(chosen, rejected, beta=config.beta)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [
        Term("loss/wpo", losses.sum(), "pair"),
        Term("rewards/weight_mean", weights.sum(), "pair", 0.0),
        *metrics,
    ]


ALGORITHM = Algorithm(source="arXiv:2406.11827 eq. 2", config=Config, loss=_loss)
