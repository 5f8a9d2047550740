"""`truing serve`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from truing.commands.chat import model_of
from truing.commands.outcome import Json, reported
from truing.errors import ConfigError


def serve(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RUN",
            help="A run folder, a model folder, a hub id or a built-in model.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Any address but a loopback one needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_env: Annotated[
        str, typer.Option("--token-env", help="Environment variable with the token that requests must bear.")
    ] = "TRUING_SERVE_TOKEN",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Serve a model at an OpenAI-compatible address, for judges, feedback and any client.

    The model's name in requests is MODEL_OR_RUN as it is given here. Prompts are rendered by the chat
    template that training uses.
    """
    with reported(context, as_json=as_json) as outcome:
        from truing.serve.address import check_address

        token = os.environ.get(token_env)
        check_address(host, token, variable=token_env)  # before a model is loaded
        try:
            from truing.serve.server import serve as run
        except ModuleNotFoundError as error:
            raise ConfigError(f"truing serve needs {error.name}: pip install 'truing[serve]'") from error
        from truing.serve.engine import Engine

        engine = Engine(model_of(model), device=device, alias=model)

        def ready(url: str) -> None:
            record = {"url": url, "model": model, "token": token is not None}
            outcome.show(record, f"serving {model} at {url}; Ctrl-C stops")

        run(engine, host=host, port=port, token=token, ready=ready)
