"""Agreement beside values worked out by hand or printed in the papers."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from truing.judges.agreement import (
    agreement,
    bootstrap_interval,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)

NA: Any = None
FIRST = [1] * 25 + [0] * 25
SECOND = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15  # the table 20, 5, 10, 15


def test_agreement_with_and_without_ties():
    first, second = ["A", "B", "tie", "A", "tie"], ["A", "A", "tie", "tie", "tie"]
    assert agreement(first, second) == 3 / 5
    assert agreement(first, second, without="tie") == 1 / 2
    with pytest.raises(ValueError, match="no item"):
        agreement(["tie"], ["A"], without="tie")
    with pytest.raises(ValueError, match="same items"):
        agreement(["A"], [])


def test_cohen_of_a_table():
    assert cohen_kappa(FIRST, SECOND) == pytest.approx(0.4)  # (0.7 - 0.5) / (1 - 0.5)
    assert cohen_kappa(FIRST, FIRST) == 1
    assert cohen_kappa([0, 1], [1, 0]) == -1
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))


def test_cohen_with_weights():
    first, second = [1, 1, 2, 3, 1], [1, 1, 2, 3, 3]
    assert cohen_kappa(first, second, weights="linear") == pytest.approx(1 - 0.4 / 0.96)
    assert cohen_kappa(first, second, weights="quadratic") == pytest.approx(1 - 0.8 / 1.6)
    with pytest.raises(ValueError, match="must be numbers"):
        cohen_kappa(["a", "b"], ["b", "a"], weights="linear")


def test_fleiss_of_ten_subjects_and_fourteen_raters():
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    items = [[label for label, n in enumerate(row) for _ in range(n)] for row in table]
    assert fleiss_kappa(items) == pytest.approx(0.20993, abs=1e-4)
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([[1, 2], [1, 2, 3]])


def test_krippendorff_with_missing_ratings():
    raters = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NA, NA, NA],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NA, 3],
        [NA, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NA],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NA],
    ]  # Krippendorff (2011), example C
    items = list(zip(*raters, strict=True))
    assert krippendorff_alpha(items) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(items, level="ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(items, level="interval") == pytest.approx(0.849, abs=5e-4)
    with pytest.raises(ValueError, match="two ratings"):
        krippendorff_alpha([[1], [2, NA]])


def test_raters_at_random_agree_by_chance_only():
    rng = random.Random(0)
    one, two = [[rng.choice("AAB") for _ in range(4000)] for _ in range(2)]
    assert agreement(one, two) > 0.5
    assert abs(cohen_kappa(one, two)) < 0.05
    assert abs(krippendorff_alpha(list(zip(one, two, strict=True)))) < 0.05
    assert abs(fleiss_kappa(list(zip(one, two, strict=True)))) < 0.05


def test_an_interval_covers_what_it_should():
    rng, covered, rounds = random.Random(1), 0, 120
    for _ in range(rounds):
        values = [float(rng.random() < 0.3) for _ in range(80)]
        low, high = bootstrap_interval(
            lambda rows, x=values: sum(x[i] for i in rows) / len(rows), 80, num_resamples=200
        )
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / rounds <= 0.99


def test_an_interval_says_when_it_cannot_be():
    with pytest.raises(ValueError, match="two items"):
        bootstrap_interval(lambda rows: 0.0, 1)
    with pytest.raises(ValueError, match="undefined"):
        bootstrap_interval(lambda rows: math.nan, 5)
