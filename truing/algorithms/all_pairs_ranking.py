"""Ranking reward model of InstructGPT: Bradley-Terry over all K(K-1)/2 pairs of a prompt.

Ouyang et al. 2022, arXiv:2203.02155, eq. 1: L = -1/(K choose 2) E[log sigmoid(r_w - r_l)], the mean over the
pairs of a prompt and then over prompts. All pairs of a prompt stay in one batch: dealt out over batches,
each completion is seen K - 1 times in an epoch, and the model overfits, as the paper reports.

Tied pairs are left out, as in the paper's data, and the mean is over the others.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from truing.algorithms._rankings import ordered_differences, ranked_groups, ranking_metrics
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """The method has no options."""

    data: ClassVar[DataKind] = "rankings"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    def needs(self) -> frozenset[str]:
        return frozenset({"scores"})


def all_pairs_loss(scores: Float[Tensor, " K"], ranks: Int[Tensor, " K"]) -> Float[Tensor, ""]:
    """Return the mean of -log sigmoid(s_i - s_j) over the pairs in which i is ranked above j; 0 of none.

    Args:
        scores: of one prompt's completions.
        ranks: 1 is best; equal ranks are ties.
    """
    losses = -F.logsigmoid(ordered_differences(scores, ranks))
    return losses.sum() / max(len(losses), 1)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    groups = ranked_groups(outputs, batch)
    losses = [all_pairs_loss(scores, ranks) for scores, ranks in groups]
    return [Term("loss/all_pairs", torch.stack(losses).sum(), "prompt"), *ranking_metrics(groups)]


ALGORITHM = Algorithm(source="arXiv:2203.02155 eq. 1", config=Config, loss=_loss)
