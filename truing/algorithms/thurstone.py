"""Thurstone reward model: P(chosen is better) = Phi((s_w - s_l) / scale), a probit in place of the logit.

Thurstone 1927, "A law of comparative judgment", doi:10.1037/h0070288. With scale 1 the difference of both
qualities has unit variance; with scale sqrt(2) each quality has it (case V).

The loss uses log_ndtr, for log(Phi(x)) is -inf below about -5.4 in float32. Its gradient grows in
proportion to the violation where Bradley-Terry's stays below 1, so pairs that are labelled wrongly pull
harder: keep max_grad_norm at 1, or use reward_model where labels are noisy.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import reward_metrics
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of the Thurstone reward model."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="std of a difference of scores; 1.414 is case V"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"scores"})


def thurstone_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, scale: float
) -> Float[Tensor, " N"]:
    """Return -log Phi((chosen - rejected) / scale) for each pair.

    Args:
        chosen: score of the better completion.
        rejected: score of the worse one.
        scale: standard deviation of the judged difference, > 0 [score units].
    """
    losses: Tensor = -torch.special.log_ndtr((chosen - rejected) / scale)
    return losses


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = outputs.require("scores").chunk(2)
    losses = thurstone_loss(chosen, rejected, scale=config.scale)
    return [Term("loss/thurstone", losses.sum(), "pair"), *reward_metrics(chosen, rejected)]


ALGORITHM = Algorithm(source="doi:10.1037/h0070288", config=Config, loss=_loss)
