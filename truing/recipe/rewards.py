"""Which terms of a reward do not go together, or say nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from truing import plugins
from truing.config import Reward, Stage, TermOptions
from truing.errors import PluginError
from truing.recipe.method import Complaint, Method

_SCORES = "reward_model"  # the name of the term that a stage's reward models are


def reward_complaints(values: Mapping[str, Any], stage: Stage | None, method: Method) -> Iterator[Complaint]:
    """Yield what is missing or impossible in [rewards.NAME]; `stage` is None where a key is not valid yet."""
    tables = values.get("rewards")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if isinstance(table, dict):
            yield from _source(name, table, values)
    if stage is None or not method.online or not method.rewarded:
        return
    weights = [r.weight for r in stage.rewards.values()]
    unlisted = stage.reward_model is not None and _SCORES not in stage.rewards
    if weights and not any(weights) and not unlisted:
        yield Complaint(("rewards",), "every weight is 0, so there is nothing to learn", "give one a weight")
    for name, reward in stage.rewards.items():
        yield from _scale(name, reward, stage, method)
        yield from _gate(name, reward, stage)
        options = _term_options(reward)
        if options is not None:
            yield from _term(name, options, stage, method)


def _source(name: str, table: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Complaint]:
    named = any(k in table for k in ("verifier", "term", "judge"))
    if name == _SCORES and named and "reward_model" in values:
        right = "give the verifier's term another name; here only weight, bounds, scale and gate are set"
        yield Complaint(("rewards", name), "reward_model adds a term of this very name", right)
    if name == _SCORES and not named and "reward_model" not in values:
        right = 'for example reward_model = "stage:rm"'
        yield Complaint(
            ("rewards", name), "this is the score of the stage's reward_model, which has none", right
        )
    if name != _SCORES and not named:
        right = 'for example verifier = "math_answer", term = "overlong" or judge = "pointwise"'
        yield Complaint(("rewards", name), "no verifier, term or judge is named", right)
    yield from _judge(name, table)


def _judge(name: str, table: Mapping[str, Any]) -> Iterator[Complaint]:
    judge = table.get("judge")
    if not isinstance(judge, str):
        return
    try:
        completions = getattr(plugins.config_class("judges", judge), "completions", None)
    except PluginError:
        return  # the look-up of the name says so
    if completions != 1:
        what = f"{judge} judges no single completion, which a reward is of"
        yield Complaint(("rewards", name, "judge"), what, "pointwise, reference_guided or rubric")


def _scale(name: str, reward: Reward, stage: Stage, method: Method) -> Iterator[Complaint]:
    path = ("rewards", name, "scale")
    if reward.scale == "none":
        return
    if reward.scale == "group" and stage.sampler is not None and stage.sampler.group_size == 1:
        yield Complaint(
            path, "one completion of a prompt has no spread: the term is 0", "sampler.group_size = 8"
        )
    if "baselines" in (method.needs or ()):
        what = f"{method.name} compares with a greedy completion, which is not among those that a scale is of"
        yield Complaint(path, what, 'scale = "none", or a method such as grpo')
    if method.samples:
        return
    if "accuracy_low" in plugins.config_class("algorithms", method.algorithm).model_fields:
        what = f"{method.name} reads the reward as right (0.5 or more) or wrong, which a scale takes away"
        yield Complaint(path, what, 'scale = "none"')


def _gate(name: str, reward: Reward, stage: Stage) -> Iterator[Complaint]:
    scaled = [n for n, r in stage.rewards.items() if r.scale != "none" and n != name]
    if reward.gate and scaled and reward.failed >= 0:
        what = (
            f"{reward.failed:g} is no loss: '{scaled[0]}' is scaled, so that those who pass get 0 on average"
        )
        yield Complaint(("rewards", name, "failed"), what, "for example failed = -2.0, two deviations below")


def _term_options(reward: Reward) -> TermOptions | None:
    if reward.term is None:
        return None
    try:
        made = plugins.config_class("terms", reward.term)(**reward.options)
    except (PluginError, ValidationError):
        return None  # the look-up of the name and the check of its options say so
    return made if isinstance(made, TermOptions) else None


def _term(name: str, options: TermOptions, stage: Stage, method: Method) -> Iterator[Complaint]:
    others = [n for n in stage.rewards if n != name]
    others += [_SCORES] if stage.reward_model is not None else []
    later = list(stage.rewards)[list(stage.rewards).index(name) :]
    for wanted in options.reads():
        if wanted in later and stage.rewards[wanted].term is not None and wanted != name:
            what = f"'{wanted}' is measured after '{name}', which reads it"
            yield Complaint(("rewards", name, "options", "of"), what, f"put [rewards.{wanted}] first")
        if wanted not in others:
            near = difflib.get_close_matches(wanted, others, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            path = ("rewards", name, "options", "of")
            yield Complaint(
                path, f"there is no term '{wanted}'", f"{hint}the other terms: {', '.join(others)}"
            )
    longest = stage.sampler.max_tokens if stage.sampler is not None else None
    if longest is not None and options.silent_up_to() >= longest:
        what = f"it says nothing up to {options.silent_up_to()} tokens, and the sampler stops at {longest}"
        yield Complaint(
            ("rewards", name, "options"), what, f"options.max_tokens = {longest}, as the sampler's"
        )
    if type(options).batch_wide and "baselines" in (method.needs or ()):
        what = f"{method.name} compares with a greedy completion, which is not of this term's batch"
        yield Complaint(("rewards", name, "term"), what, "remove it, or choose a method such as grpo")
