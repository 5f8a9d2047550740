"""The `truing` command: thin; each command parses, calls the library and prints."""

from __future__ import annotations

from typing import Annotated

import typer

from truing.commands import (
    chat,
    compare,
    constitution,
    doctor,
    judge,
    label,
    plugins,
    runs,
    sample,
    search,
    self_reward,
    serve,
    train,
    verify,
)

app = typer.Typer(
    name="truing",
    help="Align language models: SFT, reward models, preference optimisation and online RL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # an unexpected error keeps its plain traceback
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("truing"))
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TRUING_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = {"debug": debug}


app.command("run")(train.run)
app.command("train")(train.train)
app.command("resume")(train.resume)
app.command("runs")(runs.runs)
app.command("sample")(sample.sample)
app.command("compare")(compare.compare)
app.command("scaling")(compare.scaling)
app.command("search")(search.search)
app.command("label-steps")(search.label_steps)
app.command("verify")(verify.verify)
app.command("judge")(judge.judge)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("label")(label.label)
app.add_typer(constitution.app, name="constitution")
app.command("self-reward")(self_reward.self_reward)
app.command("list")(plugins.list_plugins)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command; the entry point of the package."""
    app()


if __name__ == "__main__":
    main()
