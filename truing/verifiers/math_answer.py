r"""Whether the last \boxed{} of a completion equals the reference, exactly or within a relative tolerance.

Plain numbers are compared as exact fractions here; everything else by math-verify (Kydlicek, 2024,
https://github.com/huggingface/Math-Verify) in a worker process that is killed at a deadline. Differs
from calling math-verify directly: only the last box counts; numbers have no absolute rounding
(1/2004! is not 1/2006!); a wrong unit is wrong; an unevaluated sum or integral that restates the
problem is wrong. What only the policy can be blamed for scores 0 and says why: no box, an empty or
overlong one, or one that cannot be parsed. What it cannot be blamed for is no score: a reference that
cannot be parsed is "unparsable", a comparison that takes too long "timed_out", a worker that dies or
raises "failed".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from typing import Any

from pydantic import Field

from truing.config import Strict
from truing.types import Verdict
from truing.verifiers import Example
from truing.verifiers._answers import (
    equal_quantities,
    is_prose,
    last_boxed,
    quantity,
    same_unit,
    same_words,
    split_unit,
)
from truing.verifiers._worker import pool


class Config(Strict):
    """Options of the comparison."""

    relative_tolerance: float = Field(
        1e-6, ge=0, lt=1, description="for decimals and irrational numbers; integers and fractions are exact"
    )
    deadline_s: float = Field(5.0, gt=0, description="wall clock of one comparison [s]")
    max_answer_chars: int = Field(500, gt=0, description="a longer boxed answer scores 0 unread")


EXAMPLES: tuple[Example, ...] = (
    Example("gold", "3 + 4 = 7, so \\boxed{7}.", "7"),
    Example("gold", "\\boxed{1,234}", 1234),
    Example("gold", "\\boxed{\\frac{2}{4}}", "0.5"),
    Example("gold", "\\boxed{50\\%}", "0.5"),
    Example("gold", "\\boxed{5 apples}", "5"),
    Example("gold", "\\boxed{3 \\text{ cm}}", "3\\,\\mathrm{cm}"),
    Example("gold", "\\boxed{2\\sqrt{3}}", "\\sqrt{12}"),
    Example("gold", "\\boxed{(x+1)^2}", "$x^2 + 2x + 1$"),
    Example("gold", "\\boxed{\\text{Paris}}", "paris"),
    Example("gold", "first \\boxed{1}, rather \\boxed{2}", "\\boxed{2}"),
    Example("gold", "\\boxed{18}", "She has 9 * 2 = 18.\n#### 18"),
    Example("wrong", "\\boxed{8}", "7", 0.0),
    Example("wrong", "\\boxed{\\sqrt{3}}", "\\sqrt{2}", 0.0),
    Example("wrong", "\\boxed{3 \\text{ m}}", "3 \\text{ cm}", 0.0),
    Example("wrong", "\\boxed{silent}", "listen", 0.0),
    Example("malformed", "the answer is 7", "7", 0.0),
    Example("malformed", "\\boxed{7", "7", 0.0),
    Example("malformed", "\\boxed{}", "7", 0.0),
    Example("malformed", "\\boxed{7}", "\\frac{", None, "unparsable"),
    Example("malformed", "\\boxed{7}", None, None, "unparsable"),
    Example("cheat", "\\boxed{1} \\boxed{2} \\boxed{3}", "2", 0.0),
    Example("cheat", "\\boxed{1, 2, 3}", "2", 0.0),
    Example("cheat", "\\boxed{\\frac{1}{2006!}}", "\\frac{1}{2004!}", 0.0),
    Example("cheat", "\\boxed{2^{-98}}", "2^{-99}", 0.0),
    Example("cheat", "\\boxed{\\sum_{k=1}^{100} k}", "5050", 0.0),
    Example("cheat", "\\boxed{9^{9^{9^{9}}}}", "7", None, "timed_out", {"deadline_s": 1.0}),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    r"""Return 1 when the completion's last \boxed{} equals the reference, 0 when it does not.

    Args:
        completion: the policy's text.
        reference: the answer, as a number or as text: plain, LaTeX, in \boxed{}, or after `####`.
        config: the options.

    Raises:
        VerifierError: no worker can be started on this machine.
    """
    start = time.perf_counter()
    verdict = _verdict(completion, reference, config)
    return replace(verdict, time_s=time.perf_counter() - start)


def gold(reference: Any, config: Config) -> str:
    """Return a completion that must score 1."""
    return f"\\boxed{{{_gold(reference) or ''}}}"


def answer(completion: str, config: Config) -> str | None:
    r"""Return what the completion's last \boxed{} holds, a reference for `verify`; None without one."""
    found = last_boxed(completion)
    return found if found and len(found) <= config.max_answer_chars else None


def verify_many(
    completions: Sequence[str], references: Sequence[Any], config: Config | None = None
) -> list[Verdict]:
    """Return the verdict of each completion on its reference, as many at a time as there are workers."""
    options = config or Config()
    with ThreadPoolExecutor(pool("math").slots) as threads:
        return list(
            threads.map(lambda pair: verify(*pair, options), zip(completions, references, strict=True))
        )


def _verdict(completion: str, reference: Any, config: Config) -> Verdict:
    gold = _gold(reference)
    if gold is None:
        return Verdict(
            "unparsable", evidence=f"the reference must be a number or text, got {reference!r:.80}"
        )
    answer = last_boxed(completion)
    if not answer:
        return Verdict("scored", 0.0, "no \\boxed{} answer" if answer is None else "an empty \\boxed{}")
    if len(answer) > config.max_answer_chars:
        return Verdict("scored", 0.0, f"the boxed answer has over {config.max_answer_chars} characters")
    decided = _in_parent(gold, answer, config.relative_tolerance)
    return decided or _in_worker(gold, answer, config)


def _gold(reference: Any) -> str | None:
    if isinstance(reference, bool) or not isinstance(reference, str | int | float | Fraction):
        return None
    text = str(reference).rpartition("####")[2].strip()
    boxed = last_boxed(text)
    return (text if boxed is None else boxed) or None


def _in_parent(gold: str, answer: str, relative_tolerance: float) -> Verdict | None:
    """Return the verdict on text that is the same, plain numbers or plain words; None for the rest."""
    evidence = f"{answer!r:.60} against {gold!r:.60}"
    a, b = quantity(gold), quantity(answer)
    if a is not None and b is not None:
        return Verdict("scored", float(equal_quantities(a, b, relative_tolerance)), evidence)
    if is_prose(gold):
        return Verdict("scored", float(same_words(gold, answer)), evidence)
    return None


def _in_worker(gold: str, answer: str, config: Config) -> Verdict:
    (gold_body, gold_unit), (answer_body, answer_unit) = split_unit(gold), split_unit(answer)
    if not same_unit(gold_unit, answer_unit):
        return Verdict("scored", 0.0, f"the unit is {answer_unit!r}, not {gold_unit!r}")
    request = {"gold": gold_body, "answer": answer_body, "relative_tolerance": config.relative_tolerance}
    return pool("math").ask(request, config.deadline_s)
