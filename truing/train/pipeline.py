"""A recipe run from its first stage to its report, or continued where it stopped."""

from __future__ import annotations

import fcntl
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing.config import Recipe, Stage
from truing.errors import ConfigError
from truing.log import Progress, RunLog, open_trackers, read_jsonl, read_metrics
from truing.model.scalar import is_scalar
from truing.recipe import load_recipe, resolved
from truing.report import write_report
from truing.runs import new_folder
from truing.train.build import build
from truing.train.loop import train
from truing.train.policy import Policy
from truing.train.sample import ROWS, drawing, provenance, run_sampling


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: its folder, its metrics as a table, and its last policy."""

    folder: Path
    metrics: list[dict[str, Any]]  # one row a step: stage, step and every metric
    evaluations: list[dict[str, Any]]
    policy: Policy | None  # None when the last stage trained a reward model, or sampled


def run(
    recipe: Recipe, *, folder: Path | None = None, argv: Sequence[str] | None = None, quiet: bool = False
) -> RunResult:
    """Train every stage of the recipe and write the report.

    Args:
        folder: the run folder; None makes `<output>/<name>-<number>`.
        argv: the command to record; None records the interpreter's.
        quiet: no progress on the terminal.
    """
    folder = folder or new_folder(recipe.output, recipe.name)
    command = " ".join(argv if argv is not None else sys.argv)
    log = RunLog.create(folder, name=recipe.name, recipe_toml=resolved(recipe), command=command)
    return _execute(recipe, log, quiet)


def resume(folder: Path, *, quiet: bool = False) -> RunResult:
    """Continue a run at its newest sound checkpoint; finished stages are not run again.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not (folder / "recipe.toml").is_file():
        raise ConfigError(f"{folder} is no run folder: it has no recipe.toml. `truing runs` lists the runs.")
    return _execute(load_recipe(folder / "recipe.toml"), RunLog.open(folder), quiet)


def _execute(recipe: Recipe, log: RunLog, quiet: bool) -> RunResult:
    progress = Progress(quiet=quiet)
    with _locked(log.folder), progress:
        status = "failed"
        try:
            for index, stage in enumerate(recipe.stages):
                _run_stage(recipe, index, stage, log, progress)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception as error:
            log.event("error", str(error), type=type(error).__name__)
            raise
        finally:
            log.finish(status)
            write_report(log.folder)
    return result(log.folder, recipe)


def _run_stage(recipe: Recipe, index: int, stage: Stage, log: RunLog, progress: Progress) -> None:
    folder = log.folder / stage.name
    if log.stage_status(stage.name) == "finished":
        return
    stage = _with_rows(stage, log.folder)
    if stage.algorithm is None:
        _sample_rows(stage, log, progress)
        return
    stage_log = log.stage(stage.name, stage.algorithm, stage.steps or 0)
    tracker = open_trackers(
        stage.log.trackers,
        f"{recipe.name}-{stage.name}",
        stage.model_dump(mode="json"),
        folder=log.folder / "tensorboard",
        warn=lambda message: stage_log.event("tracker_failed", message),
    )
    try:
        made = build(
            stage,
            model=_locate(stage.model, log.folder),
            reward_model=_each(stage.reward_model, log.folder),
            reference=_maybe(stage.reference, log.folder),
            folder=folder,
            log=stage_log,
            progress=progress,
            tracker=tracker,
        )
        stage_log.planned(made.num_steps)
        progress.stage(stage.name, stage.algorithm, made.num_steps)
        if not made.restore() and _wants_before(recipe, index, stage_log):
            made.evaluate("before", 0)
        progress.restart_clock()
        train(made)
        if not _evaluated(stage_log, "after"):
            made.evaluate("after", made.num_steps)
        if made.calibrate is not None:
            made.calibrate()
        made.learner.release()
        made.networks.save(folder / "model")
        stage_log.finish("finished")
    finally:
        tracker.close()
    del made
    gc.collect()


def _sample_rows(stage: Stage, log: RunLog, progress: Progress) -> None:
    """Run a stage that samples; its rows lie in its folder, where later stages look for them."""
    stage_log, folder = log.stage(stage.name, "sample", 0), log.folder / stage.name
    progress.phase("load")
    model, scorers = _locate(stage.model, log.folder), _each(stage.reward_model, log.folder)
    drawn = drawing(stage, model=model, reward_model=scorers)
    stage_log.planned(drawn.num_steps)
    progress.stage(stage.name, "sample", drawn.num_steps)
    run_sampling(drawn, folder, provenance(stage, model), stage_log, progress)
    stage_log.finish("finished")
    del drawn
    gc.collect()


def _with_rows(stage: Stage, run: Path) -> Stage:
    """Return the stage with `stage:NAME` in the place of rows replaced by the file that NAME wrote."""

    def found(table: Any, key: str) -> Any:
        source = getattr(table, key, None)
        if not isinstance(source, str) or not source.startswith("stage:"):
            return table
        return table.model_copy(update={key: str(run / source.removeprefix("stage:") / ROWS)})

    replay = stage.replay and stage.replay.model_copy(update={"data": found(stage.replay.data, "train")})
    return stage.model_copy(
        update={
            "data": found(stage.data, "train"),
            "replay": replay,
            "calibration": found(stage.calibration, "data"),
            "sample": found(stage.sample, "old_rows"),
        }
    )


def _wants_before(recipe: Recipe, index: int, log: Any) -> bool:
    """Return whether the start must be measured: not where the stage before measured the same policy."""
    stage = recipe.stages[index]
    if stage.evaluation is None or not stage.evaluation.before or _evaluated(log, "before"):
        return False
    feeder = next((s for s in recipe.stages if stage.model == f"stage:{s.name}"), None)
    return feeder is None or feeder.evaluation != stage.evaluation


def _evaluated(log: Any, when: str) -> bool:
    return any(e["when"] == when for e in read_jsonl(log.folder / "evaluations.jsonl"))


def _locate(name: str, run: Path) -> str:
    return str(run / name.removeprefix("stage:") / "model") if name.startswith("stage:") else name


def _each(names: str | list[str] | None, run: Path) -> str | list[str] | None:
    return [_locate(n, run) for n in names] if isinstance(names, list) else _maybe(names, run)


def _maybe(name: str | None, run: Path) -> str | None:
    return None if name is None else _locate(name, run)


def result(folder: Path, recipe: Recipe) -> RunResult:
    """Return the records of a finished run and its last policy."""
    metrics, evaluations = [], []
    for stage in recipe.stages:
        metrics += [{"stage": stage.name, **m} for m in read_metrics(folder / stage.name / "metrics.jsonl")]
        evaluations += [
            {"stage": stage.name, **e} for e in read_jsonl(folder / stage.name / "evaluations.jsonl")
        ]
    last = folder / recipe.stages[-1].name / "model"
    silent = recipe.stages[-1].algorithm is None or is_scalar(last)
    return RunResult(folder, metrics, evaluations, None if silent else Policy(str(last)))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: two processes in one would spoil each other's checkpoints."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder} is in use by another process") from error
        yield
