"""Whether a completion has the form that was asked for; its content is not looked at.

A pattern may backtrack for ever on text that a policy finds, so it runs in a worker process that is
killed at a deadline; that is "timed_out", never a 0.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from truing.config import Strict
from truing.types import Verdict
from truing.verifiers import Example
from truing.verifiers._answers import last_boxed
from truing.verifiers._worker import pool


class Config(Strict):
    """Which form is asked for."""

    style: Literal["boxed", "think_answer", "regex"] = Field(
        "boxed",
        description="boxed: one non-empty \\boxed{}; think_answer: <think>...</think><answer>...</answer> "
        "and nothing else; regex: the pattern",
    )
    pattern: str | None = Field(
        None, description="regular expression of style 'regex'; the dot takes newlines"
    )
    whole: bool = Field(True, description="regex: the pattern must match the whole completion")
    opened: bool = Field(False, description="think_answer: the prompt already wrote <think>")
    deadline_s: float = Field(2.0, gt=0, description="wall clock of one pattern [s]")

    @model_validator(mode="after")
    def _options_belong_to_the_style(self) -> Config:
        if (self.style == "regex") != (self.pattern is not None):
            raise ValueError("pattern belongs to style 'regex', which needs it")
        if self.opened and self.style != "think_answer":
            raise ValueError("opened belongs to style 'think_answer'")
        if not self.whole and self.style != "regex":
            raise ValueError("whole belongs to style 'regex'")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from error
        return self


_THINK = {"style": "think_answer"}
EXAMPLES: tuple[Example, ...] = (
    Example("gold", "so \\boxed{7}"),
    Example("gold", "<think>3+4</think>\n<answer>7</answer>", options=_THINK),
    Example("gold", "3+4</think><answer>7</answer>", options={**_THINK, "opened": True}),
    Example("gold", "yes.", options={"style": "regex", "pattern": "(yes|no)\\."}),
    Example("wrong", "so 7", value=0.0),
    Example("wrong", "<answer>7</answer>", value=0.0, options=_THINK),
    Example("wrong", "yes. no", value=0.0, options={"style": "regex", "pattern": "(yes|no)\\."}),
    Example("malformed", "\\boxed{7", value=0.0),
    Example("malformed", "\\boxed{ }", value=0.0),
    Example("malformed", "<think>3+4<answer>7</answer>", value=0.0, options=_THINK),
    Example("cheat", "\\boxed{1}\\boxed{2}", value=0.0),
    Example("cheat", "<think></think><answer>7</answer>", value=0.0, options=_THINK),
    Example("cheat", "<think>a</think><answer>1</answer><answer>2</answer>", value=0.0, options=_THINK),
    Example("cheat", "<think>a<think>b</think><answer>1</answer>", value=0.0, options=_THINK),
    Example(
        "cheat",
        "a" * 40 + "!",
        value=None,
        status="timed_out",
        options={"style": "regex", "pattern": "(a+)+", "deadline_s": 0.5},
    ),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 when the completion has the form, 0 when it has not; `reference` is not used.

    Raises:
        VerifierError: no worker can be started on this machine.
    """
    start = time.perf_counter()
    if config.style == "boxed":
        verdict = _boxed(completion)
    elif config.style == "think_answer":
        verdict = _think_answer(completion, config.opened)
    else:
        request = {"pattern": config.pattern, "text": completion, "whole": config.whole}
        verdict = pool("regex").ask(request, config.deadline_s)
    return replace(verdict, time_s=time.perf_counter() - start)


def _boxed(completion: str) -> Verdict:
    count = completion.count("\\boxed{")
    if count != 1:
        return Verdict("scored", 0.0, f"{count} boxed answers, one is asked for")
    filled = bool(last_boxed(completion))
    return Verdict(
        "scored", float(filled), "one boxed answer" if filled else "the box is empty or not closed"
    )


def _think_answer(completion: str, opened: bool) -> Verdict:
    text = "<think>" + completion if opened else completion
    tags = re.findall(r"</?(?:think|answer)>", text)
    if tags != ["<think>", "</think>", "<answer>", "</answer>"]:
        return Verdict("scored", 0.0, f"the tags are {tags[:6]}")
    before, thought, between, answer, after = re.split(r"</?(?:think|answer)>", text)
    if before.strip() or between.strip() or after.strip():
        return Verdict("scored", 0.0, "text outside the tags")
    filled = bool(thought.strip() and answer.strip())
    return Verdict("scored", float(filled), "both parts" if filled else "an empty part")
