"""From TOML or a mapping, with overrides, to a checked Recipe."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.config import Recipe, Stage
from truing.errors import ConfigError, Problem
from truing.recipe.draft import Document, Draft, drafts
from truing.recipe.overrides import apply_keys, apply_overrides
from truing.recipe.positions import key_lines
from truing.recipe.stages import check_stages
from truing.recipe.validation import schema_problems


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, keys: Mapping[str, Any] | None = None
) -> Recipe:
    """Return the checked recipe of a TOML file.

    Args:
        overrides: `key=value`, laid over the file in order; values are TOML, or else text. `key=`
            removes a key; `stages.grpo.steps=10` addresses a stage of a pipeline.
        keys: the same as Python values: a table is merged, None removes a key.

    Raises:
        ConfigError: anything is wrong; `problems` has all of it, with lines.
    """
    path = Path(path)
    text = _read(path)
    try:
        values = tomllib.loads(text)
        lines = key_lines(text)
    except (ValueError, RecursionError) as error:
        raise _failed(str(path), [_syntax_problem(path, error)]) from error
    document = Document(str(path), values, {p: f"{path}:{line}" for p, line in lines.items()})
    return _recipe(document, overrides, keys or {}, path.parent, default_name(path.name))


def recipe_from_dict(
    mapping: Mapping[str, Any],
    source: str = "recipe",
    overrides: Sequence[str] = (),
    *,
    keys: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Recipe:
    """Return the checked recipe of a mapping with the keys of a TOML recipe; None means left out.

    Args:
        source: what error messages call it.
        folder: where relative paths are looked for first; None is the current folder only.

    Raises:
        ConfigError: anything is wrong; `problems` has all of it.
    """
    odd = _odd_keys(mapping)
    if odd:
        raise _failed(
            source, [Problem(source, "", f"the key {k!r} is no text", "keys are strings") for k in odd]
        )
    name = default_name(str(mapping.get("algorithm") or "run"))
    return _recipe(Document(source, _without_none(mapping)), overrides, keys or {}, folder, name)


def default_name(text: str) -> str:
    """Return a run's name from a file name, or from an algorithm's name or path."""
    stem = re.sub(r"\.(py|toml)$", "", text).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("_.-")[:60] or "run"


def _recipe(
    document: Document,
    overrides: Sequence[str],
    keys: Mapping[str, Any],
    folder: Path | None,
    otherwise: str,
) -> Recipe:
    problems = _structure_problems(document)
    if not problems:
        problems = apply_overrides(document, overrides) + apply_keys(document, keys)
        problems += _structure_problems(document)
    if problems:
        raise _failed(document.source, problems)
    parts = drafts(document)
    stages, problems = check_stages(document, parts, folder)
    head = {"name": document.values.get("name", otherwise)}
    head |= {k: v for k, v in document.values.items() if k == "output"}
    problems = _head_problems(document, head) + problems
    if problems:
        raise _failed(document.source, problems)
    return Recipe.model_validate({**head, "stages": stages})


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        right = f"did you mean {path.parent / near[0]}?" if near else "give the path of a .toml file"
        raise _failed(str(path), [Problem(str(path), "", "no such recipe", right)]) from error
    except UnicodeDecodeError as error:
        problem = Problem(str(path), "", f"is not UTF-8 text: {error}", "save the recipe as UTF-8")
        raise _failed(str(path), [problem]) from error
    except (OSError, ValueError) as error:
        problem = Problem(str(path), "", f"cannot be read: {error}", "give the path of a .toml file")
        raise _failed(str(path), [problem]) from error


def _syntax_problem(path: Path, error: Exception) -> Problem:
    found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    where = f"{path}:{found[1]}" if found else str(path)
    what = (
        re.sub(r" \(at (line|end).*\)", "", str(error))
        if not isinstance(error, RecursionError)
        else "too deep"
    )
    right = "strings need quotes, tables are [name], and each key is set once; see https://toml.io"
    return Problem(where, "", f"is no valid TOML: {what}", right)


def _structure_problems(document: Document) -> list[Problem]:
    """Return what is wrong with the [[stage]] tables as such; without problems, drafts can be made."""
    tables = document.values.get("stage")
    if tables is None:
        return []
    if not isinstance(tables, list) or not tables or not all(isinstance(t, Mapping) for t in tables):
        what = "stages are an array of one table or more"
        return [Problem(document.where(("stage",)), "stage", what, "begin each stage with a [[stage]] line")]
    found = list[Problem]()
    for number, table in enumerate(tables):
        if not isinstance(table.get("name"), str):
            where = document.where(("stage", number, "name"))
            what = f"stage {number + 1} has no name" if "name" not in table else "a stage's name is text"
            found.append(
                Problem(where, "name", what, f'for example name = "{table.get("algorithm", "sft")}"')
            )
    return found


def _head_problems(document: Document, head: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with name and output, checked against a Recipe with any stage."""
    filler = Stage.model_construct()
    draft = Draft(dict(head), document.origins, frozenset(), document.source, "")
    return schema_problems(Recipe, {**head, "stages": [filler]}, draft)


def _failed(source: str, problems: Sequence[Problem]) -> ConfigError:
    unique = sorted(dict.fromkeys(problems), key=_line)
    lines = [str(p) for p in unique]
    if len(unique) > 1:
        lines = [f"{source}: {len(unique)} problems", *lines]
    return ConfigError("\n".join(lines), unique)


def _line(problem: Problem) -> int:
    """Return the line a problem is on: of a file in its order, then overrides and what has no line."""
    found = re.search(r":(\d+)$", problem.where)
    return int(found[1]) if found else 1_000_000_000


def _odd_keys(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [k for k in value if not isinstance(k, str)] + [
            o for v in value.values() for o in _odd_keys(v)
        ]
    return [o for v in value for o in _odd_keys(v)] if isinstance(value, list | tuple) else []


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value
