"""The terms of lengths and repetitions."""

from __future__ import annotations

from typing import Any

import pytest

from truing import plugins
from truing.terms import Written
from truing.types import Completion


def written(lengths: list[int], groups: list[int] | None = None, **values: list[float]) -> list[Written]:
    return [
        Written(
            Completion(tuple(range(n)), "", (0.0,) * n, "stop"),
            (groups or [0] * len(lengths))[i],
            {name: v[i] for name, v in values.items()},
        )
        for i, n in enumerate(lengths)
    ]


def measure(term: str, rows: list[Written], **options: Any) -> list[float]:
    module = plugins.load("terms", term)
    found: list[float] = module.measure(rows, module.Config(**options))
    return found


def test_overlong_falls_to_minus_one_at_the_limit() -> None:
    found = measure("overlong", written([80, 81, 90, 100, 150]), max_tokens=100, cache=20)
    assert found == pytest.approx([0.0, -0.05, -0.5, -1.0, -1.0])


def test_the_cosine_reward_prefers_short_right_and_long_wrong_answers() -> None:
    rows = written([0, 50, 99, 0, 50, 99, 100], answer=[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    found = measure("cosine_length", rows, max_tokens=100)
    assert found[0] == 2.0 and found[1] == pytest.approx(1.5) and found[2] == pytest.approx(1.0, abs=1e-3)
    assert found[3] == -10.0 and found[4] == pytest.approx(-5.0) and found[5] == pytest.approx(0.0, abs=1e-2)
    assert found[6] == -10.0


def test_the_mean_length_term_is_relative() -> None:
    assert measure("mean_length", written([10, 20, 30])) == pytest.approx([1.0, 0.0, -1.0], abs=1e-5)
    assert measure("mean_length", written([1010, 1020, 1030])) == pytest.approx([1.0, 0.0, -1.0], abs=1e-5)
    found = measure("mean_length", written([10, 20, 110, 120], [0, 0, 1, 1]), over="group")
    assert found == pytest.approx([0.7071, -0.7071, 0.7071, -0.7071], abs=1e-4)


def test_equal_lengths_are_not_rewarded_for_rounding() -> None:
    assert measure("mean_length", written([7] * 7)) == [0.0] * 7
