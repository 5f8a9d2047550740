"""Margin-aware weights for a reward model: pairs that the model finds hard count more.

arXiv:2602.17658 (MARS): pair i is augmented in proportion to q_i = exp(-tau |D_i|) / sum_j exp(-tau |D_j|),
where D_i is the margin of its scores, for there the curvature of the Bradley-Terry loss is largest.

Differs from the paper: nothing is paraphrased. A pair counts as often as it would be seen, itself and its
copies: (1 + budget N q_i) / (1 + budget), which is 1 on average. So no label is inherited by a text that no
one judged, and no paraphraser brings its own length and style. q is over the batch, by the scores when the
batch began, where the paper's is over the data set and an epoch. The loss is that of `reward_model`.

|D| gives pairs that are ranked wrongly and by far next to no weight; signed = true uses max(D, 0), which
leaves them all of it. Measure on pairs that were held out. Only a summary of the paper was at hand, so tau
and budget are ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import reward_metrics
from truing.algorithms.reward_model import bradley_terry_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of margin-aware weighting."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    tau: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="how fast the weight falls with the margin [1/score]"
    )
    budget: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="copies that are dealt out, a pair on average"
    )
    signed: bool = Field(False, description="pairs that are ranked wrongly keep their full weight")

    def needs(self) -> frozenset[str]:
        return frozenset({"scores", "old_scores"})


def margin_shares(margins: Float[Tensor, " N"], *, tau: float, signed: bool = False) -> Float[Tensor, " N"]:
    """Return q_i = exp(-tau |D_i|) / sum_j exp(-tau |D_j|); with `signed`, max(D, 0) in place of |D|.

    Args:
        margins: D, score of the chosen side less that of the rejected one.
        tau: how fast the share falls with the margin.
        signed: whether pairs that are ranked wrongly keep their full share.
    """
    distance = margins.clamp(min=0) if signed else margins.abs()
    return (-tau * distance).softmax(0)


def _credit(batch: Batch, config: Config) -> Batch:
    chosen, rejected = batch.require("old_scores").chunk(2)
    shares = margin_shares(chosen - rejected, tau=config.tau, signed=config.signed)
    weights = (1 + config.budget * len(shares) * shares) / (1 + config.budget)
    return replace(batch, weights=weights.repeat(2))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = outputs.require("scores").chunk(2)
    weights = batch.require("weights").chunk(2)[0]
    losses = bradley_terry_loss(chosen, rejected)
    return [
        Term("loss/mars", (weights * losses).sum(), "pair"),
        Term("loss/bradley_terry", losses.detach().sum(), "pair", 0.0),
        Term("rewards/weight_square_mean", weights.square().sum(), "pair", 0.0),
        *reward_metrics(chosen, rejected),
    ]


ALGORITHM = Algorithm(source="arXiv:2602.17658", config=Config, loss=_loss, credit=_credit)
