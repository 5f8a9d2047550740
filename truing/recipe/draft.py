"""A recipe before it is checked: its values, and where each came from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truing.recipe.positions import KeyPath

ATOMIC = "generator"  # a table with this key replaces another one instead of being merged into it


@dataclass(slots=True)
class Document:
    """The values of a whole recipe; `origins` says for each key path where it was set."""

    source: str
    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Return where the path, or else the nearest table around it, was set."""
        return nearest(self.origins, path, self.source)

    def put(self, path: KeyPath, value: Any, where: str) -> None:
        """Set a value, merging tables; None removes the key. Raises KeyError, TypeError."""
        target: Any = self.values
        for part in path[:-1]:
            target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
            if not isinstance(target, dict | list):
                raise TypeError(f"'{part}' is no table")
        last = path[-1]
        if value is None:
            del target[last]
        elif not isinstance(target, dict):
            raise TypeError(f"'{path[-2]}' is no table")
        elif isinstance(value, Mapping) and isinstance(target.get(last), dict):
            target[last] = merged(target[last], value)
        else:
            target[last] = copy.deepcopy(value)
            self._forget(path)
        self._note(path, value, where)

    def _forget(self, path: KeyPath) -> None:
        for known in [k for k in self.origins if k[: len(path)] == path]:
            del self.origins[known]

    def _note(self, path: KeyPath, value: Any, where: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                self._note((*path, key), inner, where)
        self.origins[path] = where


@dataclass(slots=True)
class Draft:
    """One stage before it is checked.

    Args:
        values: its keys, the recipe's defaults merged in.
        origins: where each key was set, by path within the stage.
        defaults: paths that only the recipe's top level set.
        start: where the stage begins.
        prefix: how its keys are addressed from outside: "" or "stages.NAME.".
    """

    values: dict[str, Any]
    origins: dict[KeyPath, str]
    defaults: frozenset[KeyPath]
    start: str
    prefix: str

    def where(self, path: KeyPath) -> str:
        """Return where the path, or else the nearest table around it, was set."""
        return nearest(self.origins, path, self.start)

    def key(self, path: KeyPath) -> str:
        """Return the dotted key as an override would name it."""
        known = table_part(path)
        while known and known not in self.origins and known not in self.defaults:
            known = known[:-1]  # a missing key belongs to the table that misses it
        return (("" if known in self.defaults else self.prefix) + dotted(path)).rstrip(".")


def drafts(document: Document) -> list[Draft]:
    """Return the drafts of a document's stages: one, or one for each [[stage]] table."""
    shared = {k: v for k, v in document.values.items() if k not in ("name", "output", "stage")}
    top = {p: w for p, w in document.origins.items() if p[0] in shared}
    if "stage" not in document.values:
        return [Draft(copy.deepcopy(shared), top, frozenset(), document.source, "")]
    return [_stage_draft(document, shared, top, i) for i in range(len(document.values["stage"]))]


def _stage_draft(document: Document, shared: dict[str, Any], top: dict[KeyPath, str], index: int) -> Draft:
    own = document.values["stage"][index]
    inner = {p[2:]: w for p, w in document.origins.items() if p[:2] == ("stage", index) and len(p) > 2}
    given = {"steps", "epochs"} & own.keys()  # a stage's own epochs replace the recipe's steps
    values = merged({k: v for k, v in shared.items() if not given or k not in ("steps", "epochs")}, own)
    paths = set(walk(values))
    return Draft(
        values=values,
        origins={p: w for p, w in (top | inner).items() if table_part(p) in paths},
        defaults=frozenset(paths - set(walk(own))),
        start=document.where(("stage", index)),
        prefix=f"stages.{own.get('name', index)}.",
    )


def table_part(path: KeyPath) -> KeyPath:
    """Return the path up to the first array element in it."""
    return next((path[:i] for i, part in enumerate(path) if isinstance(part, int)), path)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over`, tables merged all the way down."""
    out = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and ATOMIC not in value:
            out[key] = merged(old, value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def walk(values: Mapping[Any, Any], path: KeyPath = ()) -> list[KeyPath]:
    """Return the path of every key, tables included."""
    found: list[KeyPath] = []
    for key, value in values.items():
        found.append((*path, key))
        if isinstance(value, Mapping):
            found += walk(value, (*path, key))
    return found


def dotted(path: KeyPath) -> str:
    """Return `learner.betas[0]` of ("learner", "betas", 0)."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".")


def at(values: Any, path: KeyPath) -> Any:
    """Return the value at a path; None where there is none."""
    for part in path:
        if isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
            continue
        if not (isinstance(values, Mapping) and part in values):
            return None
        values = values[part]
    return values


def nearest(origins: Mapping[KeyPath, str], path: KeyPath, otherwise: str) -> str:
    """Return the origin of the longest known beginning of the path."""
    for size in range(len(path), 0, -1):
        if path[:size] in origins:
            return origins[path[:size]]
    return otherwise
