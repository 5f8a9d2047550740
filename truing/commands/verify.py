"""`truing verify`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from truing import plugins
from truing.commands.outcome import RUN_ERROR, Json, reported
from truing.data.readers import SourceRow, read_rows
from truing.errors import ConfigError, DataError

if TYPE_CHECKING:  # a command's module is imported for --help, and torch is slow
    from truing.types import Verdict

_REFERENCES = ("reference", "answer")


def verify(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Verifier: a name, a dotted path or a .py file.", show_default=False)
    ],
    rows: Annotated[
        str,
        typer.Argument(help="File of rows with completion and reference (or answer).", show_default=False),
    ],
    options: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Of the verifier: key=value, in JSON or as text."),
    ] = None,
    gold: Annotated[
        bool, typer.Option("--gold", help="Score each row's own reference: all must pass before training.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    as_json: Json = False,
) -> None:
    """Score completions of a file, or check that a verifier accepts the file's own answers.

    With --json, one line for each row and a summary as the last. With --gold the exit code is 1 when an
    answer is refused, and the pass rate of the commonest answer, given to every row, is shown: what a
    policy earns that learns nothing.
    """
    with reported(context, as_json=as_json) as outcome:
        module = plugins.load("verifiers", name)
        config = config_of(module, name, options or [])
        source = read_rows(rows, limit=limit)
        references = [_reference(row) for row in source]
        said = [
            _gold(module, name, reference, config) if gold else _completion(row)
            for row, reference in zip(source, references, strict=True)
        ]
        verdicts = _verdicts(module, config, said, references, workers)
        record = summary(verdicts)
        if gold:
            common = Counter(said).most_common(1)[0][0]
            constant = _verdicts(module, config, [common] * len(said), references, workers)
            record |= {"constant": common, "constant_rate": summary(constant)["rate"]}
        if as_json:
            for row, verdict in zip(source, verdicts, strict=True):
                typer.echo(json.dumps({"row": row.number, **asdict(verdict)}, ensure_ascii=False))
        outcome.show(record, "\n".join(_lines(source, verdicts, record, gold)))
    if gold and record["passed"] < len(verdicts):
        raise typer.Exit(RUN_ERROR)


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return counts by status, how many pass (value at least 0.5), and the rate with its interval."""
    from truing.evals.statistics import wilson_interval

    values = [v.value for v in verdicts if v.value is not None]
    passed = sum(value >= 0.5 for value in values)
    low, high = wilson_interval(passed, len(values)) if values else (0.0, 1.0)
    return {
        "rows": len(verdicts),
        "statuses": dict(Counter(v.status for v in verdicts)),
        "passed": passed,
        "rate": passed / len(values) if values else None,
        "low": low,
        "high": high,
        "mean": sum(values) / len(values) if values else None,
    }


def config_of(module: ModuleType, name: str, options: Sequence[str]) -> Any:
    """Return a plug-in's Config from key=value texts; a wrong one is a ConfigError."""
    given = dict[str, Any]()
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise ConfigError(f"--option {option}: write key=value")
        try:
            given[key] = json.loads(text)
        except json.JSONDecodeError:
            given[key] = text
    try:
        return module.Config(**given)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(module.Config.model_fields)
        where = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{name}: {where}: {first['msg']}; its options: {known}") from error


def _reference(row: SourceRow) -> Any:
    return next((row.values[key] for key in _REFERENCES if row.values.get(key) is not None), None)


def _completion(row: SourceRow) -> str:
    value = row.values.get("completion")
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        wanted = "'completion' must be text, or turns whose last one is text"
        raise DataError(f"{row.where}: {wanted}; the columns are {sorted(row.values)}")
    return value


def _gold(module: ModuleType, name: str, reference: Any, config: Any) -> str:
    if not hasattr(module, "gold"):
        raise ConfigError(f"--gold: {name} cannot write an answer from a reference; give completions instead")
    return str(module.gold(reference, config))


def _verdicts(
    module: ModuleType, config: Any, completions: Sequence[str], references: Sequence[Any], workers: int
) -> list[Verdict]:
    def one(pair: tuple[str, Any]) -> Verdict:
        verdict: Verdict = module.verify(*pair, config)
        return verdict

    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(one, zip(completions, references, strict=True)))


def _lines(
    source: Sequence[SourceRow], verdicts: Sequence[Verdict], record: dict[str, Any], gold: bool
) -> Iterator[str]:
    refused = [(row, v) for row, v in zip(source, verdicts, strict=True) if v.value is None or v.value < 0.5]
    for row, verdict in refused[:10]:
        value = "" if verdict.value is None else f" {verdict.value:g}"
        yield f"{row.where}: {verdict.status}{value}: {verdict.evidence}"
    if len(refused) > 10:
        yield f"... and {len(refused) - 10} more"
    statuses = ", ".join(f"{count} {status}" for status, count in record["statuses"].items())
    rate = "nothing was scored"
    if record["rate"] is not None:
        rate = f"{record['rate']:.1%} (95% interval {record['low']:.1%} to {record['high']:.1%})"
    yield f"{record['passed']} of {record['rows']} pass: {rate}; {statuses}"
    if gold and record["constant_rate"] is not None:
        constant = f"passes {record['constant_rate']:.1%}: {record['constant']!r:.60}"
        yield f"the commonest answer alone, given to every row, {constant}"
