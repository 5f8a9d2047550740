"""Scaling laws of alignment, fitted with intervals: reward against KL, and reward against compute.

Over-optimisation of a proxy reward (Gao, Schulman and Hilton 2022, arXiv:2210.10760): with
d = sqrt(KL from the start policy) and R the gain in the gold reward, R(0) = 0,

    best-of-n   R = d (alpha - beta d)        peak at d = alpha / (2 beta)
    RL          R = d (alpha - beta log d)    peak at d = exp(alpha / beta - 1)

Compute (Khatri et al. 2025, ScaleRL, arXiv:2510.13786, eq. 1): with R_0 the value before training, given,

    R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B)

Intervals are bootstrap percentiles: over prompts where each point comes with the values of its prompts,
else over residuals, each divided by sqrt(1 - leverage), with the percentiles of Student's distribution
(Hesterberg 2015, The American Statistician 69:371-386: plain percentiles are too narrow for few points).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from truing.evals.sigmoid_fit import SLOPES, fit_sigmoids
from truing.evals.statistics import student_quantile

Form = Literal["best_of_n", "rl", "sigmoid"]
Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A fitted number and its interval; infinite where the data set no bound."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted law: what it says, how well it holds, and how far to trust it.

    Args:
        form: which law.
        parameters: alpha and beta; or asymptote, slope and midpoint.
        peak: of the over-optimisation laws the place d, the KL [nats] and the gain at the peak.
        start: R_0 of the compute law; 0 of the others.
        r_squared: share of the variance of the points that the law explains.
        held_out_error: mean |error| on the last quarter of the points of a fit to the others; NaN with
            fewer than eight points.
        warnings: why the numbers may mislead.
        x: of the points: d, or compute.
        y: of the points: the gain in gold reward, or the reward.
    """

    form: Form
    parameters: dict[str, Estimate]
    peak: dict[str, Estimate]
    start: float
    r_squared: float
    held_out_error: float
    confidence: float
    warnings: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, x: float) -> float:
        """Return what the law says at x."""
        p = {name: e.value for name, e in self.parameters.items()}
        if self.form == "sigmoid":
            return sigmoid(
                x, asymptote=p["asymptote"], slope=p["slope"], midpoint=p["midpoint"], start=self.start
            )
        return over_optimisation(self.form, x, alpha=p["alpha"], beta=p["beta"])


def over_optimisation(form: Form, d: float, *, alpha: float, beta: float) -> float:
    """Return the gain in gold reward at distance d = sqrt(KL); 0 at d = 0.

    Raises:
        ValueError: d is negative, or the form is no over-optimisation law.
    """
    if d < 0 or form not in ("best_of_n", "rl"):
        raise ValueError(f"needs d >= 0 and the form best_of_n or rl, got d={d} and {form}")
    if d == 0:
        return 0.0
    return d * (alpha - beta * (d if form == "best_of_n" else math.log(d)))


def peak_of(form: Form, *, alpha: float, beta: float) -> tuple[float, float]:
    """Return (d, gain) where the gain in gold reward is greatest; both infinite where it never falls."""
    if beta <= 0:
        return math.inf, math.inf
    if form == "best_of_n":
        d = max(alpha, 0.0) / (2 * beta)
        return d, d * (alpha - beta * d)
    power = alpha / beta - 1
    if power > 300:
        return math.inf, math.inf
    return math.exp(power), beta * math.exp(power)


def sigmoid(compute: float, *, asymptote: float, slope: float, midpoint: float, start: float) -> float:
    """Return R_0 + (A - R_0) / (1 + (C_mid / C)^B); the start value at no compute.

    Raises:
        ValueError: compute is negative, or midpoint or slope is not above 0.
    """
    if compute < 0 or not (midpoint > 0 and slope > 0):
        raise ValueError(
            f"needs compute >= 0, midpoint > 0 and slope > 0, got {compute}, {midpoint}, {slope}"
        )
    if compute == 0:
        return start
    return start + (asymptote - start) / (1 + math.exp(min(slope * math.log(midpoint / compute), 700.0)))


