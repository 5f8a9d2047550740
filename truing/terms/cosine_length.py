"""The cosine reward: what right and wrong answers are worth, by their length.

Yeo et al. 2025, arXiv:2502.03373, section 4. A short right answer is worth more than a long one, and a wrong
one costs less the longer it thought; what reaches the limit costs most. It says all about right and wrong
by itself, so the term that it takes the answer from usually has weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from truing.config import TermOptions
from truing.math.lengths import cosine_length_reward
from truing.terms import Written


class Config(TermOptions):
    """What answers are worth."""

    of: str = Field("answer", description="the term that says whether the answer is right (0.5 or more)")
    max_tokens: int = Field(256, gt=0, description="length that counts as too long [tokens]")
    right_short: float = Field(2.0, allow_inf_nan=False, description="a right answer of no tokens")
    right_long: float = Field(1.0, allow_inf_nan=False, description="a right answer of max_tokens")
    wrong_short: float = Field(-10.0, allow_inf_nan=False, description="a wrong answer of no tokens")
    wrong_long: float = Field(0.0, allow_inf_nan=False, description="a wrong answer of max_tokens")
    exceeded: float = Field(-10.0, allow_inf_nan=False, description="a completion of max_tokens or more")

    def reads(self) -> tuple[str, ...]:
        """Return the terms whose values it takes."""
        return (self.of,)


def measure(written: Sequence[Written], config: Config) -> list[float]:
    """Return what each completion is worth."""
    found: list[float] = cosine_length_reward(
        torch.tensor([len(w.completion.tokens) for w in written]),
        torch.tensor([w.values[config.of] >= 0.5 for w in written]),
        max_tokens=config.max_tokens,
        right=(config.right_short, config.right_long),
        wrong=(config.wrong_short, config.wrong_long),
        exceeded=config.exceeded,
    ).tolist()
    return found
