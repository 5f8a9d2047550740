"""DiscoPOP: a loss that a language model proposed, between the logistic and the exponential one.

Lu et al. 2024 (Discovering Preference Optimization Algorithms), arXiv:2406.08414, eq. 5, the log-ratio
modulated loss: with x = beta d, d as in DPO, and m = sigmoid(x / tau),
L = -(1 - m) log sigmoid(x) + m exp(-x). Pairs on the wrong side get the logistic loss, pairs on the right
side the exponential one. The loss is not convex: near x = 0 it has a bump, whose width is tau.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of DiscoPOP."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    tau: float = Field(
        0.05,
        gt=0,
        le=1,
        description="how sharply the loss switches from logistic to exponential; paper: 0.05",
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def discopop_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, beta: float, tau: float
) -> Float[Tensor, " N"]:
    """Return -(1 - m) log sigmoid(x) + m exp(-x), x = beta (chosen - rejected), m = sigmoid(x / tau).

    Args:
        chosen: log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        rejected: the same for the rejected completion [nats].
        beta: strength of the KL constraint, > 0.
        tau: temperature of the switch, in (0, 1].
    """
    x = beta * (chosen - rejected)
    exponential = (F.logsigmoid(x / tau) - x).exp()  # m exp(-x), which overflows as a product
    return exponential - (-x / tau).sigmoid() * F.logsigmoid(x)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    losses = discopop_loss(chosen, rejected, beta=config.beta, tau=config.tau)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/discopop", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2406.08414 eq. 5", config=Config, loss=_loss)
