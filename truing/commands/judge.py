"""`truing judge`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing import judges, plugins
from truing.commands.chat import model_of
from truing.commands.outcome import RUN_ERROR, Json, reported
from truing.commands.verify import config_of
from truing.data.readers import read_rows
from truing.errors import ConfigError, PluginError

if TYPE_CHECKING:  # a command's module is imported for --help, and torch is slow
    from truing.judges.client import Client
    from truing.judges.judging import Judged
    from truing.types import Verdict


class Jury(StrEnum):
    """How the verdicts of several models become one."""

    majority = "majority"
    mean = "mean"


def judge(
    context: typer.Context,
    rows: Annotated[
        str, typer.Argument(help="File of rows: prompt and completion, or a pair.", show_default=False)
    ],
    name: Annotated[
        str, typer.Option("--judge", "-j", help="A name, a dotted path or a .py file.")
    ] = "pairwise",
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Who judges; given several times, a jury.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="Base URL, as http://127.0.0.1:8000/v1; none: in-process."),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the API key.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Of the judge: key=value, in JSON or as text.")
    ] = None,
    jury: Annotated[Jury, typer.Option(help="How several models are one.")] = Jury.majority,
    human: Annotated[str | None, typer.Option("--human", help="Column of people's labels.")] = None,
    authors: Annotated[str | None, typer.Option("--authors", help="Column that says who wrote what.")] = None,
    own: Annotated[
        str | None, typer.Option("--own", help="The author that is the judge; with --authors.")
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="File of replies, for the next time.")] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Requests under way.")] = 8,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Of one try [s].")] = 60.0,
    prices: Annotated[
        str | None, typer.Option("--prices", help="Per million prompt and reply tokens: IN,OUT.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    as_json: Json = False,
) -> None:
    """Judge the completions or the pairs of a file, and say how far the judge can be believed.

    Of pairs the win rate is that of the first completion (chosen, where the row has that), ties one half.
    With --human, rows that people labelled show how far they agree, and correct the rate of the others.
    With --json, one line for each row and a summary as the last. The exit code is 1 when no row was scored.
    """
    with reported(context, as_json=as_json) as outcome:
        from truing.judges.judging import judge_items
        from truing.judges.juries import jury_of
        from truing.judges.rows import judged_row
        from truing.judges.study import study

        if (authors is None) != (own is None):
            raise ConfigError("self-preference needs both: --authors COLUMN and --own AUTHOR")
        module = plugins.load("judges", name)
        if not hasattr(module, "judge"):
            raise PluginError(f"judges: '{name}' judges nothing; known: {', '.join(judges.names())}")
        config = config_of(module, name, options or [])
        wanted = module.Config.completions
        found = [judged_row(r, wanted, human=human, authors=authors) for r in read_rows(rows, limit=limit)]
        access = _access(endpoint, api_key_env, cache, at_once, timeout, prices)
        with _clients(models or [], access) as clients:
            judged = judge_items(module, clients, [r.item for r in found], config)
            usage = {c.model: asdict(c.usage) for c in clients}
        verdicts = [jury_of([j.verdict for j in said], jury.value) for said in judged]
        by_model = {c: [said[i] for said in judged] for i, c in enumerate(usage)}
        record = {"judge": name, **study(found, verdicts, by_model, own=own), "usage": usage}
        if as_json:
            for number, (verdict, said) in enumerate(zip(verdicts, judged, strict=True), start=1):
                typer.echo(json.dumps(_line(number, verdict, said), ensure_ascii=False))
        outcome.show(record, "\n".join(_text(record, pairs=wanted == 2)))
    if record["mean"] is None:
        raise typer.Exit(RUN_ERROR)


@contextmanager
def _clients(models: Sequence[str], access: Mapping[str, Any]) -> Iterator[list[Client]]:
    """Give a client for each model, closed at the end."""
    from truing.judges.client import judge_from

    if not models:
        raise ConfigError("no model judges: set --model NAME; several make a jury")
    if len(set(models)) < len(models):
        raise ConfigError(f"--model: {', '.join(models)}: a jury is of different models")
    local = access["url"] is None
    with ExitStack() as stack:
        named = [model_of(m) if local else m for m in models]
        yield [stack.enter_context(judge_from({**access, "model": m})) for m in named]


def _access(
    endpoint: str | None, api_key_env: str | None, cache: Path | None, at_once: int, timeout: float,
    prices: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the endpoint's table, of what was given only: what would do nothing is then an error."""
    found: dict[str, Any] = {"url": endpoint, "max_concurrency": at_once, "timeout_s": timeout}
    found["deadline_s"] = 5 * timeout
    if api_key_env is not None:
        found["api_key_env"] = api_key_env
    if cache is not None:
        found["cache"] = str(cache)
    if prices is not None:
        try:
            found["input_price"], found["output_price"] = (float(x) for x in prices.split(","))
        except ValueError as error:
            raise ConfigError(f"--prices {prices}: write IN,OUT such as 0.5,1.5") from error
    return found


def _line(number: int, verdict: Verdict, judged: Sequence[Judged]) -> dict[str, Any]:
    votes = [
        {"swapped": v.swapped, "status": v.verdict.status, "value": v.verdict.value, "reply": v.text}
        for j in judged
        for v in j.votes
    ]
    return {"row": number, **asdict(verdict), "votes": votes}


def _text(record: dict[str, Any], *, pairs: bool) -> list[str]:
    """Return the summary in words, a line each."""
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(record["statuses"].items()))
    lines = [f"{record['rows']} rows: {statuses}"]
    if record["mean"] is not None:
        what = "win rate of the first" if pairs else "mean verdict"
        lines.append(f"{what}: {_estimate(record['mean'])}")
    for model, health in record["health"].items():
        lines.append(f"health of {model}:")
        lines += [f"    {name}: {_estimate(e)}" for name, e in health.items()]
    if record.get("jurors_alpha") is not None:
        lines.append(f"jurors' agreement (Krippendorff's alpha): {record['jurors_alpha']:.2f}")
    lines += _people(record.get("people"))
    for model, usage in record["usage"].items():
        cost = f", cost {usage['cost']:.4f}" if usage["cost"] else ""
        asked = f"{usage['requests']} requests, {usage['cached']} of them cached, {usage['retries']} retries"
        tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
        lines.append(f"{model}: {asked}, {tokens}{cost}")
    return lines


def _people(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = [f"beside people ({found['labels_with_verdict']} of {found['labels']} labels have a verdict):"]
    for name, value in found.items():
        if isinstance(value, dict):
            lines.append(f"    {name}: {_estimate(value)}")
        elif isinstance(value, str):
            lines.append(f"    {name.removesuffix('_problem')}: none: {value}")
    if "calibration_error" in found:
        lines.append(f"    calibration_error: {found['calibration_error']:.3f}")
    return lines


def _estimate(e: dict[str, Any]) -> str:
    return f"{e['value']:.3f} ({e['low']:.3f} to {e['high']:.3f}, of {e['count']})"
