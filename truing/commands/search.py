"""`truing search` and `truing label-steps`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from truing.commands.outcome import Json, reported

_OVERRIDES = "key=value laid over the plan, such as budget=4096 or strategy.beam.options.width=2."


def search(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Policy, prompts, scorer, strategies.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_OVERRIDES)] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write gold and proxy over n as an .svg file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare ways to search (votes, best-of-n, beams, trees) on the same prompts at equal tokens."""
    with reported(context, as_json=as_json) as outcome:
        from truing.errors import ConfigError
        from truing.search import compare, load_plan, record, text
        from truing.search import plot as drawn

        checked = load_plan(plan, overrides or [])
        if plot is not None and checked.curve_samples < 2:
            raise ConfigError("--plot draws the curve over n: set curve_samples to 2 or more")
        found = compare(checked, say=lambda line: typer.echo(line, err=True))
        if plot is not None:
            plot.write_text(drawn(found), encoding="utf-8")
        outcome.show(record(found), text(found))


def label_steps(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Policy, prompts, verifier, roll-outs.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.jsonl", help="A new file of labelled solutions.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the plan: num_rollouts=16."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Label the steps of sampled solutions by Monte-Carlo roll-outs, for a process reward model."""
    with reported(context, as_json=as_json) as outcome:
        from truing.search import label_steps as label

        found = label(plan, output, *(overrides or []), say=lambda line: typer.echo(line, err=True))
        outcome.show(
            asdict(found) | {"output": str(output)},
            f"{found.rows} solutions with {found.labelled_steps} labelled steps in {output}; "
            f"{found.right} are right; dropped: {found.unfinished} unfinished, {found.unlabelled} without "
            f"labels; {found.generated:,} tokens drawn",
        )
