"""Tokens of a search: what was drawn and what was scored, up to a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(slots=True)
class Spent:
    """Tokens of one prompt's search.

    Args:
        budget: of generated and scored tokens together; None for no limit.
        generated: drawn by the sampler.
        scored: read by the scorer, what the paths of one request share counted once.
        read: prompts and prefixes that the sampler read before it drew; beside the budget.
    """

    budget: int | None = None
    generated: int = 0
    scored: int = 0
    read: int = 0

    @property
    def total(self) -> int:
        """Return what counts against the budget."""
        return self.generated + self.scored

    @property
    def over(self) -> bool:
        """Return whether nothing is left."""
        return self.budget is not None and self.total >= self.budget

    def pay(self, amount: int) -> int:
        """Return how much of the amount is left to spend."""
        return amount if self.budget is None else min(amount, self.budget - self.total)

    def generate(self, num_tokens: int) -> bool:
        """Count drawn tokens; return False where the budget ended before the last of them."""
        paid = self.pay(num_tokens)
        self.generated += paid
        return paid == num_tokens

    def score(self, num_tokens: int) -> bool:
        """Count scored tokens; return False where the budget ended before the last of them."""
        paid = self.pay(num_tokens)
        self.scored += paid
        return paid == num_tokens


def distinct_tokens(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens the rows have, where what two of them begin with counts once."""
    ordered = sorted(tuple(row) for row in rows)
    return sum(map(len, ordered)) - sum(_common(a, b) for a, b in pairwise(ordered))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return bisect_left(range(1, min(len(a), len(b)) + 1), True, key=lambda n: a[:n] != b[:n])
