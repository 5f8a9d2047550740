"""Whether a program passes its tests, run where it can touch nothing, compared where it cannot reach.

The program runs in a sandbox (`truing.sandbox`) and sees inputs one at a time; only values of exact
built-in types come out; the expected values and the comparison stay here. So there is no exit status to
forge, no result file to write, no test to patch and no object that equals everything. What only the
program can be blamed for scores 0: it raises, hangs, exits, floods, returns another value or none. What it
cannot be blamed for is no score: a reference without tests is "unparsable", a sandbox that dies "failed".

The reference is an object in one of three forms:

    {"function": "add", "cases": [[[1, 2], 3], ...]}                 arguments and the expected value
    {"function": "add", "solution": "def add(a, b): ...",             expected values of a reference
     "inputs": [["int", "int"]], "count": 20}                         solution on inputs drawn anew each time
    {"function": "add", "test": "def check(candidate): ..."}          a test's code, in a second sandbox

A type of `inputs` is int, float, bool, str, or list[int], list[float], list[str]; a range may follow, as
in "int(0, 100)". `prefix` is put before the program, for tasks that complete a function.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from dataclasses import replace
from typing import Any

from pydantic import Field

from truing.config import Strict
from truing.sandbox.limits import Limits
from truing.sandbox.process import SubmissionError
from truing.sandbox.sandbox import Raised, Sandbox, Submission, shared_sandbox
from truing.types import Verdict
from truing.verifiers import Example
from truing.verifiers._values import draw, same


class Config(Strict):
    """Options of the tests."""

    call_s: float = Field(
        4.0, gt=0, le=60, description="wall clock of loading the program and of each call [s]"
    )
    total_s: float = Field(20.0, gt=0, le=600, description="wall clock of all its tests [s]")
    memory_mb: int = Field(512, ge=64, description="of each of its processes, and of all together [MiB]")
    relative_tolerance: float = Field(1e-6, ge=0, lt=1, description="where a float is expected; 0 is exact")
    partial: bool = Field(False, description="the share of passed cases instead of all or nothing")


_ADD = {"function": "add", "cases": [[[1, 2], 3], [[0, 0], 0], [[-1, 5], 4], [[123, 456], 579]]}
_DRAWN = {"function": "add", "solution": "def add(a, b):\n    return a + b", "inputs": ["int", "int"]}
_TEST = {"function": "add", "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}
EXAMPLES: tuple[Example, ...] = (
    Example("gold", "def add(a, b):\n    return a + b", _ADD),
    Example("gold", "Here it is:\n```python\nadd = lambda a, b: a + b\n```\nIt adds.", _ADD),
    Example("gold", "def add(a, b):\n    print('debug')\n    return a + b", _DRAWN),
    Example("gold", "    return a + b", {**_TEST, "prefix": "def add(a, b):\n"}),
    Example("wrong", "def add(a, b):\n    return a - b", _ADD, 0.0),
    Example("wrong", "def add(a, b):\n    return a | b", _DRAWN, 0.0),
    Example("wrong", "def add(a, b):\n    return 4", _TEST, 0.0),
    Example("malformed", "def add(a, b) return", _ADD, 0.0),
    Example("malformed", "", _ADD, 0.0),
    Example("malformed", "def add(a, b):\n    return a + b", {"function": "add"}, None, "unparsable"),
    Example("malformed", "def add(a, b):\n    return a + b", None, None, "unparsable"),
    Example("cheat", "import os\nos._exit(0)", _ADD, 0.0),
    Example("cheat", "class X(int):\n    __eq__ = lambda s, o: True\nadd = lambda a, b: X()", _ADD, 0.0),
    Example("cheat", "def add(a, b):\n    raise SystemExit(0)", _TEST, 0.0),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 when the program in the completion passes every test, 0 when it does not.

    Args:
        completion: the policy's text; of several fenced blocks the last one is the program.
        reference: the tests, see above.
        config: the options.

    Raises:
        SandboxError: this machine cannot isolate untrusted code; nothing was run.
    """
    start = time.perf_counter()
    problem = _problem(reference)
    if problem:
        verdict = Verdict("unparsable", evidence=f"the reference {problem}")
    else:
        source = reference.get("prefix", "") + program(completion)
        verdict = _run(source, reference, config)
    return replace(verdict, time_s=time.perf_counter() - start)


def gold(reference: Any, config: Config) -> str:
    """Return a completion that must score 1: the reference's `solution`, or its `canonical_solution`."""
    return str(reference.get("solution") or reference.get("canonical_solution") or "")


