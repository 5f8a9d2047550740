"""Checkpoints that are whole or absent: written beside, hashed, synced, renamed; then old ones go.

A checkpoint is a folder `step_00000012` of `tensors.safetensors`, `state.json` and `manifest.json`
(size and sha256 of the other two). There is no pickle in it. Whatever instant the process dies at,
the newest folder with that name is complete; one that was damaged later is refused by its hashes.
One process writes into a folder; any number may read it meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from truing.errors import CheckpointError
from truing.train.rng import rng_state, set_rng_state

__all__ = ["Checkpoint", "load_latest", "rng_state", "save", "set_rng_state"]

logger = logging.getLogger(__name__)

_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step_(\d{8,})(?:\.(\d+))?")  # a suffix counts further saves of the same step
_TEMPORARY = ".partial_"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint; `skipped` says which newer ones were refused, and why."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path
    skipped: tuple[str, ...] = ()


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint, make it durable, then remove all but the newest `keep`; return its path.

    Args:
        folder: holds the checkpoints of one run; made when it is not there.
        step: how many steps the state has behind it.
        tensors: by name, on any device; no two may share memory.
        state: what JSON can hold; NaN and infinity are refused.
        keep: how many stay, this one included; at least 1.

    Raises:
        CheckpointError: it cannot be written (the older ones are still there), or the folder holds a
            sound checkpoint of a later step, which resuming would prefer to this one.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    _check_later(folder, step)
    partial = folder / f"{_TEMPORARY}save"
    try:
        partial.mkdir()
        _write(partial, step, tensors, state)
        path = folder / _free_name(folder, step)
        os.rename(partial, path)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: step {step} could not be saved: {error}. The older checkpoints are untouched."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _rotate(folder, path, keep)
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is sound, or None when there is none at all; changes nothing.

    A damaged one is skipped with a warning, and named in `Checkpoint.skipped`.

    Raises:
        CheckpointError: there are checkpoints and every one is damaged; the message says how.
    """
    skipped: list[str] = []
    for path in reversed(_checkpoints(folder)):
        try:
            return _load(path, tuple(skipped))
        except CheckpointError as error:
            skipped.append(str(error))
            logger.warning("checkpoint refused, trying the one before: %s", error)
    if skipped:
        raise CheckpointError(f"{folder}: no sound checkpoint is left: " + "; ".join(skipped))
    return None


def verify(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint whose files are all as they were written.

    Raises:
        CheckpointError: a file is missing, has another size or another hash, or the manifest was altered.
    """
    manifest = _read_manifest(path)
    for name, facts in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        if file.stat().st_size != facts["size"]:
            raise CheckpointError(f"{path}: {name} has {file.stat().st_size} bytes, not {facts['size']}")
        if _sha256(file) != facts["sha256"]:
            raise CheckpointError(f"{path}: {name} was altered: its sha256 is not the manifest's")
    return manifest


def _write(partial: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, str(partial / _TENSORS))
    (partial / _STATE).write_text(json.dumps(dict(state), allow_nan=False), encoding="utf-8")
    files = {}
    for name in (_TENSORS, _STATE):
        _sync(partial / name)
        files[name] = {"size": (partial / name).stat().st_size, "sha256": _sha256(partial / name)}
    (partial / _MANIFEST).write_text(_canonical({"format": _FORMAT, "step": step, "files": files}), "utf-8")
    _sync(partial / _MANIFEST)
    _sync(partial)


def _load(path: Path, skipped: tuple[str, ...]) -> Checkpoint:
    manifest = verify(path)
    try:
        tensors = load_file(str(path / _TENSORS))
        state = json.loads((path / _STATE).read_text("utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return Checkpoint(manifest["step"], tensors, state, path, skipped)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        text = (path / _MANIFEST).read_bytes()
        manifest = json.loads(text)
        files = manifest["files"]
        sound = (
            text == _canonical(manifest).encode()
            and manifest["format"] == _FORMAT
            and manifest["step"] == _key(path)[0]
            and set(files) == {_TENSORS, _STATE}
            and all(set(facts) == {"size", "sha256"} for facts in files.values())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {_MANIFEST} cannot be read: {error!r}") from error
    if not sound:
        raise CheckpointError(f"{path}: {_MANIFEST} was altered, or is of another version of Truing")
    return dict(manifest)


def _canonical(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True, indent=1) + "\n"


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()), key=_key)


def _key(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path}: the name of a checkpoint folder is step_00000012, not '{path.name}'")
    return int(match[1]), int(match[2] or 0)


def _free_name(folder: Path, step: int) -> str:
    taken = [key[1] for p in _checkpoints(folder) if (key := _key(p))[0] == step]
    return f"step_{step:08d}" + (f".{max(taken) + 1}" if taken else "")


def _check_later(folder: Path, step: int) -> None:
    for path in _checkpoints(folder):
        if _key(path)[0] <= step:
            continue
        try:
            verify(path)
        except CheckpointError as error:
            logger.warning("removing a damaged checkpoint of a later step: %s", error)
            _remove(path)
            continue
        raise CheckpointError(
            f"{folder} holds {path.name}, later than step {step}: resume from it, or use another folder"
        )


def _rotate(folder: Path, saved: Path, keep: int) -> None:
    older = [p for p in _checkpoints(folder) if p != saved]
    same_step = [p for p in older if _key(p)[0] == _key(saved)[0]]
    rest = [p for p in older if p not in same_step]
    for path in same_step + rest[: max(len(rest) - (keep - 1), 0)]:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; under its own name it is never half there."""
    doomed = path.with_name(f"{_TEMPORARY}{path.name}")
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _clean(folder: Path) -> None:
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
