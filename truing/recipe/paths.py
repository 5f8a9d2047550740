"""Files that a recipe names: found beside it or in the current folder, whatever folder one runs from."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truing.recipe.draft import Draft, at
from truing.recipe.method import Complaint
from truing.recipe.positions import KeyPath

REFERENCE_KINDS = ("copy", "base", "cache")


def resolve_paths(draft: Draft, folder: Path | None) -> Iterator[Complaint]:
    """Make the paths of a draft absolute, in place; yield the data files and folders that are missing.

    Args:
        folder: the recipe's; it is looked in first, except for what overrides and arguments set.
    """
    sources: tuple[KeyPath, ...] = (
        ("data", "train"), ("evaluation", "data"), ("replay", "data", "train"), ("calibration", "data"),
        ("sample", "old_rows"),
    )  # fmt: skip
    for path in sources:
        yield from _data(draft, path, folder)
    members = draft.values.get("reward_model")
    listed = [("reward_model", i) for i in range(len(members))] if isinstance(members, list) else []
    paths: list[KeyPath] = [("model",), ("reward_model",), ("reference",), *listed, *_judges(draft.values)]
    for path in paths:
        yield from _model(draft, path, folder)
    for path in _plugin_paths(draft.values):
        name = at(draft.values, path)
        if isinstance(name, str) and name.endswith(".py"):
            _replace(draft, path, _first(_candidates(draft, path, folder), Path.is_file))


def _data(draft: Draft, path: KeyPath, folder: Path | None) -> Iterator[Complaint]:
    name = at(draft.values, path)
    if not isinstance(name, str) or name.startswith("stage:"):
        return
    candidates = _candidates(draft, path, folder)
    found = _first(candidates, Path.is_file)
    if found is None:
        looked = " and ".join(str(c.parent) for c in candidates)
        what = "is a folder, not a file" if _first(candidates, Path.is_dir) else "no such file"
        yield Complaint(path, f"'{name}': {what} (looked in {looked})", _similar_file(candidates))
    _replace(draft, path, found)


def _model(draft: Draft, path: KeyPath, folder: Path | None) -> Iterator[Complaint]:
    name = at(draft.values, path)
    if not isinstance(name, str) or name.startswith("stage:") or name in REFERENCE_KINDS:
        return
    candidates = _candidates(draft, path, folder)
    found = _first(candidates, Path.is_dir)
    if found is None and name.startswith(("/", "./", "../", "~")):
        looked = " and ".join(map(str, candidates))
        yield Complaint(path, f"no such folder: {looked}", "a model's folder, or a hub id such as owner/name")
    _replace(draft, path, found)


def _judges(values: dict[str, Any]) -> Iterator[KeyPath]:
    """Yield where judges in this process are named; at a URL a model's name is the endpoint's."""
    rewards = values.get("rewards")
    for name in rewards if isinstance(rewards, dict) else ():
        endpoint = at(values, ("rewards", name, "endpoint"))
        if isinstance(endpoint, dict) and "url" not in endpoint:
            yield ("rewards", name, "endpoint", "model")


def _plugin_paths(values: dict[str, Any]) -> Iterator[KeyPath]:
    yield from (("algorithm",), ("sampler", "engine"), ("evaluation", "verifier"))
    yield ("environment", "name")
    yield from (("data", "train", "generator"), ("evaluation", "data", "generator"))
    yield from (("replay", "data", "train", "generator"), ("calibration", "data", "generator"))
    yield ("sample", "old_rows", "generator")
    rewards = values.get("rewards")
    for name in rewards if isinstance(rewards, dict) else ():
        yield from (("rewards", name, key) for key in ("verifier", "term", "judge"))


def _candidates(draft: Draft, path: KeyPath, folder: Path | None) -> list[Path]:
    name = Path(os.path.expanduser(at(draft.values, path)))  # leaves `~unknown` alone, unlike pathlib
    roots = [Path.cwd()] if folder is None else [folder.resolve(), Path.cwd()]
    if draft.where(path).startswith(("override", "argument")):
        roots.reverse()
    return list(dict.fromkeys(root / name for root in roots))


def _first(candidates: list[Path], is_there: Any) -> Path | None:
    return next((Path(os.path.abspath(c)) for c in candidates if _safely(is_there, c)), None)


def _safely(is_there: Any, path: Path) -> bool:
    try:
        return bool(is_there(path))
    except (OSError, ValueError):  # a name that no file system can hold
        return False


def _replace(draft: Draft, path: KeyPath, found: Path | None) -> None:
    if found is not None:
        at(draft.values, path[:-1])[path[-1]] = str(found)


def _similar_file(candidates: list[Path]) -> str:
    for candidate in candidates:
        others = [p.name for s in ("jsonl", "json", "parquet") for p in candidate.parent.glob(f"*.{s}")]
        near = difflib.get_close_matches(candidate.name, others, n=1)
        if near:
            return f"did you mean {near[0]}?"
    return "a .jsonl, .json or .parquet file, relative to the recipe or to the current folder"
