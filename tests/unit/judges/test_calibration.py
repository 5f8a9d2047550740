"""Corrections of a win rate: exact where errors are known, and intervals that cover."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from truing.judges.calibration import (
    against_people,
    calibration_error,
    corrected_rate,
    prediction_powered_mean,
    reliability,
)


def test_a_rate_is_corrected_by_the_known_errors():
    known_people = [True] * 100 + [False] * 100
    known_judge = [True] * 90 + [False] * 10 + [True] * 30 + [False] * 70
    judge = [True] * 54 + [False] * 46  # 0.4 * 0.9 + 0.6 * 0.3
    found = corrected_rate(judge, known_judge, known_people)
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high
    assert found.high - found.low > 0.196  # wider than 54 of 100 itself


def test_a_judge_without_errors_is_believed_but_for_the_doubt_in_its_calibration():
    known = [True, False] * 5000
    found = corrected_rate([True] * 700 + [False] * 300, known, known)
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.671, 0.728), abs=2e-3)


@pytest.mark.parametrize("true_rate", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.8, 0.7), (0.95, 0.9)])
def test_the_corrected_interval_covers(true_rate, sensitivity, specificity):
    rng, rounds, covered, naive, values = random.Random(7), 400, 0, 0, list[float]()

    def judged(is_true: bool) -> bool:
        return rng.random() < (sensitivity if is_true else 1 - specificity)

    known = [True] * 80 + [False] * 80
    for _ in range(rounds):
        judge = [judged(rng.random() < true_rate) for _ in range(400)]
        found = corrected_rate(judge, [judged(h) for h in known], known)
        covered += found.low <= true_rate <= found.high
        values.append(found.value)
        half = 1.96 * (fmean(judge) * (1 - fmean(judge)) / 400) ** 0.5
        naive += abs(fmean(judge) - true_rate) <= half
    assert 0.92 <= covered / rounds <= 0.995
    assert fmean(values) == pytest.approx(true_rate, abs=0.03)
    if abs(true_rate * sensitivity + (1 - true_rate) * (1 - specificity) - true_rate) > 0.05:
        assert naive / rounds < 0.6, "the judge's own interval would do: the test shows nothing"


def test_a_judge_no_better_than_chance_is_an_error():
    with pytest.raises(ValueError, match="no better than chance"):
        corrected_rate([True, False], [True, False] * 4, [True, True, False, False] * 2)
    with pytest.raises(ValueError, match=r"false \(0\)"):
        corrected_rate([True], [True], [True])


@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0])
def test_a_mean_with_ties_is_corrected_and_its_interval_covers(noise):
    rng, rounds, covered, widths = random.Random(3), 300, 0, list[float]()

    def person() -> float:
        return rng.choices([1.0, 0.5, 0.0], [0.5, 0.2, 0.3])[0]

    def judge(true: float) -> float:  # it likes the first slot, too
        return rng.choice([1.0, 0.5]) if rng.random() < noise else max(true, 0.5 * (rng.random() < 0.3))

    for _ in range(rounds):
        people = [person() for _ in range(100)]
        found = prediction_powered_mean(
            [judge(person()) for _ in range(600)], [judge(h) for h in people], people
        )
        covered += found.low <= 0.6 <= found.high
        widths.append(found.high - found.low)
    assert 0.915 <= covered / rounds <= 0.99
    alone = 2 * 1.96 * (0.19 / 100) ** 0.5  # of a hundred labels without a judge
    assert fmean(widths) < (0.75 * alone if noise < 1 else 1.03 * alone)


def test_what_a_calibrated_judge_says_is_what_is_true():
    rng = random.Random(0)
    said = [rng.random() for _ in range(5000)]
    true = [float(rng.random() < p) for p in said]
    assert calibration_error(said, true) < 0.03
    sure = [float(p > 0.5) for p in said]
    assert calibration_error(sure, true) == pytest.approx(0.25, abs=0.03)
    curve = reliability([0.05, 0.05, 1.0], [0.0, 1.0, 1.0])
    assert [(b.said, b.true, b.count) for b in curve] == [(0.05, 0.5, 2), (1.0, 1.0, 1)]
    assert calibration_error([0.05, 0.05, 1.0], [0.0, 1.0, 1.0]) == pytest.approx(2 / 3 * 0.45)


def test_agreement_with_people_by_name():
    found = against_people([1.0, 0.0, 0.5, 0.9, 0.2], [1.0, 1.0, 0.5, 1.0, 0.0])
    assert found["agreement"].value == 4 / 5
    assert found["agreement_without_ties"].value == 3 / 4
    assert found["agreement_without_ties"].count == 4
    for estimate in found.values():
        assert estimate.low <= estimate.value <= estimate.high
    assert set(against_people([1.0, 1.0], [1.0, 1.0])) == {"agreement", "agreement_without_ties"}
    with pytest.raises(ValueError, match="two items"):
        against_people([1.0], [1.0])