def program(completion: str) -> str:
    """Return the last fenced block of a completion, or all of it where there is none."""
    blocks = re.findall(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:\n```|\Z)", completion, re.DOTALL)
    return blocks[-1] if blocks else completion


def _problem(reference: Any) -> str:
    """Return why the reference is no test; "" when it is one."""
    if not isinstance(reference, dict):
        return f"must be an object with function and cases, solution or test, got {reference!r:.60}"
    if not isinstance(reference.get("function"), str) or not reference["function"].isidentifier():
        return "names no function"
    given = [key for key in ("cases", "solution", "test") if reference.get(key)]
    if len(given) != 1:
        return f"must have exactly one of cases, solution and test, and has {given or 'none'}"
    if given == ["cases"] and not all(_is_case(case) for case in reference["cases"]):
        return "has a case that is not [arguments, expected value]"
    if given == ["solution"] and not isinstance(reference.get("inputs"), list):
        return "has a solution without inputs, the list of its arguments' types"
    return ""


def _is_case(case: Any) -> bool:
    return isinstance(case, list | tuple) and len(case) == 2 and isinstance(case[0], list | tuple)


def _run(source: str, reference: dict[str, Any], config: Config) -> Verdict:
    limits = Limits(call_s=config.call_s, total_s=config.total_s, memory_mb=config.memory_mb)
    box = shared_sandbox()
    try:
        cases = _cases(box, reference, limits)
    except (SubmissionError, ValueError) as error:
        return Verdict("unparsable", evidence=f"the reference solution gives no cases: {error}")
    try:
        if cases is None:
            return _tested(box, source, reference, limits)
        with box.submission(limits) as code:
            raised = code.load(source)
            return _unloaded(raised) if raised else _compared(code, reference["function"], cases, config)
    except SubmissionError as error:
        return Verdict("scored", 0.0, f"the program did not behave: {error}")


def _unloaded(raised: Raised) -> Verdict:
    return Verdict("scored", 0.0, f"the program does not load: {raised}")


def _cases(box: Sandbox, reference: dict[str, Any], limits: Limits) -> list[tuple[Any, Any]] | None:
    """Return (arguments, expected value) of each case; None where a test's code decides."""
    if reference.get("cases"):
        return [(tuple(arguments), expected) for arguments, expected in reference["cases"]]
    if reference.get("test"):
        return None
    generator = random.Random(secrets.randbits(64))  # nobody can know the inputs before they are drawn
    drawn = [
        tuple(draw(kind, generator) for kind in reference["inputs"])
        for _ in range(int(reference.get("count", 20)))
    ]
    with box.submission(limits) as solution:
        raised = solution.load(reference.get("prefix", "") + reference["solution"])
        if raised is not None:
            raise ValueError(f"it does not load: {raised}")
        found = [(arguments, solution.call(reference["function"], arguments)) for arguments in drawn]
    failed = next((value for _, value in found if isinstance(value, Raised)), None)
    if failed is not None or not found:
        raise ValueError(f"it raises {failed}" if failed else "count is 0")
    return found


def _compared(code: Submission, name: str, cases: list[tuple[Any, Any]], config: Config) -> Verdict:
    passed, first = 0, ""
    for arguments, expected in cases:
        value = code.call(name, arguments)
        if not isinstance(value, Raised) and same(value, expected, config.relative_tolerance):
            passed += 1
            continue
        said = f"raises {value}" if isinstance(value, Raised) else f"gives {value!r:.60}"
        first = first or f"; {name}{arguments!r:.60} {said}, not {expected!r:.60}"
        if not config.partial:
            break
    share = passed / len(cases) if config.partial else float(passed == len(cases))
    return Verdict("scored", share, f"{passed} of {len(cases)} cases pass{first}")


def _tested(box: Sandbox, source: str, reference: dict[str, Any], limits: Limits) -> Verdict:
    with box.submissions(2, limits) as (code, tester):
        raised = code.load(source)
        if raised is not None:
            return _unloaded(raised)
        setup = reference.get("setup", "")
        raised, calls = tester.check(reference["test"], reference["function"], code, setup=setup)
    if not calls:
        return Verdict("unparsable", evidence=f"the reference's test never calls the function ({raised})")
    if raised is not None:
        return Verdict("scored", 0.0, f"the test fails after {calls} calls: {raised}")
    return Verdict("scored", 1.0, f"the test passes after {calls} calls")
