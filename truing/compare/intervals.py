"""Intervals of pass rates over seeds and prompts together.

Every seed answers the same prompts, so outcomes form a table, seeds down and prompts across, and neither
may be taken for independent draws of the other: a two-way random-effects analysis of variance gives

    Var(mean) = (MS_seeds + MS_prompts - MS_rest) / (S P)

with Satterthwaite's degrees of freedom (Searle, Casella and McCulloch 1992, Variance Components, ch. 4).
With few seeds the interval is wide, and that is the truth about few seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from truing.evals.statistics import paired_difference, student_quantile, wilson_interval

Outcomes = Sequence[Sequence[int | None]]  # seeds, then prompts: 1 pass, 0 fail, None not scored


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate or a difference of rates, with its interval; num_prompts are those that every seed scored."""

    value: float
    low: float
    high: float
    num_seeds: int
    num_prompts: int
    paired: bool = False


def rate_interval(outcomes: Outcomes, confidence: float = 0.95) -> Interval:
    """Return the pass rate, a mean over seeds and prompts, with its interval.

    The interval is Wilson's with the number of outcomes that would vary as much if they were independent;
    where every outcome is the same, with the number of prompts.

    Raises:
        ValueError: there is no seed, or no prompt that every seed scored.
    """
    table = _table(outcomes)
    rate, (seeds, prompts) = float(table.mean()), table.shape
    variance, df = _variance(table)
    if seeds == 1 or variance == 0:  # nothing varies over seeds that could be measured
        passed = round(rate * prompts)
        return Interval(rate, *wilson_interval(passed, prompts, confidence), seeds, prompts)
    num = min(rate * (1 - rate) / variance, float(seeds * prompts))
    low, high = _score_interval(rate, num, student_quantile(df, confidence))
    return Interval(rate, low, high, seeds, prompts)


def rate_difference(
    first: Outcomes, second: Outcomes, *, same_prompts: bool, confidence: float = 0.95
) -> Interval:
    """Return the second rate minus the first, with its interval.

    Args:
        first: the outcomes of one method.
        second: those of the other.
        same_prompts: the columns are the same prompts, so that the difference is taken prompt by prompt.
        confidence: of the interval.

    Raises:
        ValueError: no prompt was scored by every seed.
    """
    if not same_prompts:
        return _independent(_table(first), _table(second), confidence)
    both = _scored_by_all([*first, *second])
    one, two = both[: len(first)], both[len(first) :]
    value, seeds = float(two.mean() - one.mean()), min(len(one), len(two))
    variance, df = _paired_variance(one, two)
    if len(both) == 2 or variance == 0:
        found = paired_difference(one[0].astype(int).tolist(), two[0].astype(int).tolist(), confidence)
        return Interval(value, found.low, found.high, seeds, both.shape[1], paired=True)
    half = student_quantile(df, confidence) * math.sqrt(variance)
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), seeds, both.shape[1], paired=True)


def _independent(one: NDArray[np.float64], two: NDArray[np.float64], confidence: float) -> Interval:
    (first, df_1), (second, df_2) = _variance(one), _variance(two)
    value, variance = float(two.mean() - one.mean()), first + second
    df = variance**2 / (first**2 / df_1 + second**2 / df_2) if variance > 0 else min(df_1, df_2)
    half = student_quantile(df, confidence) * math.sqrt(variance)
    seeds, prompts = min(len(one), len(two)), min(one.shape[1], two.shape[1])
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), seeds, prompts)


def _table(outcomes: Outcomes) -> NDArray[np.float64]:
    if not outcomes:
        raise ValueError("there is no seed to take a rate of")
    return _scored_by_all(outcomes)


def _scored_by_all(outcomes: Outcomes) -> NDArray[np.float64]:
    """Return the outcomes of the prompts that every row scored."""
    lengths = {len(row) for row in outcomes}
    if len(lengths) != 1:
        raise ValueError(f"every seed answers the same prompts; here they answer {sorted(lengths)}")
    columns = [column for column in zip(*outcomes, strict=True) if None not in column]
    if not columns:
        raise ValueError("no prompt was scored by every seed")
    return np.array(columns, dtype=np.float64).T


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a variance and its degrees of freedom."""

    value: float
    df: float


def _seed_parts(table: NDArray[np.float64]) -> tuple[_Part, _Part]:
    """Return what seeds, and what the rest, add to the variance of the table's mean; at least two seeds."""
    seeds, prompts = table.shape
    by_seed, by_prompt, mean = table.mean(1), table.mean(0), table.mean()
    rest_df = max((seeds - 1) * (prompts - 1), 1)
    rest = float(((table - by_seed[:, None] - by_prompt[None] + mean) ** 2).sum()) / rest_df
    return _Part(float(by_seed.var(ddof=1)) / seeds, seeds - 1), _Part(rest / (seeds * prompts), rest_df)


def _prompt_part(by_prompt: NDArray[np.float64]) -> _Part:
    """Return what prompts add to the variance of the mean of these means, each over seeds."""
    num = len(by_prompt)
    return _Part(float(by_prompt.var(ddof=1)) / num if num > 1 else 0.0, max(num - 1, 1))


def _variance(table: NDArray[np.float64]) -> tuple[float, float]:
    """Return the variance of the table's mean and its degrees of freedom."""
    prompts = _prompt_part(table.mean(0))
    if len(table) == 1:
        return prompts.value, prompts.df
    of_seeds, rest = _seed_parts(table)
    return _summed([of_seeds], prompts, [rest])


def _paired_variance(one: NDArray[np.float64], two: NDArray[np.float64]) -> tuple[float, float]:
    """Return the variance of the difference of the means over the same prompts, and its degrees of freedom.

    Seeds of one method are independent of the other's, so each adds its own part; a method of one seed is
    taken to vary over seeds like the other.
    """
    prompts = _prompt_part(two.mean(0) - one.mean(0))
    several = [t for t in (one, two) if len(t) > 1]
    if not several:
        return prompts.value, prompts.df
    known = _seed_parts(several[0])
    each = [_seed_parts(t) if len(t) > 1 else _alone(known, len(several[0])) for t in (one, two)]
    return _summed([p[0] for p in each], prompts, [p[1] for p in each])


def _alone(parts: tuple[_Part, _Part], seeds: int) -> tuple[_Part, _Part]:
    """Return the parts of a single seed, from those of a mean over several."""
    of_seeds, rest = parts
    return _Part(of_seeds.value * seeds, of_seeds.df), _Part(rest.value * seeds, rest.df)


def _summed(of_seeds: Sequence[_Part], prompts: _Part, rest: Sequence[_Part]) -> tuple[float, float]:
    """Return seeds + prompts - rest, which both hold, and Satterthwaite's degrees of freedom."""
    seeds = sum(p.value for p in of_seeds)
    total = max(seeds + prompts.value - sum(p.value for p in rest), seeds, prompts.value)
    if total == 0:
        return 0.0, of_seeds[0].df
    loss = sum(p.value**2 / p.df for p in (*of_seeds, prompts, *rest))
    return total, max(total**2 / loss, 1.0)


def _score_interval(rate: float, num: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's interval for a number of outcomes that need not be whole."""
    weight = quantile**2 / num
    centre = (rate + weight / 2) / (1 + weight)
    half = quantile * math.sqrt(rate * (1 - rate) / num + weight / (4 * num)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
