"""A world of 2 x 2 x 2 steps: every completion can be enumerated, and what is best is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from truing.rollout.sampler import SamplingParams
from truing.search import Engine, Grammar, Path
from truing.types import Completion

STOP, STEPS, DEPTH = 0, (1, 2), 3
LEAVES = tuple(product(STEPS, repeat=DEPTH))
# P(the end is right) after each prefix: greedy goes to 1, and all that is good lies below 2.
VALUES = {(1,): 0.6, (2,): 0.5, (1, 1): 0.4, (1, 2): 0.45, (2, 1): 0.3, (2, 2): 0.7} | {
    leaf: 0.1 + 0.1 * sum(leaf) for leaf in LEAVES
}
VALUES[2, 2, 2] = 1.0


class Policy:
    """Draws each step with probability 1/2, then stops; what it draws depends on seed, prompt and sample."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.generated = 0

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        self.calls.append(len(prompts))
        times = [prompts[:i].count(p) for i, p in enumerate(prompts)]  # a prompt asked twice is drawn anew
        return [
            [self._one(tuple(p), params, i + 1000 * again) for i in range(num_samples)]
            for p, again in zip(prompts, times, strict=True)
        ]

    def publish(self, version: int) -> None:
        raise AssertionError("a search publishes nothing")

    def _one(self, prompt: tuple[int, ...], params: SamplingParams, sample: int) -> Completion:
        random = np.random.default_rng([params.seed, sample, *prompt])
        tokens = list[int]()
        while len(tokens) < params.max_tokens and (not tokens or tokens[-1] not in params.stop_token_ids):
            full = len(prompt) - 1 + len(tokens) >= DEPTH
            tokens.append(STOP if full else int(random.integers(1, 3)))
        self.generated += len(tokens)
        ended = tokens[-1] in params.stop_token_ids
        return Completion(tuple(tokens), str(tokens), (0.0,) * len(tokens), "stop" if ended else "length")


class Table:
    """A process reward model as a table; `constant` knows nothing."""

    prefixes = True

    def __init__(self, constant: float | None = None) -> None:
        self.constant, self.read = constant, 0

    def cost(self, problem: int, paths: Sequence[Path]) -> int:
        return sum(1 + len(path.tokens) for path in paths)

    def score(self, asks: Sequence[tuple[int, Path]]) -> list[tuple[float, ...]]:
        self.read += sum(1 + len(path.tokens) for _, path in asks)
        return [
            tuple(self._value(path.tokens[: i + 1]) for i in range(min(len(path.tokens), DEPTH)))
            for _, path in asks
        ]

    def _value(self, tokens: tuple[int, ...]) -> float:
        return VALUES[tokens] if self.constant is None else self.constant


@pytest.fixture
def grammar() -> Grammar:
    return Grammar(
        frozenset({STOP}), frozenset(STEPS), frozenset(), lambda tokens: " ".join(map(str, tokens))
    )


@pytest.fixture
def world(grammar: Grammar) -> Any:
    """Return a function that makes an engine on the world, with its sampler and its scorer."""

    def make(constant: float | None = None, **how: Any) -> Engine:
        return Engine(Policy(), grammar, Table(constant), max_tokens=DEPTH + 1, **how)

    return make


@pytest.fixture
def leaves() -> tuple[tuple[int, ...], ...]:
    return LEAVES


@pytest.fixture
def values() -> dict[tuple[int, ...], float]:
    return VALUES
