"""What a comparison says: each method's rate, compute and KL, and the differences between methods."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.compare.budget import Budget
from truing.compare.execute import Failure
from truing.compare.intervals import Interval, rate_difference, rate_interval
from truing.compare.trials import UNITS, Point, Trial, Unit, unit_text
from truing.errors import DataError

_NEAR = 0.1  # a method further from the others' compute than this is called out


@dataclass(frozen=True, slots=True)
class Method:
    """A method's trials and what they reached: at their end, and at the compute that every method reached."""

    name: str
    algorithm: str
    trials: tuple[Trial, ...]
    final: Interval
    equal: Interval | None  # None where a trial has no evaluation within the common compute
    compute: Mapping[Unit, float]  # mean over the trials, at their end
    kl: float | None  # mean over the trials, at their end
    reward: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods side by side; `differences` are each method minus the first one, in the same order.

    Args:
        unit: of compute, that "equal" is about.
        common: the compute that every trial reached.
        equal: whether the differences are at the common compute; else at the end of each run.
        same_prompts: every method answered the same held-out prompts, so differences are paired.
    """

    unit: Unit
    budget: Budget | None
    common: float
    equal: bool
    same_prompts: bool
    methods: tuple[Method, ...]
    differences: Mapping[str, Interval]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the comparison as JSON can write it."""
        return {
            "unit": self.unit, "budget": None if self.budget is None else self.budget.amount,
            "common_compute": self.common, "differences_at_equal_compute": self.equal,
            "same_prompts": self.same_prompts, "warnings": list(self.warnings),
            "methods": [_method_record(m) for m in self.methods],
            "differences": {name: _interval_record(i) for name, i in self.differences.items()},
            "failures": [{"name": f.name, "seed": f.seed, "folder": str(f.folder), "message": f.message}
                         for f in self.failures],
        }  # fmt: skip


def compare(
    trials: Sequence[Trial], *, unit: Unit = "flops", budget: Budget | None = None,
    failures: Sequence[Failure] = (),
) -> Comparison:  # fmt: skip
    """Return the comparison of the trials; trials of one name are seeds of one method.

    Raises:
        DataError: a trial did not record the unit, or trials of one name are not of one method.
    """
    named: dict[str, list[Trial]] = {}
    for trial in trials:
        named.setdefault(trial.name, []).append(trial)
    for name, group in named.items():
        _check(name, group, unit)
    if not named:
        raise DataError("no run finished, so there is nothing to compare: " + _said(failures))
    common = min(t.final.compute[unit] for t in trials)
    methods = tuple(_method(name, group, unit, common) for name, group in named.items())
    same = all(_prompts(t) == _prompts(trials[0]) for t in trials)
    equal = all(m.equal is not None for m in methods)
    first = _outcomes(methods[0], unit, common, equal)
    differences = {
        m.name: rate_difference(first, _outcomes(m, unit, common, equal), same_prompts=same)
        for m in methods[1:]
    }
    warnings = _warnings(methods, unit, budget, equal, same) + [
        f"{f.name}, seed {f.seed}, broke" for f in failures
    ]
    return Comparison(
        unit, budget, common, equal, same, methods, differences, tuple(failures), tuple(warnings)
    )  # fmt: skip


def _check(name: str, group: Sequence[Trial], unit: Unit) -> None:
    for trial in group:
        if unit not in trial.final.compute:
            right = "choose another --unit, or run it again with this version"
            raise DataError(f"{trial.folder}: its steps did not record {unit_text(unit)}; {right}")
    kinds = {(t.algorithm, str(sorted(t.evaluation.items(), key=str))) for t in group}
    if len(kinds) > 1:
        raise DataError(
            f"runs of the name '{name}' differ in algorithm or evaluation, so they are not seeds of one "
            f"method: {', '.join(str(t.folder) for t in group)}; give them different names"
        )
    seeds = [t.seed for t in group]
    if len(set(seeds)) < len(seeds):
        raise DataError(f"runs of the name '{name}' share a seed ({sorted(seeds)}): the same run counts once")