def fit_over_optimisation(
    d: Sequence[float],
    gain: Sequence[float],
    *,
    form: Literal["best_of_n", "rl"],
    per_prompt: Sequence[Sequence[float]] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Fit:
    """Return the law of gold reward against d = sqrt(KL), by ordinary least squares.

    Args:
        d: sqrt(KL) of each point; a point at 0 is left out, for the law is 0 there.
        gain: gold reward minus that of the start policy.
        form: of best-of-n, or of RL.
        per_prompt: a list for each point, with the gain on each prompt, the same prompts in each.
        confidence: of the intervals.
        num_resamples: of the bootstrap.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: there are fewer than three points with d > 0, or a value is not finite.
    """
    x, y, prompts = _checked(d, gain, per_prompt, least=3)
    design = np.stack([x, -x * (x if form == "best_of_n" else np.log(x))], axis=1)
    solve = np.linalg.pinv(design)

    def least_squares(rows: Array) -> Array:
        return rows @ solve.T

    (best,) = least_squares(y[None])
    leverage = np.einsum("ij,ji->i", design, solve)
    drawn = _resampled(y, design @ best, leverage, prompts, num_resamples, seed)
    draws = least_squares(drawn)
    tail = _tail(confidence, None if prompts is not None else len(x) - 2)
    peaks = np.array([peak_of(form, alpha=a, beta=b) for a, b in draws])
    d_peak, gain_peak = peak_of(form, alpha=best[0], beta=best[1])
    peak = {
        "d": _estimate(d_peak, peaks[:, 0], tail),
        "kl": _estimate(d_peak**2, peaks[:, 0] ** 2, tail),
        "gain": _estimate(gain_peak, peaks[:, 1], tail),
    }
    parameters = {n: _estimate(best[i], draws[:, i], tail) for i, n in enumerate(("alpha", "beta"))}

    def extrapolated(first: slice, rest: slice) -> Array:
        found: Array = design[rest] @ (np.linalg.pinv(design[first]) @ y[first])
        return found

    warnings = _residual_warnings(y - design @ best)
    if not x.max() > peak["d"].high:
        reach = (
            f"the points end at d = {x.max():.3g}; the peak is at {d_peak:.3g} (up to {peak['d'].high:.3g})"
        )
        warnings = [f"the points do not pass the peak: {reach}, so it is extrapolated", *warnings]
    return Fit(
        form, parameters, peak, 0.0, _r_squared(y, design @ best), _held_out(y, extrapolated), confidence,
        tuple(warnings), tuple(x.tolist()), tuple(y.tolist()),
    )  # fmt: skip


def fit_sigmoid(
    compute: Sequence[float],
    reward: Sequence[float],
    *,
    start: float,
    ceiling: float = math.inf,
    per_prompt: Sequence[Sequence[float]] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 500,
    seed: int = 0,
) -> Fit:
    """Return the sigmoid of reward against the logarithm of compute, by non-linear least squares.

    Args:
        compute: of each point, above 0, in any unit; the midpoint is in the same. A point at 0 is left out.
        reward: of each point.
        start: R_0, the value before any training; it is given, not fitted.
        ceiling: the most that the asymptote can be: 1 of a pass rate.
        per_prompt: a list for each point, with the reward on each prompt, the same prompts in each.
        confidence: of the intervals.
        num_resamples: of the bootstrap.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: fewer than four points, a value that is not finite, or a start that is not below the
            ceiling.
    """
    x, y, prompts = _checked(compute, reward, per_prompt, least=4)
    if not start < ceiling:
        raise ValueError(f"start is {start}; it must be below the ceiling of {ceiling}")
    best = fit_sigmoids(x, y[None], start=start, ceiling=ceiling)
    fitted = best.at(x, start)[0]
    leverage = np.full(len(x), 3 / len(x))
    drawn = _resampled(y, fitted, leverage, prompts, num_resamples, seed)
    draws = fit_sigmoids(x, drawn, start=start, ceiling=ceiling, guess=best)
    tail = _tail(confidence, None if prompts is not None else len(x) - 3)
    pairs = {"asymptote": (best.asymptote, draws.asymptote), "slope": (best.slope, draws.slope),
             "midpoint": (best.midpoint, draws.midpoint)}  # fmt: skip
    parameters = {name: _estimate(value[0], sample, tail) for name, (value, sample) in pairs.items()}

    def extrapolated(first: slice, rest: slice) -> Array:
        found: Array = fit_sigmoids(x[first], y[None, first], start=start, ceiling=ceiling).at(
            x[rest], start
        )[0]
        return found

    warnings = [*_reach_warnings(x, parameters["midpoint"]), *_residual_warnings(y - fitted)]
    slope = parameters["slope"]
    if slope.low < SLOPES[0] * 1.01 or slope.high > SLOPES[1] * 0.99:
        warnings.append(
            f"the points do not determine the slope: {slope.low:.3g} to {slope.high:.3g} reaches its limits"
        )
    if best.asymptote[0] > ceiling - 1e-9:
        warnings.append(
            f"the asymptote is at its ceiling of {ceiling:g}: the points do not show where they end"
        )
    if best.asymptote[0] <= start:
        warnings.append("the reward does not rise: the points show no learning to extrapolate")
    return Fit(
        "sigmoid", parameters, {}, start, _r_squared(y, fitted), _held_out(y, extrapolated), confidence,
        tuple(warnings), tuple(x.tolist()), tuple(y.tolist()),
    )  # fmt: skip


def _reach_warnings(x: Array, midpoint: Estimate) -> list[str]:
    if x.max() > midpoint.high:
        return []
    where = f"they end at {x.max():.3g}; it is {midpoint.value:.3g} (up to {midpoint.high:.3g})"
    return [f"the points do not surely pass the midpoint C_mid: {where}, so the asymptote is a guess"]


def _checked(
    x: Sequence[float], y: Sequence[float], per_prompt: Sequence[Sequence[float]] | None, *, least: int
) -> tuple[Array, Array, Array | None]:
    """Return points in the order of x, without those at 0, and the prompts' values [prompts, points]."""
    places, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if places.shape != values.shape or not (np.isfinite(places).all() and np.isfinite(values).all()):
        raise ValueError(f"points need finite x and y, as many of each; got {len(places)} and {len(values)}")
    if (places < 0).any():
        raise ValueError(f"x must be 0 or more, got {places.min():.4g}")
    order = np.argsort(places, kind="stable")
    order = order[places[order] > 0]
    if len(np.unique(places[order])) < least:
        raise ValueError(
            f"needs at least {least} different points above 0, got {len(np.unique(places[order]))}"
        )
    if per_prompt is None:
        return places[order], values[order], None
    prompts = np.asarray(per_prompt, dtype=np.float64).T
    if prompts.shape[1:] != places.shape or not np.allclose(prompts.mean(0), values):
        raise ValueError("per_prompt needs the values of each point's prompts, whose mean is the point's y")
    return places[order], values[order], prompts[:, order]


def _resampled(y: Array, fitted: Array, leverage: Array, prompts: Array | None, num: int, seed: int) -> Array:
    """Return `num` rows of points: means over drawn prompts, or fitted values and drawn residuals."""
    generator = np.random.default_rng(seed)
    if prompts is not None:
        counts = generator.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=num)
        means: Array = counts @ prompts / len(prompts)
        return means
    residuals = (y - fitted) / np.sqrt(np.clip(1 - leverage, 1e-6, None))
    drawn: Array = generator.choice(residuals - residuals.mean(), size=(num, len(y)))
    return fitted + drawn


