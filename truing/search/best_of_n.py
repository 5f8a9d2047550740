"""Best-of-n: of n whole completions the one with the highest score.

Stiennon et al. 2020, arXiv:2009.01325; over the steps of a process reward model Lightman et al. 2023,
arXiv:2305.20050. With a budget it goes on, n at a time, until the tokens are spent.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from truing.config import Strict
from truing.search._records import Choice, Draw, Path, Search, draw, score


class Config(Strict):
    """Options of best-of-n."""

    choose: ClassVar[Choice] = "best"
    needs_scorer: ClassVar[bool] = True
    scores_prefixes: ClassVar[bool] = False

    num_samples: int = Field(8, gt=0, description="n, whole completions drawn at once")


def search(found: list[Path], config: Config) -> Search:
    """Draw n completions and score them."""
    for drawn in (yield from draw([Draw(Path(), config.num_samples, whole=True)])):
        found += yield from score(drawn)
