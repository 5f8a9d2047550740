"""What a search and what runs it say to each other.

A search of one prompt is a generator: it yields what it wants drawn or scored, is sent the outcome, and
adds what it finds to a list. It calls no model itself, so many searches run side by side, each on its own
prompt, and their requests share forward passes without ever mixing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from truing.types import FinishReason

Choice = Literal["best", "majority", "weighted"]


@dataclass(frozen=True, slots=True)
class Path:
    """Tokens that continue a prompt.

    Args:
        tokens: their ids, the stop token included where one ended it.
        end: why it cannot go on; None where it can.
        scores: of its steps, in [0, 1]; None until it is scored.
        value: the scores of the steps as one number; None until then, or where there is no step.
    """

    tokens: tuple[int, ...] = ()
    end: FinishReason | None = None
    scores: tuple[float, ...] | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """A wish for continuations of a path: to the end of the completion, or of the next step."""

    path: Path
    num_samples: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Draws:
    """Continuations to draw; the reply is a list of paths for each, shorter where the budget ended."""

    asks: tuple[Draw, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Paths to score; the reply is the same paths, without a value where the budget ended."""

    paths: tuple[Path, ...]


Search = Generator[Draws | Scores, Any, None]
Start = Callable[
    [int, list[Path]], Search
]  # begins the search of a numbered prompt, which adds what it finds


def draw(asks: Sequence[Draw]) -> Generator[Draws | Scores, Any, list[list[Path]]]:
    """Ask for continuations and return them."""
    if not asks:
        return []
    drawn: list[list[Path]] = yield Draws(tuple(asks))
    return drawn


def score(paths: Sequence[Path]) -> Generator[Draws | Scores, Any, list[Path]]:
    """Ask for the scores of paths and return the paths with them."""
    if not paths:
        return []
    scored: list[Path] = yield Scores(tuple(paths))
    return scored


def distinct(paths: Sequence[Path]) -> list[Path]:
    """Return the paths without those whose tokens came before."""
    return list({path.tokens: path for path in reversed(paths)}.values())[::-1]


def best(paths: Sequence[Path], num: int) -> list[Path]:
    """Return the `num` paths of the highest value, the earlier of equals first."""
    valued = [(path.value, path) for path in paths if path.value is not None]
    return [path for _, path in sorted(valued, key=lambda pair: -pair[0])[:num]]
