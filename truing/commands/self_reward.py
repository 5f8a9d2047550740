"""`truing self-reward`."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.commands import ai_options
from truing.commands.chat import model_of
from truing.commands.outcome import Json, reported
from truing.errors import ConfigError


class By(StrEnum):
    """How the policy scores: with reasons and votes, or by the log-probs of one digit."""

    reasons = "reasons"
    digit = "digit"


def self_reward(
    context: typer.Context,
    prompts: Annotated[
        str, typer.Argument(help="File of prompts, split over the rounds.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Of each round's DPO stage, such as learner.learning_rate=1e-6.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="A run, folder, hub id or alias.", show_default=False)
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder of the rounds; the same one continues.")] = Path(
        "runs/self-reward"
    ),
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    count: Annotated[int, typer.Option("-n", "--candidates", min=2, help="Of each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the candidates.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a candidate.")] = 256,
    by: Annotated[By, typer.Option(help="digit: for models that do not hold to a form.")] = By.reasons,
    votes: Annotated[int, typer.Option(min=1, help="Judgements to average, with reasons.")] = 3,
    judge_tokens: Annotated[int, typer.Option(min=8, help="Of a judgement, with reasons.")] = 256,
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="The outsider: a verifier of prompts with answers.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", help="The outsider: a judge that stays as it is.")
    ] = None,
    judge_endpoint: Annotated[
        str | None, typer.Option("--judge-endpoint", help="Of that judge; left out: in this process.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option("--held-out", help="Prompts that the verifier checks around each round.")
    ] = None,
    api_key_env: ai_options.KeyEnv = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Let a model judge its own candidates and learn from them (DPO), watched by a fixed outsider."""
    with reported(context, as_json=as_json) as outcome, ExitStack() as stack:
        _check(model, verifier, judge_model, held_out)
        from truing.ai_feedback.candidates import Sampling
        from truing.ai_feedback.rounds import Round
        from truing.ai_feedback.score import Scoring
        from truing.ai_feedback.self_reward import SelfRewarding, outsider_of, text
        from truing.ai_feedback.self_reward import self_reward as run

        judge = None
        if judge_model is not None:
            access = ai_options.Access(api_key_env, out / "outsider.cache", 8, 600.0)
            asked = (judge_model, judge_endpoint)
            (judge,) = stack.enter_context(ai_options.speakers(access, asked))
        scoring = Scoring(by.value, votes, judge_tokens, seed=seed)
        train: dict[str, Any] = {"seed": seed}
        if held_out is not None:
            train["evaluation"] = {"data": held_out, "verifier": verifier, "max_tokens": max_tokens}
        loop = SelfRewarding(
            model=model_of(model),
            prompts=_prompts(prompts),
            num_rounds=rounds,
            round=Round(
                count, Sampling(temperature, max_tokens, seed), scoring, outsider_of(verifier, {}, judge)
            ),
            folder=out,
            train=train,
            overrides=overrides or (),
            quiet=as_json,
        )
        records = run(loop, lambda said: typer.echo(said, err=True))
        lines = [f"round {r['round']}: {text(r)}" for r in records]
        last = next((r["model"] for r in reversed(records) if r["model"]), None)
        lines.append(f"the last model: {last}" if last else "no round had a pair to learn from")
        outcome.show({"folder": str(out), "model": last, "rounds": records}, "\n".join(lines))


def _check(model: str, verifier: str | None, judge_model: str | None, held_out: str | None) -> None:
    if not model:
        raise ConfigError("set --model: what is trained, and judges itself")
    if (verifier is None) == (judge_model is None):
        raise ConfigError(
            "a model that judges itself needs one fixed outsider to watch it: --verifier, or --judge-model"
        )
    if held_out is not None and verifier is None:
        raise ConfigError("--held-out is checked by a verifier: set --verifier")


def _prompts(path: str) -> list[Any]:
    from truing.data.columns import prompt
    from truing.data.readers import read_rows
    from truing.types import Prompt

    rows = read_rows(path)
    references = [r.values.get("reference", r.values.get("answer")) for r in rows]
    return [Prompt(str(r.number), prompt(r), ref) for r, ref in zip(rows, references, strict=True)]
