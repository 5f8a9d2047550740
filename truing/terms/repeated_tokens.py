"""Minus the share of a completion's token n-grams that were there before, in (-1, 0].

Yeo et al. 2025, arXiv:2502.03373, appendix C.2, spread over the whole completion. The verifier `repetition`
says the same of words; this one sees what text hides, such as repeated blanks.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from truing.config import TermOptions
from truing.math.lengths import repeated_share
from truing.terms import Written


class Config(TermOptions):
    """What counts as a repetition."""

    ngram: int = Field(4, ge=1, le=50, description="tokens that are looked at together")


def measure(written: Sequence[Written], config: Config) -> list[float]:
    """Return minus the repeated share of each completion."""
    return [0.0 - repeated_share(w.completion.tokens, ngram=config.ngram) for w in written]
