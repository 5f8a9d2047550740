"""`learner.learning_rate=1e-6`: dotted keys with TOML values, laid over a recipe."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from truing.errors import Problem
from truing.recipe.draft import Document, at
from truing.recipe.positions import KeyPath, split_key


def apply_overrides(document: Document, overrides: Sequence[str]) -> list[Problem]:
    """Lay `key=value` overrides over a document, in order; `key=` removes the key. Returns what is wrong."""
    problems = list[Problem]()
    for number, text in enumerate(overrides, start=1):
        where = f"override #{number} ({text})"
        key, equals, value = text.partition("=")
        if not equals:
            right = "write key=value, for example learner.learning_rate=1e-6"
            problems.append(Problem(where, "", "has no '='", right))
            continue
        try:
            path = split_key(key)
        except ValueError as error:
            problems.append(Problem(where, key, str(error), "write dotted keys, for example data.limit=100"))
            continue
        problems += _put(document, path, parse_value(value), where)
    return problems


def apply_keys(document: Document, keys: Mapping[str, Any]) -> list[Problem]:
    """Lay Python keyword arguments over a document; None removes a key. Returns what is wrong."""
    problems = list[Problem]()
    for key, value in keys.items():
        problems += _put(document, (key,), value, f"argument {key}")
    return problems


def parse_value(text: str) -> Any:
    """Return the TOML value that the text is, the text itself where it is none, and None for nothing."""
    text = text.strip()
    if not text:
        return None
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text


def _put(document: Document, key: tuple[str, ...], value: Any, where: str) -> list[Problem]:
    path, problem = _address(document, key, where)
    if problem is None:
        problem = _shadowed(document, path, where)
    if problem is not None:
        return [problem]
    dotted = ".".join(key)
    try:
        document.put(path, value, where)
    except TypeError as error:
        return [Problem(where, dotted, str(error), "set the whole table, or another key")]
    except LookupError:
        return [Problem(where, dotted, "cannot remove what is not set", "leave this override out")]
    return []


def _address(document: Document, key: tuple[str, ...], where: str) -> tuple[KeyPath, Problem | None]:
    if key[0] not in ("stages", "stage") or "stage" not in document.values:
        return key, None
    names = [str(s.get("name")) for s in document.values["stage"]]
    dotted = ".".join(key)
    if len(key) < 3:
        right = "name a stage and a key: stages.NAME.KEY=value"
        return key, Problem(where, dotted, "stages are not set as a whole", right)
    if key[1] not in names:
        near = difflib.get_close_matches(key[1], names, n=1)
        right = (f"did you mean stages.{near[0]}? " if near else "") + f"The stages are: {', '.join(names)}"
        return key, Problem(where, dotted, f"there is no stage '{key[1]}'", right)
    return ("stage", names.index(key[1]), *key[2:]), None


def _shadowed(document: Document, path: KeyPath, where: str) -> Problem | None:
    """Return the problem of a default that a stage's own key would hide."""
    if path[0] in ("stage", "name", "output"):
        return None
    for index, stage in enumerate(document.values.get("stage", ())):
        own = at(stage, path)
        if own is None or (path == ("model",) and str(own).startswith("stage:")):
            continue
        name, dotted = stage.get("name", index), ".".join(map(str, path))
        what = f"stage '{name}' sets its own ({document.where(('stage', index, *path))}), which would win"
        return Problem(where, dotted, what, f"write stages.{name}.{dotted}=...")
    return None
