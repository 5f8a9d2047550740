"""Feedback on worked word problems from a seed: pairs, single labels, rankings or labelled steps.

The right solution is that of `word_problems`. A wrong one makes one mistake that people make: a slip in
the arithmetic, the wrong operation, a step left out. What follows a mistake is computed on from it, so a
wrong solution is as fluent and about as long as the right one, and only its arithmetic gives it away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from truing.data import word_problems
from truing.errors import DataError

Kind = Literal["pairs", "unpaired", "rankings", "steps"]
_KINDS: tuple[Kind, ...] = ("pairs", "unpaired", "rankings", "steps")
_EQUATION = re.compile(r"(-?\d+) ([-+*]) (\d+) = (-?\d+)")
_WORDS = {"+": "Add {n}", "-": "Take away {n}", "*": "Multiply by {n}"}
_MAX_TRIES = 50


@dataclass(frozen=True, slots=True)
class Solution:
    """A worked solution: its lines, its answer, and how many lines come before its first mistake."""

    lines: tuple[str, ...]
    answer: int
    num_right: int

    @property
    def text(self) -> str:
        """Return the completion, which ends in the boxed answer."""
        return "\n".join([*self.lines, f"The answer is \\boxed{{{self.answer}}}."])


def rows(
    count: int,
    seed: int,
    *,
    kind: Kind = "pairs",
    ties: float = 0.0,
    completions: int = 4,
    steps: int | Sequence[int] = (1, 2),
    operations: Sequence[word_problems.Operation] = word_problems.OPERATIONS,
    max_number: int = 20,
    max_factor: int = 6,
    split: Literal["train", "test"] = "train",
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows on different problems.

    Args:
        count: how many rows.
        seed: the rows are a function of the seed and the options.
        kind: "pairs" (prompt, chosen, rejected), "unpaired" (prompt, completion, label: true where it is
            right, about half of them), "rankings" (prompt, completions, ranks: 1 is right, then by how many
            lines come before the first mistake, equals share a rank) or "steps" (prompt, completions: the
            lines of one solution, labels: true up to the first mistake).
        ties: share of pairs, in [0, 1), of two wrong solutions, neither better; with it every pair has a
            column `preference`: 0.5 for a tie, else 1.
        completions: of each ranking, at least 2; fewer where a problem has not as many mistakes.
        steps: how many operations a problem takes, or the choices.
        operations: which operations occur.
        max_number: largest number that is added, subtracted or started with.
        max_factor: largest factor of a multiplication.
        split: "train" or "test", as in word_problems.

    Raises:
        DataError: an option is out of range, or there are fewer than `count` problems of this kind.
    """
    if kind not in _KINDS:
        raise DataError(f"preferences: kind must be one of {list(_KINDS)}, got {kind!r}")
    if completions < 2 or (kind != "rankings" and completions != 4):
        raise DataError(
            f"preferences: completions is of rankings and at least 2, got {completions} for {kind}"
        )
    if not 0 <= ties < 1 or (ties and kind != "pairs"):
        raise DataError(f"preferences: ties is of pairs and in [0, 1), got {ties} for {kind}")
    rng = random.Random(f"{seed} {split} {kind}")
    problems = word_problems.rows(
        count, seed, steps=steps, operations=operations, max_number=max_number, max_factor=max_factor,
        worked=True, split=split,
    )  # fmt: skip
    for problem in problems:
        *lines, _ = problem["completion"].split("\n")
        right = Solution(tuple(lines), int(problem["answer"]), len(lines))
        yield {"prompt": problem["prompt"], **_feedback(rng, kind, right, completions, ties)}


def _feedback(
    rng: random.Random, kind: Kind, right: Solution, completions: int, ties: float
) -> dict[str, Any]:
    if kind == "pairs":
        return _pair(rng, right, ties)
    if kind == "rankings":
        return _ranking(rng, right, completions)
    shown = right if rng.random() < 0.5 else wrong(rng, right)
    if kind == "unpaired":
        return {"completion": shown.text, "label": shown is right}
    texts = shown.text.split("\n")
    return {
        "completions": texts,
        "labels": [shown is right or i < shown.num_right for i in range(len(texts))],
    }


