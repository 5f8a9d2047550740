"""`truing label`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.commands import ai_options
from truing.commands.ai_options import beside
from truing.commands.outcome import Json, reported
from truing.errors import ConfigError


class Combine(StrEnum):
    """What both orders become: the mean of the probabilities, or of their log-odds."""

    mean = "mean"
    log_odds = "log_odds"


def label(
    context: typer.Context,
    prompts: Annotated[
        str, typer.Argument(help="File of prompts, or of prompts with completions.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The labelled pairs, .jsonl.")] = Path("pairs.jsonl"),
    model: ai_options.Model = None,
    endpoint: ai_options.EndpointUrl = None,
    judge_model: ai_options.JudgeModel = None,
    judge_endpoint: ai_options.JudgeUrl = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", help="One of truing/judges/, such as pairwise; left out: the labels A and B."
        ),
    ] = None,
    judge_options: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Of --judge: key=value, in JSON or as text.")
    ] = None,
    constitution: Annotated[
        Path | None, typer.Option("--constitution", help="Draw a comparing principle of it for each pair.")
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--candidates", min=2, help="Of each prompt, compared two by two.")
    ] = 2,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the candidates.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a candidate.")] = 256,
    reason: Annotated[
        bool, typer.Option("--reason", help="Reasons before the label, which is then clamped.")
    ] = False,
    clamp: Annotated[
        str, typer.Option(help="Least and greatest label after reasons: LOW,HIGH, or none.")
    ] = "0.4,0.6",
    votes: Annotated[
        int, typer.Option(min=1, help="For each order, where the endpoint has no log-probs.")
    ] = 4,
    combine: Annotated[
        Combine,
        typer.Option(help="Of both orders: mean, or log_odds, which takes a constant slot preference off."),
    ] = Combine.mean,
    hard: Annotated[
        bool, typer.Option("--hard", help="No `preference` column, for methods that take labels for certain.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    audit: ai_options.AuditPath = None,
    cache: ai_options.Cache = None,
    api_key_env: ai_options.KeyEnv = None,
    at_once: ai_options.AtOnce = 8,
    timeout: ai_options.Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Label preference pairs with a model (RLAIF): sample two completions, ask which is better, both ways.

    Rows that bring `completions`, or `chosen` and `rejected`, are labelled as they are. The output is read by
    dpo and reward_model with options.use_labels = true.
    """
    with reported(context, as_json=as_json) as outcome:
        from truing.ai_feedback.audit import Audit
        from truing.ai_feedback.candidates import Sampling
        from truing.ai_feedback.compare import Comparing
        from truing.ai_feedback.constitution import load_constitution
        from truing.ai_feedback.judged import plugged
        from truing.ai_feedback.label import Labelling, health, preference_rows, task_of
        from truing.ai_feedback.label import label as label_task
        from truing.ai_feedback.work import work, write_rows
        from truing.data.readers import read_rows

        principles = None if constitution is None else load_constitution(constitution)
        if principles is not None:
            principles.comparing()
        tasks = [task_of(row) for row in read_rows(prompts, limit=limit)]
        asks = None if judge is None else plugged(judge, _options(judge_options or ()))
        if asks is None and judge_options:
            raise ConfigError("--option is of a judge: set --judge, or leave it out")
        if asks is not None and (principles is not None or reason or combine is not Combine.mean):
            raise ConfigError(
                "--judge asks in its own words: leave out --constitution, --reason and --combine"
            )
        judging = judge_model or model
        if judging is None:
            raise ConfigError("no model judges: set --model, or --judge-model")
        if model is None and not all(t.completions for t in tasks):
            raise ConfigError(f"{prompts} has prompts without completions: set --model, which writes them")
        access = ai_options.Access(api_key_env, beside(out, cache, ".cache"), at_once, timeout)
        asked = [(judging, judge_endpoint or endpoint), *([(model, endpoint)] if model else [])]
        comparing = Comparing(
            seed, reason, clamp=_clamp(clamp) if reason else None, votes=votes,
            combine=combine.value,
        )  # fmt: skip
        with (
            ai_options.speakers(access, *asked) as found,
            Audit(beside(out, audit, ".audit.jsonl")) as trail,
        ):
            how = Labelling(
                found[1] if model else None, found[0], count, Sampling(temperature, max_tokens, seed),
                comparing, principles, asks,
            )  # fmt: skip
            parts = work(tasks, lambda t: label_task(t, how, trail), at_once=at_once, say=_progress)
        labelled = [x for part in parts for x in part]
        rows = write_rows(out, preference_rows(labelled, how, hard=hard), what="labelled pair")
        record = {"out": str(out), "audit": str(trail.path), "rows": rows, **health(labelled)}
        outcome.show(record, _text(record))


def _progress(text: str) -> None:
    typer.echo(f"labelled {text} prompts", err=True)


def _options(given: Sequence[str]) -> dict[str, Any]:
    found = dict[str, Any]()
    for option in given:
        key, equals, text = option.partition("=")
        if not equals:
            raise ConfigError(f"--option {option}: write key=value")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


def _clamp(text: str) -> tuple[float, float] | None:
    if text == "none":
        return None
    try:
        low, high = (float(x) for x in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--clamp {text}: write LOW,HIGH such as 0.4,0.6, or none") from error
    if not 0 <= low <= 0.5 <= high <= 1:
        raise ConfigError(f"--clamp {text}: 0 <= LOW <= 0.5 <= HIGH <= 1, so that a tie stays possible")
    return low, high


def _text(record: dict[str, Any]) -> str:
    def share(key: str) -> str:
        return "none decided" if record[key] is None else f"{record[key]:.1%}"

    lines = [
        f"{record['rows']} pairs in {record['out']}; every answer in {record['audit']}",
        f"{record['scored']} of {record['pairs']} scored, from {record['label_from']}"
        + (f"; not scored: {record['not_scored']}" if record["not_scored"] else ""),
        f"both orders agree: {share('position_consistency')}; "
        f"what stands first is preferred: {share('first_slot_preference')}",
        f"the longer one is preferred: {share('longer_preferred')}; "
        f"mean certainty: {share('mean_certainty')}",
    ]
    return "\n".join(lines)
