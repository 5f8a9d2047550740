"""DPO with a hinge: L = max(0, 1 - beta d) for each pair.

The hinge of Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, on log-ratios to the reference instead of
log-probs, as in Liu et al. 2023 (RSO), arXiv:2309.06657, where it is called hinge-norm. d is DPO's. A pair
whose margin is past 1/beta gives no gradient.

Differs from the paper: RSO also draws its pairs from an estimate of the optimal policy by rejection
sampling. This is its loss alone, on the pairs of the data set.
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
    """Options of hinge DPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="1 / the margin [nats] past which a pair is left alone"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def hinge_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, beta: float
) -> Float[Tensor, " N"]:
    """Return max(0, 1 - beta (chosen - rejected)) for each pair.

    Args:
        chosen: log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        rejected: the same for the rejected completion [nats].
        beta: 1 / margin, > 0.
    """
    return F.relu(1 - beta * (chosen - rejected))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    losses = hinge_loss(chosen, rejected, beta=config.beta)
    active = (losses.detach() > 0).to(losses.dtype)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [
        Term("loss/hinge", losses.sum(), "pair"),
        Term("rewards/active_share", active.sum(), "pair", 0.0),
        *metrics,
    ]


ALGORITHM = Algorithm(source="arXiv:2309.06657", config=Config, loss=_loss)
