"""The run folder: everything one run was told, did and found, as files a person can read.

RUN/run.json        status, times, versions, machine, and each stage's progress and evaluations
RUN/recipe.toml     the resolved recipe        RUN/command.txt     the command that made it
RUN/versions.json   what it ran on             RUN/events.jsonl    what happened to the run
RUN/report.html     written at the end by truing.report
RUN/STAGE/          metrics.jsonl, samples.jsonl, events.jsonl, evaluations.jsonl, checkpoints/, model/
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from truing.errors import ConfigError, DataError
from truing.log.jsonl import append, encode, keep_lines, read_jsonl, replace_file
from truing.log.machine import machine, process_started, versions

RunStatus = Literal["running", "finished", "failed", "interrupted"]

_EVALUATION_KEYS = (
    "when", "step", "num_prompts", "num_scored", "passed", "rate", "low", "high", "mean_tokens", "statuses",
    "kl", "kl_low", "kl_high",
)  # fmt: skip


class RunLog:
    """Writes a run folder; `run.json` is replaced whole, so a reader never sees half of it."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        """Use `create` or `open`."""
        self.folder, self._record = folder, record

    @classmethod
    def create(cls, folder: Path, *, name: str, recipe_toml: str, command: str) -> RunLog:
        """Return the log of a new run.

        Raises:
            ConfigError: the folder holds a run already.
        """
        if (folder / "run.json").exists():
            raise ConfigError(f"{folder} holds a run already: resume it, or name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(recipe_toml, encoding="utf-8")
        (folder / "command.txt").write_text(command + "\n", encoding="utf-8", errors="backslashreplace")
        log = cls(folder, {"name": name, "started": _now(), "command": command, "stages": []})
        log._begin()
        return log

    @classmethod
    def open(cls, folder: Path) -> RunLog:
        """Return the log of a run that is continued; its status is running again.

        Raises:
            ConfigError: the folder holds no run.
            DataError: its run.json is damaged.
        """
        log = cls(folder, _load(folder))
        log._begin()
        log.event("continued", "the run is continued")
        return log

    def stage(self, name: str, algorithm: str, num_steps: int) -> StageLog:
        """Return the log of a stage: a new one, or the one that the run already has under this name."""
        if name in {".", ".."}:
            raise ConfigError(f"a stage is a folder of its run and cannot be named {name!r}")
        entry = next((s for s in self._record["stages"] if s["name"] == name), None)
        if entry is None:
            entry = {"name": name, "step": 0, "seconds": 0.0, "metrics": {}, "evaluations": []}
            self._record["stages"].append(entry)
        entry |= {
            "algorithm": algorithm,
            "status": "running",
            "num_steps": num_steps or entry.get("num_steps", 0),
        }
        self.save()
        return StageLog(self, entry)

    def stage_status(self, name: str) -> RunStatus | None:
        """Return how a stage stands, or None when it never began."""
        return next((s["status"] for s in self._record["stages"] if s["name"] == name), None)

    def event(self, kind: str, message: str, /, **facts: Any) -> None:
        """Record what happened to the run as a whole: an error, a continuation."""
        append(self.folder / "events.jsonl", {"time": _now(), "kind": kind, "message": message, **facts})

    def finish(self, status: RunStatus) -> None:
        """Close the run; a stage that is still running ended the same way."""
        for entry in self._record["stages"]:
            if entry["status"] == "running":
                entry["status"] = status
        self._record |= {"status": status, "ended": _now()}
        self.save()

    def save(self) -> None:
        """Write run.json."""
        text = json.dumps(json.loads(encode(self._record)), ensure_ascii=False, indent=1)
        replace_file(self.folder / "run.json", text.encode("utf-8", errors="backslashreplace"))

    def _begin(self) -> None:
        found = versions()
        self._record |= {
            "status": "running",
            "ended": None,
            "pid": os.getpid(),
            "process_started": process_started(os.getpid()),
            "versions": found,
            "machine": machine(),
        }
        replace_file(self.folder / "versions.json", json.dumps(found, indent=1).encode())
        self.save()


class StageLog:
    """Writes the folder of one stage and its entry in run.json."""

    def __init__(self, run: RunLog, entry: dict[str, Any]) -> None:
        """Use `RunLog.stage`; what a crash left half written is cut off."""
        self.folder: Path = run.folder / entry["name"]
        self.folder.mkdir(exist_ok=True)
        self._run, self._entry = run, entry
        self._last_step, self._seconds_before, self._started = -1, 0.0, 0.0
        for name in ("metrics", "samples", "events", "evaluations"):
            keep_lines(self._file(name), lambda _: True)
        self._set_clock()

    def planned(self, num_steps: int) -> None:
        """Set how many steps the stage takes, once that is known."""
        self._update(num_steps=num_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step's metrics. A step that was logged before is being redone: it is dropped first."""
        if step <= self._last_step:
            self.rewind(step)
        seconds = round(self._seconds_before + time.monotonic() - self._started, 3)
        append(self._file("metrics"), {"step": step, "time_s": seconds, **values})
        self._last_step = step
        self._update(step=step + 1, seconds=seconds, metrics=dict(values))

    def sample(
        self,
        step: int,
        *,
        prompt: str,
        completion: str,
        reference: Any = None,
        reward: float | None = None,
        verdicts: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        split: Literal["train", "evaluation"] = "train",
    ) -> None:
        """Append one completion.

        Args:
            step: of a training sample the step that drew it, of an evaluation the steps done before it.
            reward: None where a verifier could not say.
            split: where the prompt is from.
        """
        record = {
            "step": step, "split": split, "prompt": prompt, "completion": completion, "reference": reference,
            "reward": reward, "verdicts": verdicts or {}, "finish_reason": finish_reason,
        }  # fmt: skip
        append(self._file("samples"), record)

    def event(self, kind: str, message: str, /, **facts: Any) -> None:
        """Append what happened: a resume, a refused checkpoint, a tracker that failed."""
        append(self._file("events"), {"time": _now(), "kind": kind, "message": message, **facts})

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Append an evaluation: `when` (before, step, after), `step` (steps done), counts and interval."""
        append(self._file("evaluations"), record)
        short = {key: record[key] for key in _EVALUATION_KEYS if key in record}
        self._update(evaluations=[*self._entry["evaluations"], short])

    def rewind(self, step: int) -> None:
        """Forget everything after the first `step` steps: a run that resumes there makes it again.

        Metrics and training samples of steps >= step go; evaluations of more than `step` steps go.
        Events stay, for they are history.
        """
        keep_lines(self._file("metrics"), lambda line: line["step"] < step)
        keep_lines(self._file("samples"), lambda line: _done_before(line, step))
        keep_lines(self._file("evaluations"), lambda line: line["step"] <= step)
        kept = [e for e in self._entry["evaluations"] if e["step"] <= step]
        last = self._set_clock()
        values = {name: value for name, value in last.items() if name not in ("step", "time_s")}
        self._update(step=min(step, self._last_step + 1), evaluations=kept, metrics=values)

    def finish(self, status: RunStatus) -> None:
        """Close the stage."""
        self._update(status=status)

    def _set_clock(self) -> dict[str, Any]:
        rows = read_jsonl(self._file("metrics"))
        last = rows[-1] if rows else {}
        self._last_step = int(last.get("step", -1))
        self._seconds_before = float(last.get("time_s", 0.0))
        self._started = time.monotonic()
        return last

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _update(self, **facts: Any) -> None:
        self._entry.update(facts)
        self._run.save()


def read_run(folder: Path) -> dict[str, Any]:
    """Return run.json; a run whose process is gone from this machine is "interrupted", not "running".

    Raises:
        ConfigError: the folder holds no run.
        DataError: its run.json is damaged.
    """
    record = _load(folder)
    started = process_started(record["pid"]) if record.get("status") == "running" else None
    if record.get("status") == "running" and not _same_time(started, record.get("process_started")):
        record["status"] = "interrupted"
        for entry in record["stages"]:
            entry["status"] = "interrupted" if entry["status"] == "running" else entry["status"]
    return record


def _done_before(sample: Mapping[str, Any], step: int) -> bool:
    done: int = sample["step"] + (sample.get("split") != "evaluation")
    return done <= step


def _same_time(found: float | None, recorded: float | None) -> bool:
    return found is not None and recorded is not None and abs(found - recorded) < 5  # clocks are adjusted


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder: it has no run.json. `truing runs` lists the runs.")
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(record, dict) or "stages" not in record:
        raise DataError(f"{path}: not the record of a run: it has no stages")
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
