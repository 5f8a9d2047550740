"""Direct Preference Optimization: L = -log sigmoid(beta d) for each pair.

Rafailov et al. 2023, arXiv:2305.18290, eq. 7, where d = log pi/pi_ref of the chosen completion minus
that of the rejected one, each summed over the completion's tokens. With label_smoothing e it is
conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"): the label is taken to be wrong
with probability e. With use_labels each pair has its own probability p that the chosen side is better,
and the loss is -p log sigmoid(beta d) - (1 - p) log sigmoid(-beta d); p = 1/2 is a tie.

TRL 1.16 accepts label_smoothing for this loss and ignores it; here it acts.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, preferences, sequence_log_ratios
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of DPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong (cDPO)")
    use_labels: bool = Field(
        False, description="read each pair's `preference`, the probability that the chosen side is better"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"} | ({"labels"} if self.use_labels else set()))


def dpo_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
    preference: Float[Tensor, " N"] | float = 1.0,
) -> Float[Tensor, " N"]:
    """Return -q log sigmoid(beta d) - (1 - q) log sigmoid(-beta d) for each pair, d = chosen - rejected.

    Args:
        chosen: log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        rejected: the same for the rejected completion [nats].
        beta: strength of the KL constraint, > 0.
        label_smoothing: e, in [0, 1/2): q = (1 - e) p + e (1 - p).
        preference: p, the probability that the chosen completion is better, in [0, 1].
    """
    scaled = beta * (chosen - rejected)
    right = (1 - label_smoothing) * preference + label_smoothing * (1 - preference)
    return -right * F.logsigmoid(scaled) - (1 - right) * F.logsigmoid(-scaled)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    losses = dpo_loss(
        chosen,
        rejected,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        preference=preferences(batch) if config.use_labels else 1.0,
    )
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/dpo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2305.18290 eq. 7", config=Config, loss=_loss)
