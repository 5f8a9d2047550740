"""What a recipe's checks know of a stage's method, and how they complain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from truing.config import DataKind
from truing.recipe.positions import KeyPath


@dataclass(frozen=True, slots=True)
class Method:
    """What a recipe must know of a configured algorithm.

    Args:
        algorithm: as the recipe names it.
        needs: None while its options are not valid.
    """

    algorithm: str
    data: DataKind
    needs: frozenset[str] | None
    min_group_size: int = 1
    max_tokens: int | None = None  # that the sampler must have
    self_play: bool = False
    rewarded: bool = True
    reference_required: bool = False
    samples: bool = False  # a stage without an algorithm, which writes rows

    @property
    def name(self) -> str:
        """The algorithm's name in messages."""
        return Path(self.algorithm).stem if self.algorithm.endswith(".py") else self.algorithm

    @property
    def online(self) -> bool:
        """Whether it learns from completions that it samples itself."""
        return self.data == "prompts" or self.self_play

    @property
    def scores(self) -> bool:
        """Whether it certainly trains a reward model, which writes nothing."""
        return self.needs is not None and bool(self.needs & {"scores", "token_scores"})

    def lacks(self, need: str) -> bool:
        """Return whether it certainly does not use this; False while its options are not valid."""
        return self.needs is not None and need not in self.needs


@dataclass(frozen=True, slots=True)
class Complaint:
    """A key, what is wrong with it, and what would be right."""

    path: KeyPath
    what: str
    right: str
