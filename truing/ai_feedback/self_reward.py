"""Self-rewarding rounds: M_t judges its own candidates, and DPO from and against M_t makes M_t+1.

Yuan et al. 2024, arXiv:2401.10020. Each round takes fresh prompts, pairs the best with the worst candidate,
drops ties, and trains with M_t as the start and as the reference. The rounds end early where every prompt
is tied: the policy's judgement has nothing left to say.

Differs from the paper: prompts are given, where theirs are written by the model; there is no first
training on judgements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truing import api
from truing.ai_feedback.audit import Audit, digest
from truing.ai_feedback.rounds import Outsider, Round, judged_group, pair_rows, report
from truing.ai_feedback.speaker import Speaker
from truing.ai_feedback.work import work, write_rows
from truing.errors import ConfigError
from truing.judges.client import judge_from
from truing.recipe import recipe_from_dict
from truing.runs import is_run, last_model
from truing.types import Prompt

_DPO: dict[str, Any] = {"algorithm": "dpo", "epochs": 1, "batch_size": 16, "options": {"beta": 0.1}}


@dataclass(frozen=True, slots=True)
class SelfRewarding:
    """A loop of rounds in a folder.

    Args:
        model: M_0, by name.
        prompts: split into as many parts as there are rounds; their references are for the outsider.
        num_rounds: how many.
        round: candidates, scores and the outsider.
        folder: one folder a round; the same folder continues.
        train: keys of the DPO stage over the defaults, such as learner and batch_size.
        overrides: `key=value`, over all others.
        at_once: prompts under way.
        quiet: no progress of the training on the terminal.
    """

    model: str
    prompts: Sequence[Prompt]
    num_rounds: int
    round: Round
    folder: Path
    train: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    at_once: int = 8
    quiet: bool = False


def self_reward(loop: SelfRewarding, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the report of every round; a finished round of an earlier call is not run again.

    Raises:
        ConfigError: there are fewer prompts than rounds, or the folder holds rounds of other settings.
    """
    if len(loop.prompts) < loop.num_rounds:
        raise ConfigError(f"{len(loop.prompts)} prompts for {loop.num_rounds} rounds: give more prompts")
    _same_settings(loop)
    records, model = list[dict[str, Any]](), loop.model
    for number in range(1, loop.num_rounds + 1):
        place = loop.folder / f"round-{number}"
        record = _finished(place) or _round(loop, number, model, place, say)
        records.append(record)
        say(f"round {number}: " + text(record))
        if record["model"] is None:
            say("every prompt is tied, so there is nothing to learn: the rounds end here")
            break
        model = record["model"]
    return records


def _round(
    loop: SelfRewarding, number: int, model: str, place: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    part = loop.prompts[number - 1 :: loop.num_rounds]
    table = {
        "model": model,
        "cache": str(place / "replies.cache"),
        "max_concurrency": 64,
        "timeout_s": 3600.0,  # in this process: a slow machine is no failure
        "deadline_s": 3600.0,
    }
    sampling = replace(loop.round.sampling, seed=loop.round.sampling.seed + number)
    how = replace(loop.round, sampling=sampling)
    with judge_from(table) as client, Audit(place / "audit.jsonl") as audit:
        policy = Speaker(model, client)
        groups = work(
            part,
            lambda p: judged_group(policy, p, how, audit),
            at_once=loop.at_once,
            say=lambda t: say(f"round {number}: judged {t} prompts"),
        )
    record = {"round": number, "start": model, "model": None, **report(groups)}
    rows = pair_rows(groups, model=model, number=number)
    if rows:
        write_rows(place / "pairs.jsonl", rows, what="pair")
        record |= _trained(loop, number, model, place)
    _write(place / "round.json", record)
    return record


def _trained(loop: SelfRewarding, number: int, model: str, place: Path) -> dict[str, Any]:
    """Train M_t+1 on the round's pairs, or continue to, and return it with the outsider's measurements."""
    folder = place / "dpo"
    if is_run(folder):
        result = api.resume(folder, quiet=loop.quiet)
    else:
        recipe = {**_DPO, **loop.train, "name": f"round-{number}", "model": model}
        recipe["data"] = {"overlong": "drop", **recipe.get("data", {}), "train": str(place / "pairs.jsonl")}
        checked = recipe_from_dict(recipe, source="self-rewarding", overrides=loop.overrides)
        result = api.start(checked, folder, quiet=loop.quiet)
    rates = {f"outside_{e['when']}": e["rate"] for e in result.evaluations if e["when"] != "step"}
    return {"model": str(last_model(folder)), "evaluations": result.evaluations, **rates}


def _same_settings(loop: SelfRewarding) -> None:
    """Raise where the folder was begun with other settings: its rounds would not follow from each other."""
    how, outsider = loop.round, loop.round.outsider
    asked = digest(
        [
            loop.model, [[m.content for m in p.messages] for p in loop.prompts], loop.num_rounds, how.count,
            how.sampling, how.scoring, outsider.term and outsider.term.name,
            outsider.judge and outsider.judge.name, dict(loop.train), list(loop.overrides),
        ]
    )  # fmt: skip
    path = loop.folder / "settings.json"
    if not path.is_file():
        loop.folder.mkdir(parents=True, exist_ok=True)
        _write(path, {"digest": asked})
    elif json.loads(path.read_text(encoding="utf-8"))["digest"] != asked:
        raise ConfigError(f"{loop.folder} holds rounds of other prompts or options: give another --out")


def _finished(place: Path) -> dict[str, Any] | None:
    path = place / "round.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, record: Mapping[str, Any]) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(record, ensure_ascii=False, default=str), encoding="utf-8")
    beside.replace(path)


def text(record: Mapping[str, Any]) -> str:
    """Return a round's report as a person reads it."""

    def number(key: str, form: str) -> str:
        return "none" if record.get(key) is None else format(record[key], form)

    parts = [
        f"{record['pairs']} pairs, {record['tied_prompts']} of {record['prompts']} prompts tied",
        f"own score {number('own_score', '.2f')} (std {number('own_score_std', '.2f')})",
        f"outside score {number('outside_score', '.3f')}",
        f"agreement {number('agreement', '.0%')} of {record['outside_decided']}",
        f"{number('mean_tokens', '.0f')} tokens",
    ]
    if record.get("outside_after") is not None:
        parts.append(f"held out {number('outside_before', '.1%')} to {number('outside_after', '.1%')}")
    return "; ".join(parts)


def outsider_of(verifier: str | None, options: Mapping[str, Any], judge: Speaker | None) -> Outsider:
    """Return the outsider: a verifier by name, or a judge."""
    from truing.rewards import load_term

    if verifier is None:
        return Outsider(None, judge)
    return Outsider(load_term(verifier, verifier, 1.0, options), judge)
