"""The child process of `_worker.py`: answers one JSON line with one. Run as a file, so it imports no torch.

A request is {"deadline_s": float, ...}; a reply {"status", "value", "evidence"}. Everything here runs on
text that a policy wrote and may never end: the parent kills the process at the deadline, and should
the parent be gone, the kernel's alarm does, shortly after.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

MAX_MEMORY_BYTES = 4 << 30
ORPHAN_GRACE_S = 2.0
Reply = dict[str, Any]


def compare_math(request: dict[str, Any]) -> Reply:
    """Return whether two LaTeX expressions are equal: gold first, since math-verify is asymmetric."""
    gold = _parse(request["gold"])
    if not gold:
        return _reply("unparsable", None, f"the reference is not readable as LaTeX: {request['gold'][:80]}")
    answer = _parse(request["answer"])
    if not answer:
        return _reply("scored", 0.0, "the boxed answer is not readable as LaTeX")
    equal, how = _equal(gold[0], answer[0], request["relative_tolerance"])
    return _reply("scored", float(equal), how)


def search(request: dict[str, Any]) -> Reply:
    """Return whether the pattern matches the whole text, or is found in it."""
    match = re.fullmatch if request["whole"] else re.search
    found = match(request["pattern"], request["text"], re.DOTALL) is not None
    return _reply("scored", float(found), "matches" if found else "does not match the pattern")


def score_reasoning(request: dict[str, Any]) -> Reply:
    """Return whether reasoning-gym's scorer of the task gives an answer its full mark.

    Partial marks are no marks: several scorers pay for the right prefix, or for listing answers.
    """
    from reasoning_gym import get_score_answer_fn

    mark = get_score_answer_fn(request["name"])(answer=request["answer"], entry=request["entry"])
    return _reply("scored", float(mark >= 1.0), f"the scorer of {request['name']} gives {mark:.2f}")


def _parse(latex: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    return list(
        parse(
            f"\\boxed{{{latex}}}",
            extraction_config=[config],
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,  # signal.alarm would cancel the orphan's; the parent keeps the clock
        )
    )


def _equal(gold: Any, answer: Any, relative_tolerance: float) -> tuple[bool, str]:
    """Return (equal, how it was decided)."""
    import sympy
    from math_verify import verify

    open_ended = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)
    if _has(answer, open_ended) and not _has(gold, open_ended):
        return False, "restates the problem: a sum, product, integral, limit or derivative left as it is"
    if _is_number(gold) and _is_number(answer):
        return _equal_numbers(gold, answer, relative_tolerance), "compared as numbers"
    same = verify(gold, answer, float_rounding=9, strict=True, timeout_seconds=None, raise_on_error=True)
    return bool(same), "compared symbolically"


def _has(value: Any, kinds: tuple[type, ...]) -> bool:
    import sympy

    return isinstance(value, sympy.Basic) and bool(value.has(*kinds))


def _is_number(value: Any) -> bool:
    import sympy

    return isinstance(value, sympy.Expr) and not value.free_symbols and value.is_number is True


def _equal_numbers(gold: Any, answer: Any, relative_tolerance: float) -> bool:
    """Return whether two numbers are equal: rationals exactly, others up to the relative tolerance."""
    import sympy

    if isinstance(gold, sympy.Rational) and isinstance(answer, sympy.Rational):
        return bool(gold == answer)
    a, b = sympy.N(gold, 40), sympy.N(answer, 40)
    if not (a.is_finite and b.is_finite):
        return bool(gold == answer)
    if a == 0 or b == 0:  # nothing is near 0 relatively: settle it exactly
        return bool(sympy.simplify(gold - answer) == 0)
    return bool(abs(a - b) <= relative_tolerance * max(abs(a), abs(b)))


def _reply(status: str, value: float | None, evidence: str) -> Reply:
    return {"status": status, "value": value, "evidence": evidence}


TASKS: dict[str, Callable[[dict[str, Any]], Reply]] = {
    "math": compare_math,
    "regex": search,
    "reasoning": score_reasoning,
}


def _answer(line: str) -> Reply:
    request = json.loads(line)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action kills, whatever runs
    signal.setitimer(signal.ITIMER_REAL, request["deadline_s"] + ORPHAN_GRACE_S)
    try:
        return TASKS[request["task"]](request)
    except Exception as error:  # reported to the parent as a status, by name
        return _reply("failed", None, f"{type(error).__name__}: {error}"[:300])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Say hello when the libraries are loaded, then answer until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing that a library prints can pass for a reply
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timeouts are off
    if sys.argv[1:] == ["math"]:
        compare_math({"gold": "\\frac{1}{2}", "answer": "x", "relative_tolerance": 0.0})  # loads the grammar
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(line)), file=replies, flush=True)


if __name__ == "__main__":
    main()