def _method(name: str, group: Sequence[Trial], unit: Unit, common: float) -> Method:
    points = [p for p in (t.within(unit, common) for t in group) if p is not None]
    kls = [t.final.kl for t in group if t.final.kl is not None]
    rewards = [t.reward for t in group if t.reward is not None]
    units: tuple[Unit, ...] = tuple(u for u in UNITS if all(u in t.final.compute for t in group))
    return Method(
        name=name,
        algorithm=group[0].algorithm,
        trials=tuple(group),
        final=rate_interval([t.final.outcomes for t in group]),
        equal=rate_interval([p.outcomes for p in points]) if len(points) == len(group) else None,
        compute={u: statistics.fmean(t.final.compute[u] for t in group) for u in units},
        kl=statistics.fmean(kls) if len(kls) == len(group) else None,
        reward=statistics.fmean(rewards) if rewards else None,
    )


def _outcomes(method: Method, unit: Unit, common: float, equal: bool) -> list[tuple[int | None, ...]]:
    if not equal:
        return [t.final.outcomes for t in method.trials]
    points: list[Point | None] = [t.within(unit, common) for t in method.trials]
    return [p.outcomes for p in points if p is not None]


def _prompts(trial: Trial) -> str:
    return str([trial.evaluation.get(k) for k in ("data", "limit")])


def _warnings(
    methods: Sequence[Method], unit: Unit, budget: Budget | None, equal: bool, same: bool
) -> list[str]:
    found, used = list[str](), {m.name: m.compute[unit] for m in methods}
    target = budget.amount if budget is not None and budget.unit == unit else min(used.values())
    for name, amount in used.items():
        if abs(amount / target - 1) > _NEAR:
            found.append(f"{name} ended at {amount / target:.2f} times the {unit} it is compared at")
    if not equal:
        found.append(
            "a method has no evaluation within the common compute, so the rates are at the end of each run "
            "and not at equal compute: set evaluation.every, or give --budget"
        )
    if not same:
        found.append("the methods answered different held-out prompts: differences are not paired")
    how = {str([t.evaluation.get(k) for k in ("verifier", "options", "max_tokens", "temperature")])
           for m in methods for t in m.trials}  # fmt: skip
    if len(how) > 1:
        found.append(
            "the evaluations differ in verifier, length or temperature: the rates are not of one test"
        )
    found += [
        f"{m.name} has one seed: its interval is over prompts only, and says nothing of another seed"
        for m in methods if len(m.trials) == 1
    ]  # fmt: skip
    return found


def _said(failures: Sequence[Failure]) -> str:
    return "; ".join(f"{f.name}, seed {f.seed}: {f.message}" for f in failures) or "no run was given"


def _method_record(method: Method) -> dict[str, Any]:
    return {
        "name": method.name, "algorithm": method.algorithm, "seeds": [t.seed for t in method.trials],
        "folders": [str(t.folder) for t in method.trials], "final": _interval_record(method.final),
        "at_equal_compute": None if method.equal is None else _interval_record(method.equal),
        "compute": {str(u): amount for u, amount in method.compute.items()},
        "kl": method.kl, "reward": method.reward,
        "points": [[_point_record(p) for p in t.points] for t in method.trials],
    }  # fmt: skip


def _point_record(point: Point) -> dict[str, Any]:
    return {"step": point.step, "rate": point.rate, "kl": point.kl} | {
        str(u): v for u, v in point.compute.items()
    }


def _interval_record(interval: Interval) -> dict[str, Any]:
    return {
        "value": interval.value, "low": interval.low, "high": interval.high, "seeds": interval.num_seeds,
        "prompts": interval.num_prompts, "paired": interval.paired,
    }  # fmt: skip
