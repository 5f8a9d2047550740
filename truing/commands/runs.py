"""`truing runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.commands.outcome import Json, reported

_COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "interrupted": "yellow", "broken": "red"}


def runs(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder that holds run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs, newest first: status, progress, last evaluation."""
    with reported(context, as_json=as_json) as outcome:
        from truing.runs import list_runs

        found = list_runs(folder)
        if as_json or not found:
            outcome.show(found, f"no runs in {folder}; start one with: truing run RECIPE")
            return
        _print_table(found)


def _print_table(found: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("run", "status", "started", "stage", "step", "evaluation"):
        table.add_column(column, overflow="fold")
    for record in found:
        status = str(record["status"])
        cells = [Text(str(record["folder"])), Text(status, _COLOURS.get(status, "")), Text(_when(record))]
        table.add_row(*cells, *map(Text, _progress(record)))
    Console().print(table)


def _progress(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the current stage, its steps, and its last pass rate; of a broken folder, the problem."""
    if record["status"] == "broken":
        return "", "", str(record.get("problem", ""))
    stages = record.get("stages", [])
    if not stages:
        return "", "", ""
    stage = stages[-1]
    name = f"{stage['name']} ({stage.get('algorithm', '?')})"
    return name, f"{stage.get('step', '?')}/{stage.get('num_steps', '?')}", _evaluated(stages)


def _evaluated(stages: Sequence[Mapping[str, Any]]) -> str:
    every = [e for s in stages for e in s.get("evaluations", []) if isinstance(e.get("rate"), int | float)]
    if not every:
        return ""
    first, last = every[0]["rate"], every[-1]["rate"]
    return f"{last:.1%}" if len(every) == 1 else f"{first:.1%} to {last:.1%}"


def _when(record: Mapping[str, Any]) -> str:
    started = str(record.get("started") or "")
    try:
        return datetime.fromisoformat(started).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return started
