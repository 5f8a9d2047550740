"""Rao-Kupper reward model: Bradley-Terry with a band in which two completions tie.

Rao and Kupper 1967, "Ties in paired-comparison experiments", doi:10.1080/01621459.1967.10482901:
P(a) = e^a / (e^a + theta e^b), P(tie) = (theta^2 - 1) P(a) P(b), theta >= 1. log theta is half the width of
the band of differences that judges cannot tell apart; theta = 1 is Bradley-Terry.

theta = exp(softplus(w)), and w is learned beside the network: without any tie in the data it would run to
theta = 1, so such data are refused. A tie is a pair with preference 0.5.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import preferences
from truing.algorithms._ties import outcome_terms
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of the Rao-Kupper reward model."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)
    parameters: ClassVar[dict[str, float]] = {"tie": 0.0}  # added to the start of w

    theta: float = Field(
        1.5, gt=1, allow_inf_nan=False, description="width of a tie: e^(half the band); where to start"
    )
    learn_theta: bool = Field(True, description="learn it beside the network; False: it stays as it is")

    def needs(self) -> frozenset[str]:
        return frozenset({"scores", "labels"} | ({"parameters"} if self.learn_theta else set()))


def rao_kupper_logprobs(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], log_theta: Float[Tensor, ""]
) -> Float[Tensor, "N 3"]:
    """Return log P of win, loss and tie for each pair.

    Args:
        chosen: score a.
        rejected: score b.
        log_theta: > 0.
    """
    win = F.logsigmoid(chosen - rejected - log_theta)
    loss = F.logsigmoid(rejected - chosen - log_theta)
    tie = torch.expm1(2 * log_theta).log() + win + loss
    return torch.stack([win, loss, tie], -1)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = outputs.require("scores").chunk(2)
    start = math.log(config.theta - 1)  # softplus(w) = log theta
    offset = outputs.parameter("tie") if config.learn_theta else torch.zeros_like(chosen[0])
    log_theta = F.softplus(start + offset)
    logprobs = rao_kupper_logprobs(chosen, rejected, log_theta)
    return outcome_terms("loss/rao_kupper", logprobs, preferences(batch), log_theta.exp())


ALGORITHM = Algorithm(source="doi:10.1080/01621459.1967.10482901", config=Config, loss=_loss)
