"""Plackett-Luce reward model: a ranking is a row of choices, each a softmax over what is left.

Luce 1959 and Plackett 1975, as in appendix A.3 of Rafailov et al. 2023, arXiv:2305.18290, eq. 18 with
scores in place of implicit rewards: L = sum_k [logsumexp_{j >= k} s_j - s_k], completions sorted from best
to worst, mean over prompts. With two completions it is Bradley-Terry. With top_m = 1 it is the cross-entropy
of the best of K, eq. 1 of Ziegler et al. 2019, arXiv:1909.08593.

Differs from the paper: completions may tie. A tied block states nothing about its own order, so its
likelihood is the sum over all its orders; the last block of a ranking then costs nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from truing.algorithms._rankings import ranked_groups, ranking_metrics
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term

MAX_TIED = 8  # 2^8 sets of tied completions are summed over


class Config(Options):
    """Options of the Plackett-Luce reward model."""

    data: ClassVar[DataKind] = "rankings"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    top_m: int = Field(
        0, ge=0, description="only the first choices count, a tie among them whole; 0: all, 1: the best of K"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"scores"})


def plackett_luce_loss(
    scores: Float[Tensor, " K"], ranks: Int[Tensor, " K"], *, top_m: int = 0
) -> Float[Tensor, ""]:
    """Return -log P(ranking) = sum_k [logsumexp_{j >= k} s_j - s_k].

    Args:
        scores: of one prompt's completions, best first.
        ranks: ascending; equal ranks are ties, whose orders are summed over.
        top_m: blocks that begin after this many completions are left out; 0 for none.

    Raises:
        ValueError: more completions tie than can be summed over, and not for the last place.
    """
    sizes = torch.unique_consecutive(ranks, return_counts=True)[1].tolist()
    loss, done = scores.sum() * 0, 0
    for size in sizes[:-1]:  # the last block is all that is left: its probability is 1
        if top_m and done >= top_m:
            break
        if size > MAX_TIED:
            raise ValueError(
                f"{size} completions of a ranking share a place above the last, more than {MAX_TIED}: "
                "break such ties, or use all_pairs_ranking"
            )
        block = list(scores[done : done + size].unbind())
        loss = loss - _log_chosen_first(block, scores[done + size :].logsumexp(0))
        done += size
    return loss


def _log_chosen_first(block: Sequence[Float[Tensor, ""]], rest: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the log-probability that the block is chosen before the rest, in any order.

    found[S] is that of choosing the members of S one by one while only S and the rest are left.
    """
    found: dict[int, Float[Tensor, ""]] = {0: torch.zeros_like(rest)}
    for members in range(1, 1 << len(block)):
        inside = [i for i in range(len(block)) if members >> i & 1]
        total = torch.stack([block[i] for i in inside] + [rest]).logsumexp(0)
        ways = [block[i] - total + found[members & ~(1 << i)] for i in inside]
        found[members] = torch.stack(ways).logsumexp(0)
    return found[(1 << len(block)) - 1]


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    groups = ranked_groups(outputs, batch)
    losses = [plackett_luce_loss(scores, ranks, top_m=config.top_m) for scores, ranks in groups]
    return [Term("loss/plackett_luce", torch.stack(losses).sum(), "prompt"), *ranking_metrics(groups)]


ALGORITHM = Algorithm(source="arXiv:2305.18290 eq. 18; arXiv:1909.08593 eq. 1", config=Config, loss=_loss)
