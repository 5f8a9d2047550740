"""Bradley-Terry reward model: L = -log sigmoid(r_w - r_l - margin) for each pair.

Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, eq. 1, with K = 2. The margin is eq. 2 of Touvron et
al. 2023 (Llama 2), arXiv:2307.09288; the centring term is that of Eisenstein et al. 2023,
arXiv:2312.09244: eta (r_w + r_l)^2, since pairs leave the scale's zero undetermined. With use_labels, a pair
whose label is p = P(chosen is better) costs -p log sigmoid(d) - (1 - p) log sigmoid(-d); at a tie, p = 1/2,
it asks for equal scores.

OpenRLHF's LogExpLoss ignores margins; TRL's and this loss use them. Accuracy is always without the margin.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import preferences, reward_metrics
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of the reward model."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    use_margin: bool = Field(
        False, description="ask for a lead of each pair's `margin`, not only of more than 0"
    )
    centering_coef: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of (r_w + r_l)^2; 0.01 is usual when on"
    )
    use_labels: bool = Field(
        False, description="read each pair's `preference`: how probably the chosen side is better"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"scores"} | ({"labels"} if self.use_labels else set()))


def bradley_terry_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], margin: Float[Tensor, " N"] | float = 0.0
) -> Float[Tensor, " N"]:
    """Return -log sigmoid(chosen - rejected - margin) for each pair.

    Args:
        chosen: score of the better completion.
        rejected: score of the worse one.
        margin: how far ahead the chosen one should be [score units].
    """
    return -F.logsigmoid(chosen - rejected - margin)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = outputs.require("scores").chunk(2)
    margin = batch.require("margins").chunk(2)[0] if config.use_margin else 0.0
    losses = bradley_terry_loss(chosen, rejected, margin)
    if config.use_labels:
        label = preferences(batch)
        losses = label * losses + (1 - label) * bradley_terry_loss(rejected, chosen, margin)
    terms = [Term("loss/bradley_terry", losses.sum(), "pair")]
    if config.centering_coef:
        centring = (chosen + rejected).square().sum()
        terms.append(Term("loss/centering", centring, "pair", config.centering_coef))
    return terms + reward_metrics(chosen, rejected)


ALGORITHM = Algorithm(source="arXiv:2203.02155 eq. 1", config=Config, loss=_loss)