def _pair(rng: random.Random, right: Solution, ties: float) -> dict[str, Any]:
    other = wrong(rng, right)
    if not ties:
        return {"chosen": right.text, "rejected": other.text}
    if rng.random() < ties:
        for _ in range(_MAX_TRIES):
            second = wrong(rng, right)
            if second.text != other.text:
                return {"chosen": second.text, "rejected": other.text, "preference": 0.5}
    return {"chosen": right.text, "rejected": other.text, "preference": 1.0}


def _ranking(rng: random.Random, right: Solution, completions: int) -> dict[str, Any]:
    found = [right]
    for _ in range(_MAX_TRIES):
        if len(found) == completions:
            break
        other = wrong(rng, right)
        if other.text not in {s.text for s in found}:
            found.append(other)
    rng.shuffle(found)
    worths = [float("inf") if s is right else s.num_right for s in found]
    return {
        "completions": [s.text for s in found],
        "ranks": [1 + len({w for w in worths if w > worth}) for worth in worths],
    }


def wrong(rng: random.Random, right: Solution) -> Solution:
    """Return the solution with one mistake, and everything after it computed on from there."""
    places = [i for i, line in enumerate(right.lines) if _EQUATION.search(line)]
    for _ in range(_MAX_TRIES):
        at = rng.choice(places)
        mistake = rng.choice((_slip, _other_operation, _left_out))
        lines = mistake(rng, right.lines, at)
        if lines is None:
            continue
        lines = _carried_on(lines, at)
        answer = _result(lines)
        if answer != right.answer and answer > 0:
            return Solution(tuple(lines), answer, _shared(lines, right.lines))
    return _misread(right, places[-1])


def _slip(rng: random.Random, lines: Sequence[str], at: int) -> list[str]:
    off = rng.choice((-10, -2, -1, 1, 2, 10))

    def changed(found: re.Match[str]) -> str:
        return f"{found[1]} {found[2]} {found[3]} = {int(found[4]) + off}"

    return [*lines[:at], _EQUATION.sub(changed, lines[at]), *lines[at + 1 :]]


def _other_operation(rng: random.Random, lines: Sequence[str], at: int) -> list[str] | None:
    found = _EQUATION.search(lines[at])
    if found is None or at == 0:  # the first line tells what the problem says
        return None
    sign = rng.choice([s for s in _WORDS if s != found[2]])
    result = _applied(int(found[1]), sign, int(found[3]))
    line = f"{_WORDS[sign].format(n=found[3])}: {found[1]} {sign} {found[3]} = {result}."
    return [*lines[:at], line, *lines[at + 1 :]]


def _left_out(rng: random.Random, lines: Sequence[str], at: int) -> list[str] | None:
    return None if at == 0 else [*lines[:at], *lines[at + 1 :]]


def _misread(right: Solution, at: int) -> Solution:
    """Return the solution with its last equation one too high: what always is a mistake."""

    def changed(found: re.Match[str]) -> str:
        return f"{found[1]} {found[2]} {found[3]} = {int(found[4]) + 1}"

    lines = [*right.lines[:at], _EQUATION.sub(changed, right.lines[at]), *right.lines[at + 1 :]]
    lines = _carried_on(lines, at)
    return Solution(tuple(lines), _result(lines), _shared(lines, right.lines))


def _shared(lines: Sequence[str], right: Sequence[str]) -> int:
    """Return how many lines come before the first that is not the right solution's."""
    pairs = enumerate(zip(lines, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(lines), len(right)))


def _carried_on(lines: Sequence[str], at: int) -> list[str]:
    """Return the lines with each equation after `at` computed from the result before it."""
    out = list(lines)
    for i in range(max(at, 1), len(out)):
        found = _EQUATION.search(out[i])
        if found is None or (i == at and int(found[1]) == _result(out[:i])):
            continue
        before = _result(out[:i])
        after = _applied(before, found[2], int(found[3]))
        out[i] = out[i].replace(found[0], f"{before} {found[2]} {found[3]} = {after}")
    return out


def _result(lines: Sequence[str]) -> int:
    """Return the number that the last line arrives at."""
    return int(re.findall(r"-?\d+", lines[-1])[-1])


def _applied(before: int, sign: str, number: int) -> int:
    return {"+": before + number, "-": before - number, "*": before * number}[sign]