def _tail(confidence: float, df: int | None) -> float:
    """Return the share of draws on each side of the interval; a smaller one for few degrees of freedom."""
    if df is None:
        return (1 - confidence) / 2
    return NormalDist().cdf(-student_quantile(max(df, 1), confidence))


def _estimate(value: float, draws: Array, tail: float) -> Estimate:
    low = np.quantile(draws, tail, method="lower")
    high = np.quantile(draws, 1 - tail, method="higher")
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


def _r_squared(y: Array, fitted: Array) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / spread if spread > 0 else math.nan


def _held_out(y: Array, extrapolated: Callable[[slice, slice], Array]) -> float:
    """Return the mean |error| on the last quarter of the points of a fit to the others."""
    if len(y) < 8:
        return math.nan
    first, rest = slice(0, len(y) - len(y) // 4), slice(len(y) - len(y) // 4, None)
    return float(np.abs(y[rest] - extrapolated(first, rest)).mean())


def _residual_warnings(residuals: Array) -> list[str]:
    """Return a warning where neighbouring residuals agree: the law or the independence fails."""
    scale = float((residuals**2).sum())
    if len(residuals) < 10 or scale < 1e-18:
        return []
    correlation = float((residuals[1:] * residuals[:-1]).sum()) / scale
    if correlation < 2 / math.sqrt(len(residuals)):
        return []
    return [f"neighbouring residuals correlate by {correlation:.2f}, so the intervals are too narrow"]
