"""Weighted majority: the answer with the greatest sum of scores, argmax_a sum_{i: a_i = a} s_i.

Uesato et al. 2022, arXiv:2211.14275; Li et al. 2022, arXiv:2206.02336. Scores are probabilities, not
logits; answers are one where the verifier says so, and a completion without an answer has no vote.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from truing.config import Strict
from truing.search._records import Choice, Draw, Path, Search, draw, score


class Config(Strict):
    """Options of the weighted vote."""

    choose: ClassVar[Choice] = "weighted"
    needs_scorer: ClassVar[bool] = True
    scores_prefixes: ClassVar[bool] = False

    num_samples: int = Field(8, gt=0, description="whole completions drawn at once")


def search(found: list[Path], config: Config) -> Search:
    """Draw n completions and score them."""
    for drawn in (yield from draw([Draw(Path(), config.num_samples, whole=True)])):
        found += yield from score(drawn)
