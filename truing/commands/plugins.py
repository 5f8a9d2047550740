"""`truing list`."""

from __future__ import annotations

import ast
from enum import StrEnum
from typing import Annotated, Any

import typer

from truing import judges, plugins
from truing.commands.outcome import Json, reported


class Kind(StrEnum):
    """What can be listed; `generators` make data from a seed."""

    algorithms = "algorithms"
    verifiers = "verifiers"
    judges = "judges"
    terms = "terms"
    environments = "environments"
    search = "search"
    generators = "generators"


def list_plugins(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    as_json: Json = False,
) -> None:
    """List what a recipe can name, with its source and its options."""
    with reported(context, as_json=as_json) as outcome:
        found = describe(kind)
        outcome.show(found, "\n\n".join(_text(record) for record in found))


def describe(kind: Kind) -> list[dict[str, Any]]:
    """Return name, summary and options of every plug-in of a kind, read without importing them."""
    folder = "data" if kind is Kind.generators else kind.value
    found = list[dict[str, Any]]()
    for name in judges.names() if kind is Kind.judges else plugins.names(folder):
        _, path = plugins.find(folder, name)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if kind is Kind.generators and not _defines(tree, "rows"):
            continue
        lines = (ast.get_docstring(tree) or "").split("\n\n")
        record = {"name": name, "summary": lines[0].replace("\n", " "), "file": str(path)}
        found.append(record | (_config(folder, name) if kind is not Kind.generators else {}))
    return found


def _config(folder: str, name: str) -> dict[str, Any]:
    config = plugins.config_class(folder, name)
    options = {n: {"default": f.default, "help": f.description} for n, f in config.model_fields.items()}
    data = getattr(config, "data", None)
    return {"options": options} | ({"data": data} if data is not None else {})


def _defines(tree: ast.Module, function: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def _text(record: dict[str, Any]) -> str:
    learns = f" [{record['data']}]" if "data" in record else ""
    lines = [f"{record['name']}{learns}: {record['summary']}"]
    for name, option in record.get("options", {}).items():
        lines.append(f"    {name} = {option['default']}" + (f": {option['help']}" if option["help"] else ""))
    return "\n".join(lines)
