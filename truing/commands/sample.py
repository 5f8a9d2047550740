"""`truing sample`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.commands.outcome import Json, reported
from truing.errors import ConfigError


class Kind(StrEnum):
    """What is written."""

    completions = "completions"
    demonstrations = "demonstrations"
    pairs = "pairs"
    unpaired = "unpaired"
    rankings = "rankings"


class Pairs(StrEnum):
    """Which pairs of a prompt's completions."""

    best_worst = "best-worst"
    all = "all"


def sample(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RUN",
            help="A run folder, a model folder, a hub id or a built-in model.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", help='A file of prompts, or a table: {generator = "word_problems", count = 100}.'
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .jsonl file to write.")],
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="What scores: a name, a dotted path or a .py file.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Of the verifier: key=value, in TOML or as text."),
    ] = None,
    reward_model: Annotated[
        str | None, typer.Option("--reward-model", help="A folder; its score is added to the verifier's.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Completions of each prompt.")] = 4,
    kind: Annotated[Kind, typer.Option("--kind", help="What to write.")] = Kind.completions,
    pairs: Annotated[Pairs | None, typer.Option("--pairs", help="Which pairs; implies --kind pairs.")] = None,
    min_gap: Annotated[float, typer.Option(min=0.0, help="Pairs: the better one scores more by this.")] = 0.0,
    threshold: Annotated[
        float | None, typer.Option(help="Unpaired, demonstrations: good from this reward on.")
    ] = None,
    old_rows: Annotated[
        str | None, typer.Option("--old-rows", help="Earlier rows of the same kind, put before the new ones.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a completion.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    as_json: Json = False,
) -> None:
    """Sample a policy on prompts, score what it says, and write completions, pairs, labels or rankings."""
    with reported(context, as_json=as_json) as outcome:
        if pairs is not None and kind not in (Kind.completions, Kind.pairs):
            raise ConfigError(f"--pairs makes pairs, and --kind is {kind.value}: leave one of them out")
        from truing import api
        from truing.recipe.overrides import parse_value

        chosen = Kind.pairs if pairs is not None else kind
        made: dict[str, Any] = {} if pairs is None else {"pairs": pairs.value.replace("-", "_")}
        made |= {"min_gap": min_gap} if min_gap else {}
        made |= {} if threshold is None else {"threshold": threshold}
        made |= {} if old_rows is None else {"old_rows": parse_value(old_rows)}
        keys: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "dtype": dtype}
        keys |= {} if reward_model is None else {"reward_model": reward_model}
        keys |= {} if limit is None else {"data": {"limit": limit}}
        if options:
            if verifier is None:
                raise ConfigError("--option is of the verifier: add --verifier NAME")
            keys["rewards"] = {"verifier": {"options": dict(map(_option, options))}}
        rows = api.sample(
            model, data=parse_value(data), out=out, verifier=verifier, kind=chosen.value, group_size=number,
            max_tokens=max_tokens, temperature=temperature, keys=keys,
            say=None if as_json else lambda text: typer.echo(text, err=True), **made,
        )  # fmt: skip
        outcome.show({"rows": len(rows), "kind": chosen.value, "file": str(out)}, f"{len(rows)} rows: {out}")


def _option(text: str) -> tuple[str, Any]:
    from truing.recipe.overrides import parse_value

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option {text}: write key=value")
    return key, parse_value(value)
