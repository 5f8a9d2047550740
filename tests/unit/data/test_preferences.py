"""Feedback on worked problems: the right side is right, the wrong side is wrong by one mistake."""

from __future__ import annotations

import re

import pytest

from truing.data import preferences, word_problems
from truing.data.preferences import Solution
from truing.errors import DataError


def answer(text: str) -> int:
    (found,) = re.findall(r"\\boxed\{(-?\d+)\}", text)
    return int(found)


def first_mistake(text: str, solution: str) -> int:
    """Return how many lines agree with the right solution."""
    pairs = zip(text.split("\n"), solution.split("\n"), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(solution.split("\n")))


@pytest.fixture(scope="module")
def solutions() -> dict[str, str]:
    problems = word_problems.rows(300, 5, steps=(1, 2, 3), worked=True)
    return {p["prompt"]: p["completion"] for p in problems}


def test_of_a_pair_the_chosen_side_is_right_and_the_other_is_not(solutions: dict[str, str]) -> None:
    rows = list(preferences.rows(300, 5, steps=(1, 2, 3)))
    assert {r["prompt"]: r["chosen"] for r in rows} == solutions
    for row in rows:
        assert answer(row["rejected"]) != answer(row["chosen"])
        assert "\\boxed{" in row["rejected"].split("\n")[-1]


def test_length_does_not_give_the_wrong_side_away() -> None:
    rows = list(preferences.rows(400, 0, steps=(1, 2, 3)))
    longer = sum(len(r["chosen"]) > len(r["rejected"]) for r in rows)
    ratio = sum(len(r["chosen"]) for r in rows) / sum(len(r["rejected"]) for r in rows)
    assert longer < 0.6 * len(rows) and 0.9 < ratio < 1.2


def test_after_a_mistake_the_arithmetic_is_consistent() -> None:
    broken = 0
    for row in preferences.rows(300, 2, steps=3):
        equations = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", row["rejected"])
        broken += sum(eval(f"{a}{sign}{b}") != int(c) for a, sign, b, c in equations)
    assert broken <= 300  # one slip at most in each


def test_labels_are_those_of_the_solutions(solutions: dict[str, str]) -> None:
    rows = list(preferences.rows(300, 5, kind="unpaired", steps=(1, 2, 3)))
    for row in rows:
        assert row["label"] == (row["completion"] == solutions[row["prompt"]])
    assert 0.4 < sum(r["label"] for r in rows) / len(rows) < 0.6


def test_ranks_follow_the_first_mistake(solutions: dict[str, str]) -> None:
    for row in preferences.rows(100, 5, kind="rankings", steps=(1, 2, 3)):
        assert len(set(row["completions"])) == len(row["ranks"]) == 4
        right = [
            float("inf") if c == solutions[row["prompt"]] else first_mistake(c, solutions[row["prompt"]])
            for c in row["completions"]
        ]
        order = sorted(set(right), reverse=True)
        assert row["ranks"] == [1 + order.index(r) for r in right]


def test_steps_are_right_up_to_the_first_mistake(solutions: dict[str, str]) -> None:
    rows = list(preferences.rows(300, 5, kind="steps", steps=(1, 2, 3)))
    for row in rows:
        good = first_mistake("\n".join(row["completions"]), solutions[row["prompt"]])
        assert row["labels"] == [i < good for i in range(len(row["completions"]))]
    assert any(all(r["labels"]) for r in rows) and not all(all(r["labels"]) for r in rows)


def test_a_tie_is_of_two_wrong_solutions(solutions: dict[str, str]) -> None:
    rows = list(preferences.rows(300, 5, ties=0.3, steps=(1, 2, 3)))
    for row in rows:
        assert row["preference"] == (1.0 if row["chosen"] == solutions[row["prompt"]] else 0.5)
        assert solutions[row["prompt"]] != row["rejected"] != row["chosen"]
    assert 0.2 < sum(r["preference"] == 0.5 for r in rows) / len(rows) < 0.4


def test_a_dead_end_still_gives_a_mistake() -> None:
    right = Solution(("There are 5 pens.", "Add 3: 5 + 3 = 8."), 8, 2)
    assert preferences._misread(right, 1).answer == 9


def test_rows_are_a_function_of_the_seed() -> None:
    one, two, other = (list(preferences.rows(20, s, kind="rankings")) for s in (1, 1, 2))
    assert one == two != other
    train = {r["prompt"] for r in preferences.rows(200, 0)}
    assert not train & {r["prompt"] for r in preferences.rows(50, 0, split="test")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "triples"}, "kind must be"),
        ({"completions": 3}, "of rankings"),
        ({"kind": "rankings", "completions": 1}, "at least 2"),
        ({"kind": "steps", "ties": 0.1}, "ties is of pairs"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(preferences.rows(2, 0, **options))
