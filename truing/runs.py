"""Run folders: making one, listing them, and the model that a run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truing.errors import ModelError, TruingError
from truing.log import read_run


def new_folder(parent: str | Path, name: str) -> Path:
    """Return a new folder `<parent>/<name>-<number>`, made here so that two runs never share one."""
    for number in range(1, 1_000_000):
        folder = Path(parent) / f"{name}-{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent} holds a million runs named {name}")


def list_runs(parent: str | Path) -> list[dict[str, Any]]:
    """Return the record of every run folder, newest first, each with its `folder`.

    A folder whose record is missing or damaged is listed too: status "broken", and `problem` says why.
    """
    found = [_record(p) for p in Path(parent).glob("*") if p.is_dir() and _is_run(p)]
    return sorted(found, key=lambda r: (str(r.get("started") or ""), r["folder"]), reverse=True)


def last_model(folder: Path) -> Path:
    """Return the model folder of a run's last stage that has one.

    Raises:
        ModelError: no stage of the run has finished.
    """
    stages = _record(folder).get("stages", [])
    for stage in reversed(stages):
        if (folder / str(stage["name"]) / "model").is_dir():
            return folder / str(stage["name"]) / "model"
    raise ModelError(f"run {folder} has no finished model yet: continue it with `truing resume {folder}`")


def is_run(folder: Path) -> bool:
    """Return whether this is the folder of a run."""
    return (folder / "run.json").is_file()


def _is_run(folder: Path) -> bool:
    return is_run(folder) or (folder / "recipe.toml").is_file() or (folder / "lock").is_file()


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = read_run(folder)
        stages = [s for s in record["stages"] if isinstance(s, dict) and "name" in s]
        if len(stages) != len(record["stages"]):
            raise ValueError("its stages are not records with a name")
    except (TruingError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {"folder": str(folder), "name": folder.name, "status": "broken", "problem": str(error)}
    return {**record, "folder": str(folder)}
