"""Majority vote: of n whole completions the answer that most of them give, without a scorer.

Wang et al. 2022 (self-consistency), arXiv:2203.11171. Answers are one where the verifier says that they
are, and a completion without an answer has no vote.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from truing.config import Strict
from truing.search._records import Choice, Draw, Path, Search, draw


class Config(Strict):
    """Options of the majority vote."""

    choose: ClassVar[Choice] = "majority"
    needs_scorer: ClassVar[bool] = False
    scores_prefixes: ClassVar[bool] = False

    num_samples: int = Field(8, gt=0, description="whole completions drawn at once")


def search(found: list[Path], config: Config) -> Search:
    """Draw n completions."""
    for drawn in (yield from draw([Draw(Path(), config.num_samples, whole=True)])):
        found += drawn
