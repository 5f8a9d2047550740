"""Scaling laws from run folders: which numbers are the points, and what the fit says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truing.compare.trials import UNITS, Unit, unit_text, usage
from truing.errors import DataError
from truing.evals.scaling_laws import Estimate, Fit, fit_over_optimisation, fit_sigmoid
from truing.report.elements import number
from truing.report.read import StageRecord, read_folder
from truing.report.scatter import Series, scatter_chart, standalone

Law = Literal["sigmoid", "rl", "best_of_n"]
EVALUATION = "evaluation"
KL = "policy/ref_kl_per_sequence"
_DEFAULT_X = {"sigmoid": "flops", "rl": "kl", "best_of_n": "kl"}


@dataclass(frozen=True, slots=True)
class RunFit:
    """A fit to the points of runs, and what its axes are."""

    fit: Fit
    x: str
    y: str
    folders: tuple[Path, ...]


def fit_runs(
    folders: Sequence[Path], *, law: Law = "sigmoid", stage: str | None = None, x: str | None = None,
    y: str = EVALUATION, start: float | None = None,
) -> RunFit:  # fmt: skip
    """Return the law fitted to the points of the runs, pooled.

    Args:
        folders: of the runs.
        law: "sigmoid" of reward against compute; "rl" or "best_of_n" of the gain against sqrt(KL).
        stage: its name; None takes the last one of each run.
        x: of the sigmoid flops, tokens or seconds, summed over the stage's steps, or a metric; of the others
            "kl", which is the KL that evaluations measured or else policy/ref_kl_per_sequence, or a metric
            in nats per completion, of which the square root is taken.
        y: "evaluation", the held-out pass rate, or a metric. Of an over-optimisation law it should be the
            gold reward: a verifier or a reward model that was not trained on, as a term of weight 0.
        start: y before training; None takes the first point at no compute or KL, or else the first.

    Raises:
        DataError: a run lacks the numbers; the message names those that it has.
    """
    axis = x or _DEFAULT_X[law]
    points = sorted(p for folder in folders for p in _points(folder, stage, axis, y))
    if not points:
        raise DataError(f"no point of {y} against {axis} in {', '.join(map(str, folders))}")
    first = points[0][1] if start is None else start
    places, values = [p[0] for p in points], [p[1] for p in points]
    try:
        if law == "sigmoid":
            ceiling = 1.0 if y == EVALUATION and first < 1 else math.inf
            fit = fit_sigmoid(places, values, start=first, ceiling=ceiling)
        else:
            fit = fit_over_optimisation(
                [math.sqrt(max(p, 0.0)) for p in places], [v - first for v in values], form=law
            )
    except ValueError as error:
        raise DataError(f"{', '.join(map(str, folders))}: {y} against {axis}: {error}") from error
    return RunFit(fit, axis, y, tuple(folders))


def record(found: RunFit) -> dict[str, Any]:
    """Return the fit as JSON can write it; null stands for a bound that the points do not set."""
    fit = found.fit
    estimates = {**fit.parameters, **{f"peak_{name}": e for name, e in fit.peak.items()}}
    return {
        "law": fit.form, "x": found.x, "y": found.y, "runs": [str(f) for f in found.folders],
        "confidence": fit.confidence, "start": fit.start, "num_points": len(fit.x),
        "estimates": {name: _estimate(e) for name, e in estimates.items()},
        "r_squared": _finite(fit.r_squared), "held_out_error": _finite(fit.held_out_error),
        "warnings": list(fit.warnings), "points": [list(p) for p in zip(fit.x, fit.y, strict=True)],
    }  # fmt: skip


def text(found: RunFit) -> str:
    """Return the fit as lines for people."""
    fit = found.fit
    title = {
        "sigmoid": "R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B)",
        "rl": "R = d (alpha - beta log d), d = sqrt(KL)",
        "best_of_n": "R = d (alpha - beta d), d = sqrt(KL)",
    }[fit.form]
    lines = [f"{title}   ({len(fit.x)} points of {found.y} against {found.x})"]
    estimates = {**fit.parameters, **{f"peak {name}": e for name, e in fit.peak.items()}}
    lines += [
        f"    {name}: {number(e.value)}  [{number(e.low)}, {number(e.high)}]" for name, e in estimates.items()
    ]
    lines.append(f"    R^2: {number(fit.r_squared)}")
    if math.isfinite(fit.held_out_error):
        lines.append(
            f"    mean error on the last quarter, of a fit to the rest: {number(fit.held_out_error)}"
        )
    return "\n".join([*lines, *(f"warning: {w}" for w in fit.warnings)])


def plot(found: RunFit) -> str:
    """Return the points and the law as the text of an .svg file."""
    fit = found.fit
    first, last = (min(fit.x), max(fit.x)) if fit.form == "sigmoid" else (0.0, max(fit.x))
    places = [first + (last - first) * i / 120 for i in range(121)]
    law = Series("law", [], [], curve=[(x, fit(x)) for x in places])
    points = Series("points", fit.x, fit.y, joined=False)
    over = fit.form != "sigmoid"
    x_label = f"d = sqrt({found.x}) [nats^1/2]" if over else _axis_text(found.x)
    y_label = f"{found.y}, gain" if over else found.y
    return standalone(scatter_chart([points, law], x_label=x_label, y_label=y_label))


def _axis_text(name: str) -> str:
    return unit_text(name) if name in UNITS else name


def _points(folder: Path, stage: str | None, x: str, y: str) -> list[tuple[float, float]]:
    record = read_folder(folder)
    if record.problems:
        raise DataError(f"{folder}: {record.problems[0]}")
    named = [s for s in record.stages if stage is None or s.name == stage]
    if not named:
        raise DataError(f"{folder}: there is no stage '{stage}', only {[s.name for s in record.stages]}")
    chosen = named[-1]
    if y == EVALUATION:
        found = [(_x_at(folder, chosen, x, e), float(e["rate"])) for e in _evaluations(chosen)]
    else:
        rows = [m for m in chosen.metrics if y in m]
        if not rows:
            raise DataError(f"{folder}: {_lacks(chosen, y)}")
        found = [(_x_of_row(folder, chosen, x, m), m[y]) for m in rows]
    return [(a, b) for a, b in found if math.isfinite(a) and math.isfinite(b)]


def _evaluations(stage: StageRecord) -> list[Mapping[str, Any]]:
    start = [] if stage.start is None else [{**stage.start, "step": 0}]
    found = [*start, *(e for e in stage.evaluations if e.get("when") != "before")]
    return [e for e in found if e.get("rate") is not None]


def _x_at(folder: Path, stage: StageRecord, x: str, evaluation: Mapping[str, Any]) -> float:
    step = int(evaluation["step"])
    if step == 0:
        return 0.0
    if x in UNITS:
        return _summed(folder, stage, x, step)
    if x == "kl" and evaluation.get("kl") is not None:
        return float(evaluation["kl"])
    name = KL if x == "kl" else x
    rows = [m for m in stage.metrics if name in m]
    if not rows:
        hint = "; set evaluation.kl = true" if x == "kl" else ""
        raise DataError(f"{folder}: {_lacks(stage, name)}{hint}")
    return min(rows, key=lambda m: abs(m["step"] - step))[name]


def _x_of_row(folder: Path, stage: StageRecord, x: str, row: Mapping[str, float]) -> float:
    if x in UNITS:
        return _summed(folder, stage, x, int(row["step"]))
    name = KL if x == "kl" else x
    if name not in row:
        raise DataError(f"{folder}: {_lacks(stage, name)}")
    return row[name]


def _summed(folder: Path, stage: StageRecord, unit: Unit, step: int) -> float:
    """Return what the steps before this one used: its metrics are of the policy that they made."""
    found = usage([m for m in stage.metrics if m["step"] < step])
    if step > 0 and unit not in found:
        raise DataError(f"{folder}: stage '{stage.name}' did not record {unit_text(unit)}")
    return found.get(unit, 0.0)


def _lacks(stage: StageRecord, name: str) -> str:
    known = sorted({k for m in stage.metrics for k in m} - {"step", "time_s"})
    return f"stage '{stage.name}' has no metric '{name}'; it has {', '.join(known) or 'none'}"


def _estimate(e: Estimate) -> dict[str, float | None]:
    return {"value": _finite(e.value), "low": _finite(e.low), "high": _finite(e.high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
