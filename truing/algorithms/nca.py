"""Noise Contrastive Alignment of a pair: the absolute reward of each side, not only their difference.

Chen et al. 2024, arXiv:2402.05369, for two completions of which one is preferred:
L = -log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l), with r = beta log pi/pi_ref of the
whole completion. The chosen side's reward has its optimum at r_w = ln 2 and is not pushed further, nor may
it fall, so the chosen log-prob stays up where DPO lets both sides sink.
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
    """Options of NCA."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def nca_loss(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return -log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l) for each pair.

    Args:
        chosen: r_w, beta times the log-ratio to the reference, summed over completion tokens.
        rejected: r_l, the same for the rejected completion.
    """
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (config.beta * d for d in sequence_log_ratios(outputs, batch))
    losses = nca_loss(chosen, rejected)
    return [Term("loss/nca", losses.sum(), "pair"), *pair_metrics(outputs, batch, chosen, rejected)]


ALGORITHM = Algorithm(source="arXiv:2402.05369", config=Config, loss=_loss)
