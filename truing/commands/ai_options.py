"""What the commands of AI feedback share: which models speak, through which cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.commands.chat import model_of

if TYPE_CHECKING:
    from truing.ai_feedback.speaker import Speaker

Model = Annotated[
    str | None,
    typer.Option("--model", help="What writes; at the endpoint, or a run, folder, hub id or alias."),
]
EndpointUrl = Annotated[
    str | None,
    typer.Option("--endpoint", help="Base URL that speaks OpenAI's protocol; left out: in this process."),
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="What judges; --model if left out.")]
JudgeUrl = Annotated[
    str | None, typer.Option("--judge-endpoint", help="Of the judge; --endpoint if left out.")
]
KeyEnv = Annotated[
    str | None, typer.Option("--api-key-env", help="Environment variable that holds the API key.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="File of replies; a continued command asks nothing twice. Default: OUT.cache"
    ),
]
AuditPath = Annotated[Path | None, typer.Option("--audit", help="The audit trail. Default: OUT.audit.jsonl")]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Requests under way.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1.0, help="Of one request [s].")]


@dataclass(frozen=True, slots=True)
class Access:
    """How models are reached."""

    api_key_env: str | None
    cache: Path
    at_once: int
    timeout_s: float


@contextmanager
def speakers(access: Access, *asked: tuple[str, str | None]) -> Iterator[list[Speaker]]:
    """Give a speaker for each (model, URL or None), opened once where two are the same, closed at the end."""
    from truing.ai_feedback.speaker import Speaker
    from truing.judges.client import judge_from

    with ExitStack() as stack:
        opened: dict[tuple[str, str | None], Speaker] = {}
        for model, url in asked:
            if (model, url) not in opened:
                table = {
                    "model": model if url else model_of(model), "url": url, "cache": str(access.cache),
                    "max_concurrency": access.at_once, "timeout_s": access.timeout_s,
                    "deadline_s": 4 * access.timeout_s,
                }  # fmt: skip
                table |= {"api_key_env": access.api_key_env} if url and access.api_key_env else {}
                opened[(model, url)] = Speaker(model, stack.enter_context(judge_from(table)))
        yield [opened[key] for key in asked]


def beside(out: Path, given: Path | None, ending: str) -> Path:
    """Return the given path, or the output's with another ending."""
    return given if given is not None else out.with_suffix(ending)
