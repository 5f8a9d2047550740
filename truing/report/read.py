"""A run folder as records, as much of it as there is."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from truing.errors import DataError
from truing.evals.statistics import Difference, independent_difference, paired_difference
from truing.log.jsonl import read_jsonl, read_metrics
from truing.log.run_log import read_run

T = TypeVar("T")
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage left behind."""

    entry: Record  # of run.json
    metrics: Sequence[Mapping[str, float]]
    samples: Sequence[Record]
    events: Sequence[Record]
    evaluations: Sequence[Record]
    start: Record | None  # the evaluation of the weights it started from
    end: Record | None  # the evaluation of the weights it ended with, or the last one it made

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return str(self.entry["name"])

    @property
    def difference(self) -> Difference | None:
        """Return end minus start, paired where both were measured on the same prompts."""
        return compare(self.start, self.end)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run left behind; `problems` names what could not be read."""

    folder: Path
    run: Record
    recipe: str
    events: Sequence[Record]
    stages: Sequence[StageRecord]
    problems: list[str] = field(default_factory=list)


def read_folder(folder: Path) -> RunRecord:
    """Return everything a run folder holds; a damaged file is named in `problems` and left out.

    Raises:
        ConfigError: the folder holds no run.
        DataError: its run.json is damaged.
    """
    run, problems = read_run(folder), list[str]()
    recipe = _text(folder / "recipe.toml")
    options = {s["name"]: s for s in _tables(recipe, problems) if "name" in s}
    stages = list[StageRecord]()
    for entry in run["stages"]:
        stages.append(_stage(folder / entry["name"], entry, options, stages, problems))
    events = _tolerant(read_jsonl, folder / "events.jsonl", problems)
    return RunRecord(folder, run, recipe, events, stages, problems)


def compare(before: Record | None, after: Record | None) -> Difference | None:
    """Return the difference of two evaluations, or None where one is missing or scored nothing."""
    if before is None or after is None or before is after or not (_scored(before) and _scored(after)):
        return None
    first, second = before.get("outcomes"), after.get("outcomes")
    if first and second and len(first) == len(second):
        return paired_difference(first, second) if _overlap(first, second) else None
    return independent_difference((before["passed"], _scored(before)), (after["passed"], _scored(after)))


def _stage(
    folder: Path,
    entry: Record,
    options: Mapping[str, Record],
    earlier: Sequence[StageRecord],
    problems: list[str],
) -> StageRecord:
    evaluations = _tolerant(read_jsonl, folder / "evaluations.jsonl", problems)
    start = next((e for e in evaluations if e.get("when") == "before"), None)
    end = next((e for e in reversed(evaluations) if e.get("when") != "before"), None)
    return StageRecord(
        entry=entry,
        metrics=_tolerant(read_metrics, folder / "metrics.jsonl", problems),
        samples=_tolerant(read_jsonl, folder / "samples.jsonl", problems),
        events=_tolerant(read_jsonl, folder / "events.jsonl", problems),
        evaluations=evaluations,
        start=start or _inherited(str(entry["name"]), options, earlier),
        end=end,
    )


def _inherited(name: str, options: Mapping[str, Record], earlier: Sequence[StageRecord]) -> Record | None:
    """Return the last evaluation of the stage whose model this one started from, if it was the same test."""
    own = options.get(name, {})
    feeder = next((s for s in earlier if own.get("model") == f"stage:{s.name}"), None)
    if feeder is None or options[feeder.name].get("evaluation") != own.get("evaluation"):
        return None
    return feeder.end


def _scored(evaluation: Record) -> int:
    return int(evaluation.get("num_scored", evaluation.get("num_prompts", 0)))


def _overlap(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return any(a is not None and b is not None for a, b in zip(first, second, strict=True))


def _tolerant(read: Callable[[Path], Sequence[T]], path: Path, problems: list[str]) -> Sequence[T]:
    try:
        return read(path)
    except (DataError, ValueError) as error:
        problems.append(str(error))
        return []


def _tables(recipe: str, problems: list[str]) -> list[Record]:
    try:
        return list(tomllib.loads(recipe).get("stages", []))
    except tomllib.TOMLDecodeError as error:
        problems.append(f"recipe.toml: {error}")
        return []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
