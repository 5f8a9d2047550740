from __future__ import annotations

import random

import pytest
from scipy.stats import binomtest, bootstrap

from truing.evals.statistics import (
    bootstrap_mean_interval,
    independent_difference,
    paired_difference,
    pass_at_k,
    wilson_interval,
)


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[int], list[int]]:
    """Return (before, after) with the four cells of a paired 2x2 table."""
    before = [1] * both + [1] * lost + [0] * gained + [0] * neither
    after = [1] * both + [0] * lost + [1] * gained + [0] * neither
    return before, after


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_numbers_of_newcombe_1998_table_1(passed, total, low, high):
    assert wilson_interval(passed, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("passed", "total"), [(0, 1), (1, 1), (3, 7), (64, 64), (250, 1000)])
def test_wilson_agrees_with_scipy(passed, total, confidence):
    expected = binomtest(passed, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(passed, total, confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


@pytest.mark.parametrize(("passed", "total"), [(0, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_impossible_counts(passed, total):
    with pytest.raises(ValueError, match="passed must be in"):
        wilson_interval(passed, total)


def test_independent_difference_gives_the_numbers_of_newcombe_1998():
    found = independent_difference((48, 80), (56, 70))
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((36, 2, 12, 0), 0.0569, 0.3404),  # Newcombe (1998), method 10
        ((14, 0, 5, 22), 0.0115, 0.2265),  # Altman et al. (2000), Statistics with Confidence, table 6.2
        ((1, 7, 1, 12), -0.5069, -0.0256),  # Fagerland et al. (2014): -0.507 to -0.026
        ((0, 0, 0, 50), -0.0713, 0.0713),  # no variation, and yet no interval of width 0
    ],
)
def test_paired_difference_gives_published_numbers(cells, low, high):
    found = paired_difference(*outcomes(*cells))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.difference == pytest.approx((cells[2] - cells[1]) / sum(cells))


def test_paired_difference_counts_who_changed_and_tests_it_exactly():
    found = paired_difference(*outcomes(36, 2, 12, 0))
    assert (found.gained, found.lost, found.num_prompts) == (12, 2, 50)
    assert found.p_value == pytest.approx(binomtest(2, 14).pvalue)


def test_pairing_narrows_the_interval_when_the_outcomes_are_correlated():
    paired = paired_difference(*outcomes(30, 2, 8, 60))
    unpaired = independent_difference((32, 100), (38, 100))
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)


def test_swapping_before_and_after_mirrors_the_interval():
    before, after = outcomes(20, 5, 12, 30)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_prompts_that_were_not_scored_both_times_do_not_count_as_fails():
    found = paired_difference([1, 0, None, 1, 0], [1, 1, 1, None, 0])
    assert (found.num_prompts, found.before, found.after) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_paired_difference_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1, 0], [1])
    with pytest.raises(ValueError, match="no prompt was scored"):
        paired_difference([None, 1], [1, None])
    with pytest.raises(ValueError, match="an outcome must be"):
        paired_difference([2, 0], [1, 1])


def test_bootstrap_agrees_with_scipy_and_repeats_with_its_seed():
    generator = random.Random(3)
    values = [generator.gauss(0.4, 1.0) for _ in range(80)]
    low, high = bootstrap_mean_interval(values, num_resamples=4000, seed=1)
    expected = bootstrap((values,), _mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert bootstrap_mean_interval(values, seed=5) == bootstrap_mean_interval(values, seed=5)
    assert bootstrap_mean_interval(values, seed=5) != bootstrap_mean_interval(values, seed=6)


def _mean(values, axis):
    return values.mean(axis)


def test_bootstrap_refuses_a_nan():
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean_interval([0.1, float("nan"), 0.2])


@pytest.mark.parametrize(
    ("num", "passed", "k", "expected"),
    [
        (1, 1, 1, 1.0),
        (5, 0, 3, 0.0),
        (10, 3, 1, 0.3),
        (4, 2, 2, 5 / 6),
        (5, 3, 3, 1.0),
        (200, 20, 100, 0.9999991),
    ],
)
def test_pass_at_k_is_the_hypergeometric_chance(num, passed, k, expected):
    assert pass_at_k(num, passed, k) == pytest.approx(expected, abs=1e-6)


def test_pass_at_k_is_unbiased():
    generator, rate, k = random.Random(0), 0.2, 4
    draws = [sum(generator.random() < rate for _ in range(10)) for _ in range(20000)]
    mean = sum(pass_at_k(10, c, k) for c in draws) / len(draws)
    assert mean == pytest.approx(1 - (1 - rate) ** k, abs=0.01)


def test_pass_at_k_refuses_a_k_larger_than_the_sample():
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(4, 1, 5)
