"""`truing compare` and `truing scaling`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.commands.outcome import RUN_ERROR, Json, Outcome, reported

if TYPE_CHECKING:
    from truing.compare.comparison import Comparison
    from truing.compare.trials import Unit


class Compute(StrEnum):
    """A unit of compute."""

    tokens = "tokens"
    flops = "flops"
    seconds = "seconds"


_UNITS: dict[Compute, Unit] = {
    Compute.tokens: "tokens", Compute.flops: "flops", Compute.seconds: "seconds"
}  # fmt: skip


class Law(StrEnum):
    """A scaling law: reward against compute, or gold reward against KL under RL or best-of-n."""

    sigmoid = "sigmoid"
    rl = "rl"
    best_of_n = "best_of_n"


def compare(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE_OR_RUN...",
            help="Recipes (.toml), each run over the seeds, or folders of finished runs.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Compute of each run: tokens=N, flops=N or seconds=N; sets the steps."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each recipe.")] = 3,
    unit: Annotated[
        Compute | None,
        typer.Option("--unit", help="Of compute; the budget's, else flops."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="Folder of the runs and of the page; the same one continues.")
    ] = Path("comparison"),
    as_json: Json = False,
) -> None:
    """Set methods side by side at equal compute: seeds, intervals, frontiers, one page."""
    with reported(context, as_json=as_json) as outcome:
        from truing.compare import run

        found = run.compare(
            sources,
            output=output,
            budget=budget,
            seeds=seeds,
            unit=None if unit is None else _UNITS[unit],
            argv=["truing", *sys.argv[1:]],
            quiet=as_json,
            say=lambda text: typer.echo(text, err=True),
        )
        _show(found, output, outcome)
    if found.failures:
        raise typer.Exit(RUN_ERROR)


def _show(found: Comparison, output: Path, outcome: Outcome) -> None:
    from truing.compare.page import basis, table

    head, rows = table(found)
    lines = [f"Rates and differences are {basis(found)}.", *(f"warning: {w}" for w in found.warnings)]
    for row in rows:
        lines.append("\n" + row[0])
        lines += [f"    {title}: {text}" for title, text in zip(head[1:], row[1:], strict=True) if text]
    lines += [f"    broke: seed {f.seed}: {f.message}" for f in found.failures]
    outcome.show(found.record(), "\n".join([*lines, "", f"page: {output / 'comparison.html'}"]))


def scaling(
    context: typer.Context,
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; their points are pooled.")
    ],
    law: Annotated[
        Law,
        typer.Option("--law", help="sigmoid: reward against compute; rl, best_of_n: reward against KL."),
    ] = Law.sigmoid,
    stage: Annotated[str | None, typer.Option("--stage", help="Of the runs; the last when left out.")] = None,
    x: Annotated[
        str | None,
        typer.Option("--x", help="flops, tokens, seconds or a metric; the law's own when left out."),
    ] = None,
    y: Annotated[
        str,
        typer.Option("--y", help="'evaluation', the held-out pass rate, or a metric such as reward/mean."),
    ] = "evaluation",
    start: Annotated[
        float | None, typer.Option("--start", help="Reward before training; the first value when left out.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write points and law as an .svg file.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a scaling law to runs: compute to reward (ScaleRL) or KL to reward (over-optimisation)."""
    with reported(context, as_json=as_json) as outcome:
        from truing.compare import scaling as fits

        found = fits.fit_runs(folders, law=law.value, stage=stage, x=x, y=y, start=start)
        if plot is not None:
            plot.write_text(fits.plot(found), encoding="utf-8")
        outcome.show(fits.record(found), fits.text(found))
