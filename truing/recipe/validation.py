"""pydantic's errors, said in the words of a recipe: where, which key, what, and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from truing.errors import Problem
from truing.recipe.draft import Draft
from truing.recipe.positions import KeyPath
from truing.recipe.suggest import REFUSED, field_info, suggestions, table_keys

_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "an array"}
_WANTED = {
    "string_type": 'text in quotes, such as "abc"',
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "source": 'a path in quotes, or a table such as { generator = "word_problems", count = 100 }',
}


def schema_problems(model: type[BaseModel], values: Mapping[str, Any], draft: Draft) -> list[Problem]:
    """Return what pydantic finds wrong with the values of a stage."""
    return [p for p, _ in located_problems(model, values, draft, (), ())]


def located_problems(
    model: type[BaseModel], values: Any, draft: Draft, prefix: KeyPath, options: Iterable[str]
) -> list[tuple[Problem, KeyPath]]:
    """Return what pydantic finds wrong, each with its path within the stage.

    Args:
        prefix: where in the stage the values are: ("options",) for an algorithm's Config.
        options: the algorithm's option names, for suggestions.
    """
    try:
        model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return []
    found = dict[KeyPath, list[ErrorDetails]]()
    for detail in details:
        found.setdefault(_path(detail, values, prefix), []).append(detail)
    return [
        (_problem(path, group, model, draft, prefix, list(options)), path) for path, group in found.items()
    ]


def _path(detail: ErrorDetails, values: Any, prefix: KeyPath) -> KeyPath:
    """Return the path of the key that is meant, without the names of a union's branches."""
    path: KeyPath = ()
    for part in detail["loc"]:
        if isinstance(values, Mapping) and (part in values or detail["type"] == "missing"):
            if isinstance(part, str) and part.startswith("<"):
                continue
            values, path = values.get(part), (*path, part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values, path = values[part], (*path, part)
    return (*prefix, *path)


def _problem(
    path: KeyPath,
    group: list[ErrorDetails],
    model: type[BaseModel],
    draft: Draft,
    prefix: KeyPath,
    options: list[str],
) -> Problem:
    detail = group[0]
    where, key = draft.where(path), draft.key(path)
    if detail["type"] == "missing":
        return Problem(where, key, "is missing", _help(model, path, prefix) or "set it")
    if detail["type"] == "extra_forbidden":
        siblings = list(model.model_fields) if prefix else table_keys(path[:-1])
        return Problem(where, key, "unknown key", _unknown_key_help(path, siblings, options))
    what = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "value_error":
        return Problem(where, key, what, _help(model, path, prefix) or "see the documentation of this option")
    help_text = _help(model, path, prefix)
    right = f"it should be {_wanted(group)}" + (f" ({help_text})" if help_text else "")
    return Problem(where, key, f"{_shown(detail['input'])} is not right", right)


def _unknown_key_help(path: KeyPath, siblings: list[str], options: list[str]) -> str:
    """Return what an unknown key may have been meant to be, or else the keys that its table has."""
    if str(path[-1]) in REFUSED:
        return REFUSED[str(path[-1])]
    near = suggestions(path, siblings, options, ("name", "output", "stage"))
    if near:
        return f"did you mean {' or '.join(near)}?"
    table = f"[{'.'.join(map(str, path[:-1]))}]" if len(path) > 1 else "a stage"
    return f"keys of {table}: {', '.join(siblings)}" if siblings else f"{table} has no such key"


def _wanted(group: list[ErrorDetails]) -> str:
    return " or ".join(dict.fromkeys(_one_wanted(d) for d in group))


def _one_wanted(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = difflib.get_close_matches(str(detail["input"]), choices, n=1)
        return f"{context['expected']}" + (f"; did you mean '{near[0]}'?" if near else "")
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    return _WANTED.get(kind) or detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({_KINDS[type(value)]})" if type(value) in _KINDS else text


def _help(model: type[BaseModel], path: KeyPath, prefix: KeyPath) -> str:
    info = (
        model.model_fields.get(str(path[len(prefix)]))
        if prefix and len(path) > len(prefix)
        else field_info(path)
    )
    return (info.description or "") if info is not None else ""
