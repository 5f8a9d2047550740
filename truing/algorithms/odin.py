"""Disentangled reward model (ODIN): a second head takes what length explains, and is thrown away.

Chen et al. 2024, arXiv:2402.07319, eq. 5-8: with the scores of a quality and a length head,

    L = -log sigmoid(difference of r_Q + r_L) + length_coef (|corr(r_Q, length)| - corr(r_L, length))
        + overlap_coef |w_Q . w_L|,

corr being Pearson's over all completions of the batch. Only the quality head is saved.

A correlation is no sum over rows. Its gradient at the scores that began the batch is: dC/dr_i is taken over
the whole batch in `credit`, and each row adds dC/dr_i r_i, so that any split gives the gradient of the
unsplit loss. With several updates of one batch the later ones use the slope of the first.

Differs from the paper: nothing at one update a batch. RLHFlow's port applies log sigmoid to scores that
are summed over the batch; here each pair has its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import reward_metrics
from truing.algorithms.reward_model import bradley_terry_loss
from truing.config import DataKind, Options
from truing.math.scores import correlation
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of ODIN."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    length_coef: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="weight of the correlations with length"
    )
    overlap_coef: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of |w_Q . w_L|, which keeps the heads apart; 0: none",
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"scores", "length_scores", "old_scores", "old_length_scores"})


def length_penalty(
    quality: Float[Tensor, " B"], length: Float[Tensor, " B"], tokens: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return |corr(r_Q, tokens)| - corr(r_L, tokens).

    Args:
        quality: r_Q of every completion.
        length: r_L.
        tokens: lengths of the completions.
    """
    return correlation(quality, tokens).abs() - correlation(length, tokens)


def _credit(batch: Batch, config: Config) -> Batch:
    """Fill the penalty as a line through the scores that began the batch: offsets and slopes of the rows."""
    old = [batch.require(k).detach().clone() for k in ("old_scores", "old_length_scores")]
    with torch.enable_grad():
        quality, length = (scores.requires_grad_() for scores in old)
        penalty = length_penalty(quality, length, batch.lengths.to(quality.dtype))
        slopes = torch.autograd.grad(penalty, (quality, length))
    of_quality, of_length = (slope * len(batch) for slope in slopes)  # a Term a sequence divides by B
    there = of_quality * quality.detach() + of_length * length.detach()
    return replace(
        batch, length_penalty=penalty.detach() - there, score_slopes=of_quality, length_score_slopes=of_length
    )


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    quality, length = outputs.require("scores"), outputs.require("length_scores")
    penalty = batch.require("length_penalty") + batch.require("score_slopes") * quality
    penalty = penalty + batch.require("length_score_slopes") * length
    losses = bradley_terry_loss(*(quality + length).chunk(2))
    terms = [
        Term("loss/bradley_terry", losses.sum(), "pair"),
        Term("loss/length", penalty.sum(), "sequence", config.length_coef),
    ]
    if config.overlap_coef:
        overlap = outputs.require("head_overlap") * len(batch)
        terms.append(Term("loss/overlap", overlap, "sequence", config.overlap_coef))
    return terms + reward_metrics(*quality.chunk(2))


ALGORITHM = Algorithm(source="arXiv:2402.07319 eq. 5-8", config=Config, loss=_loss, credit=_credit)
