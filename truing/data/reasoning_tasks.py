"""Problems of reasoning-gym from a seed, for the verifier `reasoning_gym`; install `truing[reasoning]`."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from truing import plugins
from truing.errors import DataError, PluginError

_ASK = "{question}\nGive the final answer between <answer> and </answer>."


def rows(
    count: int,
    seed: int,
    *,
    task: str = "chain_sum",
    split: Literal["train", "test"] = "train",
    config: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return `count` rows with prompt and reference; the splits share no problem.

    Args:
        count: how many.
        seed: rows are a function of it.
        task: one of `truing.verifiers.reasoning_gym.TASKS`.
        split: a problem's text alone decides its side.
        config: what reasoning-gym's dataset of the task takes, such as {"max_terms": 4}.

    Raises:
        DataError: the task or its config is unknown, or there are not so many different problems.
        PluginError: reasoning-gym is not installed.
    """
    verifiable = plugins.load("verifiers", "reasoning_gym").TASKS
    if task not in verifiable:
        raise DataError(f"reasoning_tasks: '{task}' is none of {', '.join(sorted(verifiable))}")
    try:
        import reasoning_gym
    except ImportError as error:
        raise PluginError("reasoning_tasks needs reasoning-gym: pip install 'truing[reasoning]'") from error
    try:
        problems = reasoning_gym.create_dataset(task, size=40 * count + 200, seed=seed, **(config or {}))
    except (TypeError, AssertionError, ValueError) as error:
        raise DataError(f"reasoning_tasks: {task} does not take {config}: {error}") from error
    found = dict[str, dict[str, Any]]()
    for entry in problems:
        question = entry["question"]
        side = "test" if hashlib.sha256(question.encode()).digest()[0] < 64 else "train"
        if side == split and question not in found:
            plain = json.loads(json.dumps(entry, default=str))
            found[question] = {
                "prompt": _ASK.format(question=question),
                "reference": {"task": task, "entry": plain},
            }
        if len(found) == count:
            return list(found.values())
    raise DataError(
        f"reasoning_tasks: {task} has only {len(found)} different problems for '{split}', not {count}"
    )
