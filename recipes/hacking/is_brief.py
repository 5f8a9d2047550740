"""How brief a completion is: 1 for no words, 0 from 30 words on, right or wrong.

It looks sensible, as every token costs money. Maximised beside correctness, it pays for leaving out the steps
that make an answer right.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import Field

from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    """What counts as long."""

    max_words: int = Field(30, gt=0, description="words from which on a completion earns nothing")


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 - words / max_words, at least 0; `reference` is not used."""
    start = time.perf_counter()
    words = len(completion.split())
    value = max(0.0, 1 - words / config.max_words)
    return Verdict("scored", value, f"{words} words", time.perf_counter() - start)
