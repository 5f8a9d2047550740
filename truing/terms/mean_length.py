"""(mean length - length) / standard deviation: completions that are longer than the others lose.

Only lengths relative to the batch's count, so the term does not care how long completions are as a whole;
it takes away what a reward gains from length within the batch (a reward model that likes long answers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from truing.config import TermOptions
from truing.math.lengths import length_deviation
from truing.terms import Written


class Config(TermOptions):
    """Whose lengths are compared."""

    batch_wide: ClassVar[bool] = True
    over: Literal["batch", "group"] = Field(
        "batch", description="compare with all completions of the step, or with those of the same prompt"
    )


def measure(written: Sequence[Written], config: Config) -> list[float]:
    """Return how many standard deviations each completion is shorter than the mean."""
    lengths = torch.tensor([len(w.completion.tokens) for w in written])
    groups = torch.tensor([w.group for w in written])
    found = length_deviation(lengths, groups if config.over == "group" else torch.zeros_like(groups))
    return [0.0 - x for x in found.tolist()]
