"""Fits recover what made the data, their intervals cover it, and they say when they guess."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import t

from truing.evals.scaling_laws import (
    Fit,
    fit_over_optimisation,
    fit_sigmoid,
    over_optimisation,
    peak_of,
    sigmoid,
)
from truing.evals.statistics import (
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_reward,
    student_quantile,
)
from truing.evals.votes import aggregate_steps, weighted_majority, weighted_votes

LAW = {"asymptote": 0.62, "slope": 1.6, "midpoint": 3000.0}


def noisy_sigmoid(seed: int, compute: np.ndarray, noise: float = 0.01) -> list[float]:
    generator = np.random.default_rng(seed)
    return [sigmoid(c, start=0.3, **LAW) + generator.normal(0, noise) for c in compute]


def covered(fit: Fit, truth: dict[str, float]) -> dict[str, bool]:
    found = fit.parameters | fit.peak
    return {name: found[name].low <= value <= found[name].high for name, value in truth.items()}


@pytest.mark.parametrize(("form", "alpha", "beta"), [("best_of_n", 0.9, 0.06), ("rl", 0.9, 0.3)])
def test_intervals_of_over_optimisation_cover_the_truth(form, alpha, beta):
    d = np.linspace(0.5, 12, 8)
    peak, gain = peak_of(form, alpha=alpha, beta=beta)
    truth = {"alpha": alpha, "beta": beta, "d": peak, "kl": peak**2, "gain": gain}
    hits = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        y = [over_optimisation(form, x, alpha=alpha, beta=beta) + generator.normal(0, 0.1) for x in d]
        hits.append(covered(fit_over_optimisation(d, y, form=form, num_resamples=300, seed=seed), truth))
    for name in truth:
        assert 0.87 <= fmean(h[name] for h in hits) <= 0.99, name


def test_intervals_of_the_sigmoid_cover_the_truth():
    compute = np.geomspace(300, 20000, 14)
    hits = [
        covered(fit_sigmoid(compute, noisy_sigmoid(s, compute), start=0.3, num_resamples=120, seed=s), LAW)
        for s in range(60)
    ]
    for name in LAW:
        assert fmean(h[name] for h in hits) >= 0.86, name


def test_intervals_over_prompts_cover_the_truth():
    d, hits = np.array([1.0, 2.0, 4.0, 8.0, 12.0]), []
    truth = np.array([over_optimisation("best_of_n", x, alpha=0.9, beta=0.06) for x in d])
    for seed in range(150):
        generator = np.random.default_rng(seed)
        easy = generator.normal(0, 1.0, (60, 1)) * d / 6  # prompts differ, and more so far from the start
        values = truth + easy + generator.normal(0, 0.5, (60, len(d)))
        found = fit_over_optimisation(
            d, values.mean(0), form="best_of_n", per_prompt=values.T.tolist(), num_resamples=300, seed=seed
        )
        hits.append(covered(found, {"alpha": 0.9, "beta": 0.06}))
    assert 0.88 <= fmean(h["alpha"] for h in hits) <= 0.99
    assert 0.88 <= fmean(h["beta"] for h in hits) <= 0.99


def test_the_fit_is_the_least_squares_fit():
    d = [0.5, 1.0, 2.0, 4.0, 8.0, 12.0]
    y = [0.4, 0.9, 1.5, 2.7, 3.3, 2.2]
    best = fit_over_optimisation(d, y, form="rl", num_resamples=10)

    def squares(alpha: float, beta: float) -> float:
        return sum(
            (over_optimisation("rl", x, alpha=alpha, beta=beta) - v) ** 2 for x, v in zip(d, y, strict=True)
        )

    a, b = best.parameters["alpha"].value, best.parameters["beta"].value
    assert all(squares(a, b) <= squares(a + i, b + j) for i in (-1e-3, 0, 1e-3) for j in (-1e-3, 0, 1e-3))
    assert best(4.0) == pytest.approx(over_optimisation("rl", 4.0, alpha=a, beta=b))


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    compute = np.geomspace(300, 20000, 10)
    y = noisy_sigmoid(0, compute)
    one, two, other = (fit_sigmoid(compute, y, start=0.3, num_resamples=50, seed=s) for s in (1, 1, 2))
    assert one == two
    assert one.parameters != other.parameters


def test_points_that_do_not_reach_the_peak_are_called_out():
    d = np.linspace(0.5, 12, 12)
    y = [over_optimisation("best_of_n", x, alpha=0.9, beta=0.06) + 0.02 * (-1) ** i for i, x in enumerate(d)]
    assert fit_over_optimisation(d, y, form="best_of_n", num_resamples=100).warnings == ()
    early = fit_over_optimisation(d[:5], y[:5], form="best_of_n", num_resamples=100)
    assert "do not pass the peak" in early.warnings[0]


def test_a_reward_that_never_falls_has_no_peak():
    d = [1.0, 2.0, 3.0, 4.0]
    found = fit_over_optimisation(d, [1.0, 2.1, 3.2, 4.5], form="best_of_n", num_resamples=50)
    assert found.peak["d"].value == math.inf and "do not pass the peak" in found.warnings[0]


@pytest.mark.parametrize("seed", range(8))
def test_compute_that_does_not_reach_the_midpoint_is_called_out(seed):
    compute = np.geomspace(50, 1500, 12)
    found = fit_sigmoid(compute, noisy_sigmoid(seed, compute), start=0.3, ceiling=1.0, num_resamples=100)
    said = " ".join(found.warnings)
    assert "do not surely pass the midpoint" in said or "do not determine the slope" in said


def test_an_asymptote_at_its_ceiling_is_called_out():
    compute = np.geomspace(300, 20000, 10)
    found = fit_sigmoid(compute, noisy_sigmoid(0, compute), start=0.3, ceiling=0.5, num_resamples=20)
    assert found.parameters["asymptote"].value == pytest.approx(0.5)
    assert any("at its ceiling" in w for w in found.warnings)


def test_compute_that_passes_the_midpoint_gives_no_warning():
    compute = np.geomspace(300, 30000, 14)
    assert not fit_sigmoid(compute, noisy_sigmoid(3, compute), start=0.3, num_resamples=100).warnings


def test_a_fit_to_the_start_predicts_the_rest_where_the_law_holds():
    compute = np.geomspace(300, 40000, 16)
    assert fit_sigmoid(compute, noisy_sigmoid(0, compute), start=0.3, num_resamples=10).held_out_error < 0.02
    few = fit_sigmoid(compute[:5], noisy_sigmoid(0, compute)[:5], start=0.3, num_resamples=10)
    assert math.isnan(few.held_out_error)


def test_residuals_that_hang_together_are_called_out():
    d = np.linspace(0.5, 12, 40)
    y = [over_optimisation("rl", x, alpha=0.9, beta=0.3) + 0.2 * math.sin(x) for x in d]
    found = fit_over_optimisation(d, y, form="rl", num_resamples=50)
    assert any("neighbouring residuals" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("d", "y", "message"),
    [
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], "at least 3 different points above 0"),
        ([1.0, 2.0, math.nan], [0.0, 1.0, 2.0], "finite"),
        ([-1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0], "x must be 0 or more"),
    ],
)
def test_points_that_cannot_be_fitted_are_refused(d, y, message):
    with pytest.raises(ValueError, match=message):
        fit_over_optimisation(d, y, form="rl")


def test_per_prompt_values_must_be_those_of_the_points():
    with pytest.raises(ValueError, match="per_prompt"):
        fit_over_optimisation([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], form="rl", per_prompt=[[0.0, 1.0]] * 3)


def test_best_of_n_reward_is_the_mean_over_all_subsets_also_with_ties():
    proxy, gold = [1.0, 2.0, 2.0, 0.0, 3.0, 3.0, 3.0], [0.3, 1.0, -1.0, 2.0, 0.5, 4.0, -2.0]
    for n in range(1, 8):
        tops = []
        for subset in itertools.combinations(range(7), n):
            best = max(proxy[i] for i in subset)
            tops.append(fmean(gold[i] for i in subset if proxy[i] == best))
        assert best_of_n_reward(proxy, gold, n) == pytest.approx(fmean(tops))


def test_best_of_n_kl_nears_its_bound_with_many_outcomes():
    assert best_of_n_distribution([0.2, 0.3, 0.5], 1) == pytest.approx([0.2, 0.3, 0.5])
    gaps = [best_of_n_kl_bound(8) - best_of_n_kl([1 / k] * k, 8) for k in (4, 40, 4000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.01
    with pytest.raises(ValueError, match="sum to 1"):
        best_of_n_kl([0.5, 0.4], 2)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 30, 999, 5000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_quantile_agrees_with_scipy(df, confidence):
    assert student_quantile(df, confidence) == pytest.approx(t.ppf((1 + confidence) / 2, df), rel=1e-5)


def test_student_quantile_between_whole_numbers_errs_to_the_wide_side():
    for df in (1.3, 2.5, 7.7):
        assert 1.0 <= student_quantile(df) / t.ppf(0.975, df) < 1.04


def test_an_answer_that_cannot_be_parsed_never_votes():
    assert weighted_votes(["7", None, "7"], [0.2, 5.0, 0.3]) == {"7": 0.5}
    assert weighted_majority([None, None]) is None
    with pytest.raises(ValueError, match="without steps"):
        aggregate_steps([], "min")
