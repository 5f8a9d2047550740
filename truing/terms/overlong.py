"""0 up to max_tokens - cache, then linearly down to -1 at max_tokens.

Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13. `dapo` adds this penalty by itself; the term is for every
other method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator

from truing.config import TermOptions
from truing.math.advantages import soft_overlong_penalty
from truing.terms import Written


class Config(TermOptions):
    """Where the ramp is."""

    max_tokens: int = Field(256, gt=0, description="length from which the penalty is whole [tokens]")
    cache: int = Field(64, gt=0, description="width of the ramp before it [tokens]")

    @model_validator(mode="after")
    def _ramp_fits(self) -> Config:
        if self.cache > self.max_tokens:
            raise ValueError(f"cache is {self.cache}; right is at most max_tokens, {self.max_tokens}")
        return self

    def silent_up_to(self) -> int:
        """Return the length up to which every completion gets 0."""
        return self.max_tokens - self.cache


def measure(written: Sequence[Written], config: Config) -> list[float]:
    """Return the penalty of each completion, in [-1, 0]."""
    lengths = torch.tensor([len(w.completion.tokens) for w in written])
    found: list[float] = soft_overlong_penalty(
        lengths, max_tokens=config.max_tokens, cache=config.cache
    ).tolist()
    return found
