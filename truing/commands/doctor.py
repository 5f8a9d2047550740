"""`truing doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from truing.commands.outcome import Json, reported

_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check this machine: Python, libraries, hardware, disk, models. Exit code 1 when anything fails."""
    with reported(context, as_json=as_json) as outcome:
        from truing.doctor import examine

        checks = examine()
        lines = list[str]()
        for check in checks:
            lines.append(
                f"{typer.style(f'{check.state:4}', _COLOURS[check.state])}  {check.name}: {check.found}"
            )
            lines += [f"      fix: {check.fix}"] if check.fix else []
        outcome.show([asdict(c) for c in checks], "\n".join(lines))
    if any(c.state == "fail" for c in checks):
        raise typer.Exit(1)
