"""Whether the answer in a completion is, word for word, one of the reference's answers."""

from __future__ import annotations

import re
import string
import time
import unicodedata
from typing import Any, Literal

from pydantic import Field

from truing.config import Strict
from truing.types import Verdict
from truing.verifiers import Example
from truing.verifiers._answers import last_boxed


class Config(Strict):
    """Where the answer stands and how strictly it is compared."""

    where: Literal["whole", "last_line", "boxed", "answer_tag"] = Field(
        "whole", description="whole completion, its last line, the last \\boxed{}, or <answer>...</answer>"
    )
    ignore_case: bool = Field(True, description="A equals a")
    ignore_punctuation: bool = Field(False, description="what string.punctuation holds is taken out")


EXAMPLES: tuple[Example, ...] = (
    Example("gold", " Paris\n", "paris"),
    Example("gold", "It is in France.\nParis", "Paris", options={"where": "last_line"}),
    Example("gold", "so \\boxed{B}", ["B", "b)"], options={"where": "boxed"}),
    Example("gold", "<think>A or B</think><answer>B</answer>", "B", options={"where": "answer_tag"}),
    Example("gold", "yes!", "Yes", options={"ignore_punctuation": True}),
    Example("wrong", "London", "Paris", 0.0),
    Example("wrong", "paris", "Paris", 0.0, options={"ignore_case": False}),
    Example("malformed", "B", "B", 0.0, options={"where": "boxed"}),
    Example("malformed", "", "Paris", 0.0),
    Example("malformed", "Paris", None, None, "unparsable"),
    Example("malformed", "Paris", [], None, "unparsable"),
    Example("cheat", "Paris London Rome", "Paris", 0.0),
    Example("cheat", "<answer>A</answer><answer>B</answer>", "B", 0.0, options={"where": "answer_tag"}),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 when the answer equals the reference, or one of a list of them; 0 when it does not.

    Spaces at the ends and their number between words never count.
    """
    start = time.perf_counter()
    wanted = reference if isinstance(reference, list) else [reference]
    if not wanted or not all(isinstance(w, str | int) and not isinstance(w, bool) for w in wanted):
        verdict = Verdict(
            "unparsable", evidence=f"the reference must be text, or a list of it: {reference!r:.60}"
        )
    else:
        verdict = _compare(_answer(completion, config.where), [str(w) for w in wanted], config)
    return Verdict(verdict.status, verdict.value, verdict.evidence, time.perf_counter() - start)


def gold(reference: Any, config: Config) -> str:
    """Return a completion that must score 1."""
    answer = str(reference[0] if isinstance(reference, list) and reference else reference)
    shapes = {"boxed": f"\\boxed{{{answer}}}", "answer_tag": f"<answer>{answer}</answer>"}
    return shapes.get(config.where, answer)


def answer(completion: str, config: Config) -> str | None:
    """Return the completion's answer, which `verify` takes as a reference; None without one."""
    found = _answer(completion, config.where)
    return found if found and found.strip() else None


def _answer(completion: str, where: str) -> str | None:
    if where == "boxed":
        return last_boxed(completion)
    if where == "answer_tag":
        found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
        return found[0] if len(found) == 1 else None  # two answers are a guess
    if where == "last_line":
        lines = completion.strip().splitlines()
        return lines[-1] if lines else None
    return completion


def _compare(answer: str | None, wanted: list[str], config: Config) -> Verdict:
    if answer is None:
        return Verdict("scored", 0.0, f"there is no answer where one belongs ({config.where})")
    found = _plain(answer, config)
    return Verdict("scored", float(found in {_plain(w, config) for w in wanted}), f"{found!r:.60}")


def _plain(text: str, config: Config) -> str:
    text = unicodedata.normalize("NFKC", text)
    if config.ignore_case:
        text = text.casefold()
    if config.ignore_punctuation:
        text = text.translate(str.maketrans("", "", string.punctuation))
    return " ".join(text.split())
