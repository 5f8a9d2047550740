"""Terms of a reward that are no verdict on an answer: lengths, repetitions; one a file.

A term is a module with a docstring, a `Config` and `measure(written, config)`, which returns a number for
each completion of a step's batch, or a Verdict of another status where it has none. A verifier sees one text;
a term sees tokens, and all completions at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from truing.types import Completion, Prompt


@dataclass(frozen=True, slots=True)
class Written:
    """A completion of the batch, as a term sees it.

    Args:
        completion: its tokens, with the stop token, and its text.
        group: completions with the same number answer the same prompt.
        values: what verifiers and reward models said of it, by the name of their term.
        prompt: what it answers.
    """

    completion: Completion
    group: int
    values: Mapping[str, float] = field(default_factory=dict)
    prompt: Prompt | None = None
