"""`truing constitution check` and `truing constitution revise`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.commands import ai_options
from truing.commands.ai_options import beside
from truing.commands.outcome import Json, reported
from truing.errors import ConfigError

if TYPE_CHECKING:
    from truing.ai_feedback.revise import Revised

app = typer.Typer(help="Principles that a model criticises, revises and compares by.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="CONSTITUTION", help="A .toml file.", show_default=False)]


@app.command("check")
def check(context: typer.Context, file: File, as_json: Json = False) -> None:
    """Check a constitution and list its principles."""
    with reported(context, as_json=as_json) as outcome:
        from truing.ai_feedback.constitution import load_constitution

        found = load_constitution(file)
        rows = found.red_team() if found.constitution.red_team is not None else []
        uses = [
            {"name": p.name, "revises": p.critique is not None, "compares": p.compare is not None}
            for p in found.constitution.principle
        ]
        record = {
            "name": found.constitution.name, "digest": found.digest, "principles": uses,
            "red_team": len(rows),
        }  # fmt: skip
        lines = [
            f"{found.constitution.name} ({found.digest}): {len(uses)} principles, "
            f"{len(rows)} red-team prompts"
        ]
        for use in uses:
            does = [word for word in ("revises", "compares") if use[word]]
            lines.append(f"    {use['name']}: {' and '.join(does)}")
        outcome.show(record, "\n".join(lines))


@app.command("revise")
def revise(
    context: typer.Context,
    file: File,
    model: Annotated[
        str, typer.Option("--model", help="What answers, criticises and revises.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The demonstrations, .jsonl.")] = Path("revisions.jsonl"),
    endpoint: ai_options.EndpointUrl = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="Instead of the constitution's red-team prompts.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Critiques and revisions of each completion.")] = 4,
    last: Annotated[
        bool, typer.Option("--last", help="Train on the last revision only, not on that of every round.")
    ] = False,
    helpful: Annotated[
        str | None, typer.Option("--helpful", help="File of demonstrations to mix in.")
    ] = None,
    helpful_share: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Of the rows that are written, with --helpful.")
    ] = 0.5,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a completion, critique or revision.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the principles and of everything that is drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    audit: ai_options.AuditPath = None,
    cache: ai_options.Cache = None,
    api_key_env: ai_options.KeyEnv = None,
    at_once: ai_options.AtOnce = 8,
    timeout: ai_options.Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Write demonstrations by critique and revision: the supervised stage of Constitutional AI."""
    with reported(context, as_json=as_json) as outcome:
        from truing.ai_feedback.audit import Audit
        from truing.ai_feedback.candidates import Sampling
        from truing.ai_feedback.constitution import load_constitution
        from truing.ai_feedback.helpful import mixed
        from truing.ai_feedback.revise import Revising, demonstrations
        from truing.ai_feedback.revise import revise as revise_one
        from truing.ai_feedback.work import work, write_rows
        from truing.data.columns import prompt
        from truing.data.readers import read_rows

        constitution = load_constitution(file)
        constitution.revising()
        source = read_rows(prompts) if prompts is not None else constitution.red_team()
        asked = [prompt(row) for row in source[:limit]]
        demonstrated = read_rows(helpful) if helpful is not None else []
        how = Revising(rounds, Sampling(temperature, max_tokens, seed))
        access = ai_options.Access(api_key_env, beside(out, cache, ".cache"), at_once, timeout)
        with (
            ai_options.speakers(access, (model, endpoint)) as (speaker,),
            Audit(beside(out, audit, ".audit.jsonl")) as trail,
        ):
            revised = work(
                asked,
                lambda p: revise_one(speaker, p, constitution, how, trail),
                at_once=at_once,
                say=lambda text: typer.echo(f"revised {text} prompts", err=True),
            )
        rows = demonstrations(revised, every_round=not last)
        if demonstrated and rows:
            rows = mixed(rows, demonstrated, share=helpful_share, seed=seed)
        record = {"out": str(out), "audit": str(trail.path), **_counts(revised)}
        record["rows"] = write_rows(out, rows, what="revision")
        outcome.show(record, _text(record))


def _counts(revised: list[Revised]) -> dict[str, Any]:
    steps = [(r.first.text if r.first else "", *(v.text for v in r.revisions)) for r in revised]
    changed = [a != b for texts in steps for a, b in pairwise(texts)]
    failed = [r.evidence for r in revised if r.status != "scored"]
    return {
        "prompts": len(revised),
        "revisions": len(changed),
        "changed_share": sum(changed) / len(changed) if changed else None,
        "cut_short": len(failed),
        "first_problem": failed[0] if failed else None,
    }


def _text(record: dict[str, Any]) -> str:
    if record["changed_share"] is None:
        raise ConfigError(f"nothing was revised: {record['first_problem']}")
    problem = (
        f"; {record['cut_short']} stopped early: {record['first_problem']}" if record["cut_short"] else ""
    )
    return (
        f"{record['rows']} demonstrations in {record['out']}; every step in {record['audit']}\n"
        f"{record['revisions']} revisions of {record['prompts']} prompts, "
        f"{record['changed_share']:.0%} of them changed the text{problem}"
    )
