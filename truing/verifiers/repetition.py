"""How much of a completion is new: 1 minus the share of its word n-grams that were there before.

Yeo et al. 2025, arXiv:2502.03373, appendix C.2, take the same share as a penalty: this verifier with a
weight w gives w (1 - share), which differs from the penalty by the constant w. As a term of a reward it
needs a partner that says whether the completion is right: silence repeats nothing.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import Field

from truing.config import Strict
from truing.math.lengths import repeated_share
from truing.types import Verdict
from truing.verifiers import Example


class Config(Strict):
    """What counts as a repetition."""

    ngram: int = Field(4, ge=1, le=50, description="words that are looked at together")
    min_words: int = Field(
        1, ge=0, description="a completion of fewer words scores 0: it avoids the question"
    )


EXAMPLES: tuple[Example, ...] = (
    Example("gold", "one two three four five six seven"),
    Example("gold", "a b c", options={"ngram": 2}),
    Example("wrong", "a b a b a", value=0.5, options={"ngram": 2}),
    Example("malformed", "", value=0.0),
    Example("cheat", "ha " * 67, value=1 - 63 / 64),
    Example("cheat", "ok", value=0.0, options={"min_words": 5}),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 - repeated share in [0, 1]; `reference` is not used."""
    start = time.perf_counter()
    words = completion.split()
    if len(words) < config.min_words:
        value, evidence = 0.0, f"{len(words)} words, fewer than {config.min_words}"
    else:
        value = 1.0 - repeated_share(words, ngram=config.ngram)
        evidence = f"{1 - value:.0%} of its {config.ngram}-grams were there before"
    return Verdict("scored", value, evidence, time.perf_counter() - start)
