"""Whether an answer solves a problem of reasoning-gym, by its own scorer, made safe for a reward.

Stojanovski et al. 2025, arXiv:2505.24760. Its scorers are used for tasks whose every wrong answer they refuse
(`TASKS`; among the others is one that pays any answer, and one that pays prefixes), on stripped text, in a
process that is killed at a deadline, and only a full mark counts. An exception of a scorer is "failed".
The reference is what the generator `reasoning_tasks` writes: {"task": name, "entry": {...}}.
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal

from pydantic import Field

from truing.config import Strict
from truing.types import Verdict
from truing.verifiers import Example
from truing.verifiers._answers import last_boxed
from truing.verifiers._worker import pool

TASKS = frozenset({
    "basic_arithmetic", "chain_sum", "count_bits", "count_primes", "decimal_chain_sum", "gcd",
    "leg_counting", "letter_counting", "number_sorting", "products", "simple_equations",
})  # fmt: skip


class Config(Strict):
    """Where the answer stands."""

    where: Literal["answer_tag", "boxed", "whole"] = Field(
        "answer_tag", description="<answer>...</answer>, the last \\boxed{}, or the whole completion"
    )
    deadline_s: float = Field(5.0, gt=0, description="wall clock of one score [s]")


_SUM = {
    "task": "chain_sum",
    "entry": {"question": "4 - 1 - 7 =", "answer": "-4", "metadata": {"source_dataset": "chain_sum"}},
}
EXAMPLES: tuple[Example, ...] = (
    Example("gold", "so <answer> -4\n</answer>", _SUM),
    Example("gold", "\\boxed{-4}", _SUM, options={"where": "boxed"}),
    Example("wrong", "<answer>4</answer>", _SUM, 0.0),
    Example("malformed", "-4", _SUM, 0.0),
    Example("malformed", "<answer></answer>", _SUM, 0.0),
    Example("malformed", "<answer>-4</answer>", "-4", None, "unparsable"),
    Example("malformed", "<answer>1</answer>", {"task": "coin_flip", "entry": {}}, None, "unparsable"),
    Example("cheat", "<answer>-4 4 3</answer>", _SUM, 0.0),
    Example("cheat", "<answer>4</answer><answer>-4</answer>", _SUM, 0.0),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 when the scorer gives the answer its full mark, 0 when it does not.

    Raises:
        VerifierError: no worker can be started on this machine.
    """
    start = time.perf_counter()
    verdict = _verdict(completion, reference, config)
    return Verdict(verdict.status, verdict.value, verdict.evidence, time.perf_counter() - start)


def gold(reference: Any, config: Config) -> str:
    """Return a completion that must score 1."""
    answer = str(reference["entry"]["answer"])
    shapes = {"answer_tag": f"<answer>{answer}</answer>", "boxed": f"\\boxed{{{answer}}}", "whole": answer}
    return shapes[config.where]


def _verdict(completion: str, reference: Any, config: Config) -> Verdict:
    if not isinstance(reference, dict) or not isinstance(reference.get("entry"), dict):
        return Verdict("unparsable", evidence="the reference must be an object with task and entry")
    if reference.get("task") not in TASKS:
        return Verdict("unparsable", evidence=f"{reference.get('task')!r:.40} is none of {sorted(TASKS)}")
    answer = _answer(completion, config.where)
    if not answer:
        return Verdict("scored", 0.0, f"there is no answer where one belongs ({config.where})")
    request = {"name": reference["task"], "answer": answer, "entry": reference["entry"]}
    return pool("reasoning").ask(request, config.deadline_s)


def _answer(completion: str, where: str) -> str:
    if where == "boxed":
        return (last_boxed(completion) or "").strip()
    if where == "answer_tag":
        found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
        return found[0].strip() if len(found) == 1 else ""
    return completion.strip()
