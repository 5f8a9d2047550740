"""How a command ends: results on stdout, errors on stderr, and an exit code that scripts can use."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.errors import ConfigError, DataError, PluginError, TruingError

RUN_ERROR, USER_ERROR, INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON: results on stdout, errors on stderr.")]


@dataclass(slots=True)
class Outcome:
    """What a command knows when it ends: the folder of the run that it began, once there is one."""

    as_json: bool
    folder: Path | None = None

    def show(self, record: Any, text: str) -> None:
        """Print the record with --json, and else the text."""
        typer.echo(json.dumps(record, ensure_ascii=False, default=str) if self.as_json else text)

    @property
    def resume_command(self) -> str | None:
        """The command that continues the run; None while there is nothing to continue."""
        if self.folder is None or not (self.folder / "recipe.toml").is_file():
            return None
        return f"truing resume {shlex.quote(str(self.folder))}"


@contextmanager
def reported(context: typer.Context, *, as_json: bool = False) -> Iterator[Outcome]:
    """Run a command's body; print a TruingError as what, where and right instead of a traceback.

    Exit codes: 2 when the recipe, the data or a plug-in's name is wrong, 1 for any other TruingError,
    130 when interrupted. An unexpected exception keeps its traceback; with --debug, all do.
    """
    outcome = Outcome(as_json)
    try:
        yield outcome
    except TruingError as error:
        if (context.obj or {}).get("debug"):
            raise
        _print_error(outcome, error)
        is_users = isinstance(error, ConfigError | DataError | PluginError)
        raise typer.Exit(USER_ERROR if is_users else RUN_ERROR) from error
    except KeyboardInterrupt as error:
        _print_interrupt(outcome)
        raise typer.Exit(INTERRUPTED) from error


def error_record(error: TruingError, outcome: Outcome) -> dict[str, Any]:
    """Return an error as JSON: its type, its message, its problems, and how to continue."""
    record: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, ConfigError) and error.problems:
        record["problems"] = [asdict(p) for p in error.problems]
    if outcome.folder is not None:
        record |= {"folder": str(outcome.folder), "resume": outcome.resume_command}
    return record


def _print_error(outcome: Outcome, error: TruingError) -> None:
    if outcome.as_json:
        typer.echo(json.dumps(error_record(error, outcome), ensure_ascii=False), err=True)
        return
    typer.echo(f"{type(error).__name__}: {error}", err=True)
    if outcome.resume_command:
        typer.echo(
            f"The run so far is in {outcome.folder}; continue it with: {outcome.resume_command}", err=True
        )


def _print_interrupt(outcome: Outcome) -> None:
    if outcome.as_json:
        record = {"error": "interrupted", "resume": outcome.resume_command}
        typer.echo(json.dumps(record, ensure_ascii=False), err=True)
        return
    how = f"; continue with: {outcome.resume_command}" if outcome.resume_command else ""
    typer.echo(f"interrupted{how}", err=True)
