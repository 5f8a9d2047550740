"""Robust DPO: the DPO loss made unbiased for labels that are flipped at a known rate.

Chowdhury, Kini and Natarajan 2024 (rDPO), arXiv:2403.00409:
L = [-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)] / (1 - 2e), with d as in DPO. If each label is
wrong with probability e independently, its expectation is the DPO loss of the clean labels.

Conservative DPO (dpo with label_smoothing) adds the flipped term where this one subtracts it: cDPO pulls
margins towards a finite value, rDPO sharpens them. The loss may be negative, and it is unbounded below.
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
    """Options of robust DPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    flip_rate: float = Field(
        0.1, ge=0, lt=0.5, description="share of labels that are wrong, known or estimated; 0 is plain DPO"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def robust_dpo_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, beta: float, flip_rate: float
) -> Float[Tensor, " N"]:
    """Return [-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)] / (1 - 2e), d = chosen - rejected.

    Args:
        chosen: log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        rejected: the same for the rejected completion [nats].
        beta: strength of the KL constraint, > 0.
        flip_rate: e, in [0, 1/2).
    """
    scaled = beta * (chosen - rejected)
    kept, flipped = -F.logsigmoid(scaled), -F.logsigmoid(-scaled)
    return ((1 - flip_rate) * kept - flip_rate * flipped) / (1 - 2 * flip_rate)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    losses = robust_dpo_loss(chosen, rejected, beta=config.beta, flip_rate=config.flip_rate)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/robust_dpo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2403.00409", config=Config, loss=_loss)
