"""What the methods that learn from rankings share: the scores of each prompt's completions, best first."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.types import Batch, Outputs, Term

Ranked = tuple[Float[Tensor, " K"], Int[Tensor, " K"]]


def ranked_groups(outputs: Outputs, batch: Batch) -> list[Ranked]:
    """Return the scores and ranks of each prompt's completions, best first, equal ranks in their order."""
    scores, ranks = outputs.require("scores"), batch.require("ranks")
    found = list[Ranked]()
    for rows in batch.units():
        index = torch.tensor(rows, device=ranks.device)
        index = index[ranks[index].argsort(stable=True)]
        found.append((scores[index], ranks[index]))
    return found


def ordered_differences(scores: Float[Tensor, " K"], ranks: Int[Tensor, " K"]) -> Float[Tensor, " D"]:
    """Return s_i - s_j of every pair in which i is ranked above j; tied pairs are left out."""
    above = ranks[:, None] < ranks[None, :]
    return (scores[:, None] - scores[None, :])[above]


def ranking_metrics(groups: list[Ranked]) -> list[Term]:
    """Return how often a pair is in the right order, whether a best one leads, and the spread of scores."""
    zero = groups[0][0].detach().new_zeros(())
    accuracy, top, spread = zero, zero, zero
    for scores, ranks in ((s.detach(), r) for s, r in groups):
        differences = ordered_differences(scores, ranks)
        wins = (differences > 0).to(scores.dtype) + 0.5 * (differences == 0)
        accuracy = accuracy + wins.sum() / max(len(wins), 1)
        top = top + (ranks[scores.argmax()] == ranks.min()).to(scores.dtype)
        spread = spread + scores.std(correction=0)
    return [
        Term("rewards/pair_accuracy", accuracy, "prompt", 0.0),
        Term("rewards/best_accuracy", top, "prompt", 0.0),
        Term("rewards/spread", spread, "prompt", 0.0),
    ]
