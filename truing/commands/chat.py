"""`truing chat`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.commands.outcome import Json, Outcome, reported
from truing.errors import ConfigError

if TYPE_CHECKING:
    from truing.types import Message

_MODEL_HELP = "A run folder, a model folder, a hub id or a built-in model."
_HELP = "Type a message; /reset starts over, /exit or Ctrl-D ends."


def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help=_MODEL_HELP, show_default=False)],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Answer this once and stop.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message to begin with.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Talk to a model or to what a run trained."""
    with reported(context, as_json=as_json) as outcome:
        if as_json and prompt is None:
            raise ConfigError("--json answers one prompt: add --prompt TEXT")
        name = model_of(model)
        from truing.train.policy import Policy
        from truing.types import Message

        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        start = [Message("system", system)] if system is not None else []
        if prompt is not None:
            _answer(outcome, Policy(name), name, [*start, Message("user", prompt)], options)
        else:
            _talk(Policy(name), start, options)


def model_of(name: str) -> str:
    """Return the model that a name stands for: a run folder stands for the model of its last stage."""
    from truing.runs import is_run, last_model

    folder = Path(name).expanduser()
    return str(last_model(folder)) if is_run(folder) else name


def _answer(
    outcome: Outcome, policy: Any, name: str, messages: list[Message], options: dict[str, Any]
) -> None:
    completion = policy.complete(messages, **options)
    record = {
        "model": name,
        "prompt": messages[-1].content,
        "completion": completion.text,
        "num_tokens": len(completion.tokens),
        "finish_reason": completion.finish_reason,
        **options,
    }
    outcome.show(record, completion.text)


def _talk(policy: Any, start: list[Message], options: dict[str, Any]) -> None:
    from truing.types import Message

    typer.echo(_HELP)
    messages, seed = list(start), options["seed"]
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        if text == "/exit":
            return
        if text == "/reset":
            messages = list(start)
        elif text.startswith("/"):
            typer.echo(_HELP)
        elif text:
            messages.append(Message("user", text))
            completion = policy.complete(messages, **options | {"seed": seed + len(messages)})
            messages.append(Message("assistant", completion.text))
            typer.echo(
                completion.text + (" [cut at --max-tokens]" if completion.finish_reason == "length" else "")
            )
