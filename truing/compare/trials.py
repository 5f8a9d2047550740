"""A finished run as a trial of a method: what it had used and reached at each of its evaluations."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truing.errors import DataError
from truing.report.read import Record, StageRecord, read_folder

Unit = Literal["tokens", "flops", "seconds"]
UNITS: tuple[Unit, ...] = ("tokens", "flops", "seconds")
_UNIT_TEXT: Mapping[Unit, str] = {
    "tokens": "completion tokens", "flops": "floating-point operations", "seconds": "seconds of training"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """An evaluation: what the run had used by then, from its first stage on, and what it reached.

    Args:
        compute: tokens, flops and seconds; a unit that a run did not record is absent.
        kl: from where the last stage began [nats per completion]; None where it was not measured.
        outcomes: of each held-out prompt 1, 0, or None where it could not be scored.
    """

    step: int
    compute: Mapping[Unit, float]
    rate: float
    low: float
    high: float
    kl: float | None
    outcomes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a method: its points in the order of compute, the last one the final policy's."""

    name: str
    algorithm: str
    seed: int
    folder: Path
    evaluation: Mapping[str, Any]
    points: tuple[Point, ...]
    reward: float | None  # mean of the last steps' reward/mean; None of an offline method

    @property
    def final(self) -> Point:
        """Return the evaluation of the policy that the run ended with."""
        return self.points[-1]

    def within(self, unit: Unit, limit: float) -> Point | None:
        """Return the last evaluation that cost no more than the limit, by 2% at most; None without one."""
        found = [p for p in self.points if p.step > 0 and p.compute.get(unit, limit * 2) <= 1.02 * limit]
        return found[-1] if found else None


def unit_text(unit: Unit) -> str:
    """Return the unit in words."""
    return _UNIT_TEXT[unit]


def read_trial(folder: Path) -> Trial:
    """Return the trial of a finished run.

    Raises:
        ConfigError: the folder holds no run.
        DataError: the run is not finished, a file of it is damaged, or it was not evaluated.
    """
    record = read_folder(folder)
    if record.run.get("status") != "finished":
        raise DataError(
            f"{folder}: the run is {record.run.get('status')}, not finished: `truing resume {folder}`"
        )
    if record.problems:
        raise DataError(f"{folder}: {record.problems[0]}")
    last = record.stages[-1]
    if last.end is None or last.end.get("rate") is None:
        right = "give the recipe's last stage an evaluation"
        raise DataError(f"{folder}: stage '{last.name}' has no final evaluation that was scored; {right}")
    recipe = tomllib.loads(record.recipe)
    options = recipe.get("stage", [recipe])[-1]
    spent = usage([m for s in record.stages[:-1] for m in s.metrics])
    return Trial(
        name=str(record.run.get("name", folder.name)),
        algorithm=str(last.entry["algorithm"]),
        seed=int(options.get("seed", 0)),
        folder=folder,
        evaluation=options.get("evaluation", {}),
        points=tuple(_points(last, spent)),
        reward=_reward(last.metrics),
    )


def _points(stage: StageRecord, spent: Mapping[Unit, float]) -> list[Point]:
    start = [] if stage.start is None else [{**stage.start, "step": 0, "kl": stage.start.get("kl", 0.0)}]
    records = [*start, *(e for e in stage.evaluations if e.get("when") != "before")]
    return [_point(r, stage, spent) for r in records if r.get("rate") is not None]


def _point(record: Record, stage: StageRecord, spent: Mapping[Unit, float]) -> Point:
    step = int(record["step"])
    used = usage([m for m in stage.metrics if m["step"] < step])
    compute = {u: spent.get(u, 0.0) + used.get(u, 0.0) for u in UNITS if u in used or step == 0}
    kl = 0.0 if step == 0 else record.get("kl")
    return Point(
        step, compute, float(record["rate"]), float(record["low"]),
        float(record["high"]), None if kl is None else float(kl), tuple(record["outcomes"]),
    )  # fmt: skip


def usage(metrics: Sequence[Mapping[str, float]]) -> dict[Unit, float]:
    """Return what these steps used: tokens drawn or read, operations, seconds; units that were recorded."""
    found: dict[Unit, float] = {}
    for row in metrics:
        drawn = row.get("rollout/drawn_tokens", 0.0)
        step: dict[Unit, float | None] = {
            "tokens": max(drawn, row["train/completion_tokens"])
            if "train/completion_tokens" in row
            else None,
            "flops": row.get("train/flops"),
            "seconds": row.get("time/step_s"),
        }
        for unit, value in step.items():
            if value is not None:
                found[unit] = found.get(unit, 0.0) + value
    return found


def _reward(metrics: Sequence[Mapping[str, float]]) -> float | None:
    values = [m["reward/mean"] for m in metrics if "reward/mean" in m]
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last) if last else None
