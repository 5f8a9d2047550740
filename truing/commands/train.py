"""`truing run`, `truing train` and `truing resume`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.commands.outcome import Json, Outcome, reported
from truing.config import Recipe

if TYPE_CHECKING:
    from truing.train.pipeline import RunResult

_Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides, such as learner.learning_rate=1e-6 or stages.grpo.steps=10; KEY= removes a key.",
        show_default=False,
    ),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the recipe, print it fully resolved, and stop.")
]


def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A recipe: a .toml file.", show_default=False)],
    overrides: _Overrides = None,
    dry_run: _DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a recipe from its first stage to its report."""
    with reported(context, as_json=as_json) as outcome:
        from truing.recipe import load_recipe

        _begin(load_recipe(recipe, overrides or ()), outcome, dry_run=dry_run)


def train(
    context: typer.Context,
    algorithm: Annotated[
        str, typer.Argument(help="As `truing list algorithms` names it.", show_default=False)
    ],
    overrides: _Overrides = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A folder, a hub id or a built-in model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A .jsonl, .json, .parquet or .csv file.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the run; the algorithm's when left out.")
    ] = None,
    dry_run: _DryRun = False,
    as_json: Json = False,
) -> None:
    """Train one stage without a recipe file: truing train dpo --model M --data pairs.jsonl epochs=1."""
    with reported(context, as_json=as_json) as outcome:
        from truing.recipe import recipe_from_dict

        recipe: dict[str, Any] = {"name": name, "algorithm": algorithm, "model": model}
        recipe |= {"data": {"train": data}} if data is not None else {}
        checked = recipe_from_dict(recipe, source="the command line", overrides=overrides or ())
        _begin(checked, outcome, dry_run=dry_run)


def resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Continue a run at its newest sound checkpoint."""
    with reported(context, as_json=as_json) as outcome:
        outcome.folder = folder
        from truing import api

        _finish(api.resume(folder, quiet=as_json), outcome)


def _begin(recipe: Recipe, outcome: Outcome, *, dry_run: bool) -> None:
    if dry_run:
        from truing.recipe import resolved

        outcome.show(recipe.model_dump(mode="json"), resolved(recipe).rstrip())
        return
    from truing import api
    from truing.runs import new_folder

    outcome.folder = new_folder(recipe.output, recipe.name)
    _finish(api.start(recipe, outcome.folder, argv=sys.argv, quiet=outcome.as_json), outcome)


def _finish(result: RunResult, outcome: Outcome) -> None:
    rows = result.metrics
    last = dict(rows[-1]) if rows else {}
    record = {"folder": str(result.folder), "metrics": last, "evaluations": list(result.evaluations)}
    lines = [f"finished: {result.folder}", f"report:   {result.folder / 'report.html'}"]
    if result.policy is not None:
        lines.append(f"talk to it with: truing chat {result.folder}")
    outcome.show(record, "\n".join(lines))
