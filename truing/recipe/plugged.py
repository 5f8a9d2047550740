"""What a recipe plugs in: verifiers, generators and engines must exist, and take the options given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from truing import plugins
from truing.errors import PluginError, Problem
from truing.recipe.draft import Draft, at
from truing.recipe.method import Complaint
from truing.recipe.positions import KeyPath
from truing.recipe.validation import located_problems


def plugin_problems(draft: Draft) -> list[Problem]:
    """Return what is wrong with the names of verifiers, generators and engines, and with their options."""
    rewards = draft.values.get("rewards")
    tables: list[KeyPath] = [("rewards", name) for name in rewards] if isinstance(rewards, dict) else []
    found = [p for table in tables for p in _configured(draft, table, "terms", "term")]
    found += [p for table in tables for p in _configured(draft, table, "judges", "judge")]
    for table in [*tables, ("evaluation",)]:
        found += _configured(draft, table, "verifiers", "verifier")
    found += _configured(draft, ("environment",), "environments", "name")
    complaints = [*_generator(draft, ("data", "train")), *_generator(draft, ("evaluation", "data"))]
    complaints += [
        *_generator(draft, ("replay", "data", "train")),
        *_generator(draft, ("calibration", "data")),
        *_generator(draft, ("sample", "old_rows")),
    ]
    engine = at(draft.values, ("sampler", "engine"))
    if isinstance(engine, str):
        _, missing = look_up("rollout", engine, ("sampler", "engine"))
        complaints += missing
    return found + said(draft, complaints)


def look_up(folder: str, name: str, path: KeyPath) -> tuple[Path | None, list[Complaint]]:
    """Return the source file of a plug-in, or the complaint that there is none."""
    try:
        return plugins.find(folder, name)[1], []
    except PluginError as error:
        return None, [plugin_complaint(path, error)]


def plugin_complaint(path: KeyPath, error: PluginError) -> Complaint:
    """Return a look-up's error as a complaint about the key that holds the name."""
    what, _, right = str(error).partition(". ")
    return Complaint(
        path, what, right or "a name, a dotted path (my_package.my_module) or a path to a .py file"
    )


def said(draft: Draft, complaints: list[Complaint]) -> list[Problem]:
    """Return complaints about a draft as problems: with where the key was set."""
    return [Problem(draft.where(c.path), draft.key(c.path), c.what, c.right) for c in complaints]


def _configured(draft: Draft, table: KeyPath, folder: str, key: str) -> list[Problem]:
    """Return what is wrong with a plug-in that `key` names, and with its options beside it."""
    name, options = at(draft.values, (*table, key)), at(draft.values, (*table, "options"))
    if not isinstance(name, str):
        return []
    try:
        config = plugins.config_class(folder, name)
    except PluginError as error:
        return said(draft, [plugin_complaint((*table, key), error)])
    if not isinstance(options, dict | None) or not hasattr(config, "model_fields"):
        return []
    return [p for p, _ in located_problems(config, options or {}, draft, (*table, "options"), ())]


def _generator(draft: Draft, table: KeyPath) -> Iterator[Complaint]:
    name, options = at(draft.values, (*table, "generator")), at(draft.values, (*table, "options"))
    if not isinstance(name, str):
        return
    source, missing = look_up("data", name, (*table, "generator"))
    yield from missing
    known = _rows_options(source) if source is not None else None
    if known is None or not isinstance(options, dict):
        return
    for option in options:
        if option not in known:
            what = f"{name} has no option '{option}'"
            yield Complaint((*table, "options", option), what, f"its options: {', '.join(known) or 'none'}")


def _rows_options(source: Path) -> list[str] | None:
    """Return the options of a generator's `rows(count, seed, **options)`, read from its source.

    None where the source does not tell: `rows` is imported from elsewhere, or takes any option.
    """
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):
        return None  # loading the generator will say so
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "rows":
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            return [n for n in names if n not in ("count", "seed")] if node.args.kwarg is None else None
    return None
