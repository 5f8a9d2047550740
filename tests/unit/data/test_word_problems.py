from __future__ import annotations

import hashlib
import json
import re

import pytest

from truing.data import word_problems
from truing.data.word_problems import rows, split_of
from truing.errors import DataError


def test_rows_are_a_function_of_the_seed() -> None:
    first, again, other = (list(rows(50, s)) for s in (1, 1, 2))
    assert first == again != other


def test_rows_do_not_change_between_releases() -> None:
    made = json.dumps(list(rows(20, 0, worked=True)))
    assert hashlib.sha256(made.encode()).hexdigest()[:12] == "56a99b0f4404"


def test_train_and_test_are_disjoint_whatever_the_seed_and_options() -> None:
    train = {r["prompt"] for s in range(4) for r in rows(300, s, steps=1, max_number=5, operations=["add"])}
    test = {
        r["prompt"]
        for s in range(4)
        for r in rows(300, s, steps=1, max_number=5, operations=["add"], split="test")
    }
    assert not train & test
    sides = [
        split_of(r["prompt"].removesuffix(" Give the final answer in \\boxed{}."))
        for r in rows(50, 3, split="test")
    ]
    assert set(sides) == {"test"}


def test_rows_are_different_problems() -> None:
    prompts = [r["prompt"] for r in rows(500, 0, steps=1)]
    assert len(set(prompts)) == 500


@pytest.mark.parametrize("steps", [1, 2, (1, 2), 4])
def test_worked_solutions_are_right(steps: int | tuple[int, ...]) -> None:
    for row in rows(200, 0, steps=steps, worked=True):
        equations = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", row["completion"])
        assert len(equations) in ([steps] if isinstance(steps, int) else steps)
        for a, sign, b, result in equations:
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
            assert value == int(result) > 0
        assert equations[-1][3] == row["answer"]
        assert row["completion"].endswith(f"\\boxed{{{row['answer']}}}.")


def test_options_set_the_difficulty() -> None:
    made = list(rows(100, 0, steps=1, operations=["multiply"], max_number=4, max_factor=3, worked=True))
    assert all(int(r["answer"]) <= 12 and "*" in r["completion"] for r in made)
    assert "completion" not in next(rows(1, 0))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": []},
        {"operations": ["divide"]},
        {"max_number": 1},
        {"max_factor": 1},
        {"split": "dev"},
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        list(rows(1, 0, **options))  # type: ignore[arg-type]


def test_too_many_rows_is_an_error_not_an_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_problems, "_NAMES", ("Ada", "Ben"))
    monkeypatch.setattr(word_problems, "_ITEMS", ("pies",))
    with pytest.raises(DataError, match=r"only \d+ different problems"):
        list(rows(10**6, 0, steps=1, operations=["multiply"], max_number=2, max_factor=2))
