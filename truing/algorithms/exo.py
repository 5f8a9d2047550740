"""Efficient Exact Optimization of a pair: L = KL(p_theta || p_label) over {chosen, rejected}.

Ji et al. 2024, arXiv:2402.00856, eq. 16: p_theta = sigmoid(beta d) is the policy's probability that the
chosen side is better, with d as in DPO, and p_label = 1 - e that of the label. DPO minimises the KL in the
other direction, so EXO seeks a mode where DPO covers.

e = 0 would be log 0, so e is at least 1e-6; the default is TRL's, 1e-3. The loss starts at
log(1 / (2 sqrt(e (1 - e)))), 2.76 for the default, and not at ln 2.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of EXO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    label_smoothing: float = Field(
        1e-3, ge=1e-6, lt=0.5, description="probability that a label is wrong; never 0, as log 0 is infinite"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def exo_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, beta: float, label_smoothing: float
) -> Float[Tensor, " N"]:
    """Return q log(q / (1 - e)) + (1 - q) log((1 - q) / e) for each pair, q = sigmoid(beta d).

    Args:
        chosen: log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        rejected: the same for the rejected completion [nats].
        beta: strength of the KL constraint, > 0.
        label_smoothing: e, in (0, 1/2).
    """
    scaled = beta * (chosen - rejected)
    right = F.logsigmoid(scaled) - math.log1p(-label_smoothing)
    wrong = F.logsigmoid(-scaled) - math.log(label_smoothing)
    return scaled.sigmoid() * right + (-scaled).sigmoid() * wrong


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    losses = exo_loss(chosen, rejected, beta=config.beta, label_smoothing=config.label_smoothing)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/exo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2402.00856 eq. 16", config=Config, loss=_loss)
