"""Davidson reward model: a tie is a third choice, as strong as the geometric mean of both sides.

Davidson 1970, "On extending the Bradley-Terry model to accommodate ties", doi:10.1080/01621459.1970.10481082:
win, loss and tie are the softmax of [a, b, (a + b)/2 + log nu], nu >= 0; nu = 0 is Bradley-Terry.

nu = exp(w), and w is learned beside the network: without any tie in the data it would run to 0, so such
data are refused. A tie is a pair with preference 0.5.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import preferences
from truing.algorithms._ties import outcome_terms
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of the Davidson reward model."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)
    parameters: ClassVar[dict[str, float]] = {"tie": 0.0}  # added to the start of log nu

    nu: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="strength of a tie between equals; where to start"
    )
    learn_nu: bool = Field(True, description="learn it beside the network; False: it stays as it is")

    def needs(self) -> frozenset[str]:
        return frozenset({"scores", "labels"} | ({"parameters"} if self.learn_nu else set()))


def davidson_logprobs(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], log_nu: Float[Tensor, ""]
) -> Float[Tensor, "N 3"]:
    """Return log P of win, loss and tie for each pair.

    Args:
        chosen: score a.
        rejected: score b.
        log_nu: of the strength of a tie.
    """
    return torch.stack([chosen, rejected, (chosen + rejected) / 2 + log_nu], -1).log_softmax(-1)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = outputs.require("scores").chunk(2)
    offset = outputs.parameter("tie") if config.learn_nu else torch.zeros_like(chosen[0])
    log_nu = math.log(config.nu) + offset
    logprobs = davidson_logprobs(chosen, rejected, log_nu)
    return outcome_terms("loss/davidson", logprobs, preferences(batch), log_nu.exp())


ALGORITHM = Algorithm(source="doi:10.1080/01621459.1970.10481082", config=Config, loss=_loss)
