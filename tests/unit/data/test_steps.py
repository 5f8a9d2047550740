from __future__ import annotations

import math
from typing import Any

import pytest

from truing.config import Data
from truing.data.readers import SourceRow
from truing.data.step_labels import from_ratings, from_rollouts
from truing.data.steps import steps
from truing.errors import DataError
from truing.train.batches import batch_of


def read(tokenizer: Any, *values: dict[str, Any], **options: Any) -> Any:
    rows = [SourceRow(v, "x.jsonl", n) for n, v in enumerate(values, 1)]
    return steps(rows, tokenizer, Data.model_validate({"train": "x.jsonl", **options}))


def labelled(tokenizer: Any, row: Any) -> list[tuple[str, float]]:
    """Return what is said up to each labelled token, and the label."""
    ends = [i for i, label in enumerate(row.step_labels) if not math.isnan(label)]
    return [(tokenizer.decode(row.tokens[: i + 1]), row.step_labels[i]) for i in ends]


THREE = {"prompt": "q", "completions": ["one", "the two", "three ✓"]}
SAID = ["one\n", "one\nthe two\n", "one\nthe two\nthree ✓"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"labels": [True, False, True]}, [1, 0, 1]),
        ({"labels": [0.75, None, 0]}, [0.75, None, 0]),
        ({"ratings": [1, 0, -1]}, [1, 1, 0]),
        ({"ratings": [1, -1, 1]}, [1, 0, None]),
        ({"rollouts": [[1, 1], [0, 1], [0, 0]]}, [1, 0.5, 0]),
    ],
)
def test_labels_sit_on_the_last_token_of_their_steps(
    tokenizer: Any, labels: dict[str, Any], expected: list[float | None]
) -> None:
    rows, report = read(tokenizer, {**THREE, **labels})
    assert labelled(tokenizer, rows[0]) == [
        (text, label) for text, label in zip(SAID, expected, strict=True) if label is not None
    ]
    assert len(rows[0].tokens) == len(rows[0].mask) == len(rows[0].step_labels) == report.trained_tokens
    assert tokenizer.decode(rows[0].tokens) == SAID[-1]  # nothing after the last step


def test_switches(tokenizer: Any) -> None:
    bad, _ = read(tokenizer, {**THREE, "ratings": [1, 0, 1]}, steps={"neutral": "bad"})
    assert [label for _, label in labelled(tokenizer, bad[0])] == [1, 0, 1]
    hard, _ = read(tokenizer, {**THREE, "rollouts": [[1], [0, 1], [0]]}, steps={"rollouts": "hard"})
    assert [label for _, label in labelled(tokenizer, hard[0])] == [1, 1, 0]
    other, _ = read(tokenizer, {**THREE, "labels": [1, 1, 1]}, steps={"separator": " | "})
    assert labelled(tokenizer, other[0])[0][0] == "one | "


def test_prm800k(tokenizer: Any) -> None:
    def step(*found: tuple[str, int | None], chosen: int | None = 0, human: str | None = None) -> Any:
        completions = [{"text": t, "rating": r, "flagged": False} for t, r in found]
        written = None if human is None else {"text": human, "rating": None}
        return {"completions": completions, "chosen_completion": chosen, "human_completion": written}

    label = {
        "finish_reason": "found_error",
        "steps": [
            step(("no", -1), ("one", 1), chosen=1),
            step(("no", -1), chosen=None, human="two"),
            step(("so so", 0)),
            step(("wrong", -1), chosen=None),
        ],
    }
    rows, _ = read(tokenizer, {"question": {"problem": "q", "ground_truth_answer": "2"}, "label": label})
    assert tokenizer.decode(rows[0].tokens) == "one\ntwo\nso so\nwrong"
    assert [v for _, v in labelled(tokenizer, rows[0])] == [1, 1, 1, 0]
    with pytest.raises(DataError, match="row 1: 'question' and 'label' are not PRM800K's"):
        read(tokenizer, {"question": {}, "label": label})


def test_math_shepherd(tokenizer: Any) -> None:
    text = "Janet has 2. Step 1: one ки\nStep 2: two ки\nStep 3: so: 4 ки"
    label = "Janet has 2. Step 1: one +\nStep 2: two -\nStep 3: so: 4 -"
    rows, _ = read(tokenizer, {"input": text, "label": label, "task": "GSM8K"})
    assert "Janet has 2." in tokenizer.decode(rows[0].prompt_tokens)
    assert tokenizer.decode(rows[0].tokens) == "Step 1: one\nStep 2: two\nStep 3: so: 4"
    assert [v for _, v in labelled(tokenizer, rows[0])] == [1, 0, 0]
    with pytest.raises(DataError, match="differs at step 2"):
        read(tokenizer, {"input": text, "label": label.replace("two -", "2 -")})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": [1, 1]}, "'labels' must be a list of 3"),
        ({"labels": [1, 2, 1]}, "the label of step 2 is 2"),
        ({"labels": [None, None, None]}, "none of 3 steps is labelled"),
        ({"labels": [1, 1, 1], "ratings": [1, 1, 1]}, "labels and ratings labels the steps"),
        ({}, "nothing labels the steps"),
        ({"ratings": [1, 5, 1]}, "step 2 is rated 5"),
        ({"rollouts": [[1], [], [0]]}, "the continuations of step 2"),
        ({"rollouts": [1, 0, 1]}, "'rollouts'"),
        ({"completions": ["a", " ", "b"], "labels": [1, 1, 1]}, "step 2 is empty"),
        ({"completions": ["a", "b\nc", "d"], "labels": [1, 1, 1]}, "step 2 holds the separator"),
        ({"completions": "abc", "labels": [1, 1, 1]}, "must be a list of steps"),
        ({"completions": None, "completion": "a"}, "are not those of steps"),
    ],
)
def test_wrong_columns_are_named_with_the_row(tokenizer: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"x.jsonl, row 1.*{message}"):
        read(tokenizer, {**THREE, **values})


def test_a_separator_that_merges_with_the_next_step_is_refused(tokenizer: Any) -> None:
    """The tokenizer of these tests joins " a": with a space as separator no token ends the first step."""
    with pytest.raises(DataError, match="row 1: the tokenizer joins the end of step 1"):
        read(
            tokenizer, {"prompt": "q", "completions": ["x", "a"], "labels": [1, 0]}, steps={"separator": " "}
        )


def test_labels_are_cut_with_their_tokens(tokenizer: Any) -> None:
    row = {**THREE, "labels": [1, None, 0]}
    cut, report = read(tokenizer, row, max_completion_tokens=6, overlong="truncate")
    assert (len(cut[0].step_labels), report.truncated) == (6, 1)
    assert [v for _, v in labelled(tokenizer, cut[0])] == [1]
    with pytest.raises(DataError, match=r"none of 1 rows is left \(1 overlong"):
        read(tokenizer, row, max_completion_tokens=2, overlong="truncate")


def test_a_batch_counts_labelled_steps(tokenizer: Any) -> None:
    rows, _ = read(tokenizer, {**THREE, "labels": [1, None, 0]}, {**THREE, "labels": [1, 1, 0]})
    assert batch_of(rows).count()["step"] == 5


def test_pure_functions_refuse_what_is_no_label() -> None:
    with pytest.raises(ValueError, match="step 1 is rated True"):
        from_ratings([True], neutral="good")
    with pytest.raises(ValueError, match="continuations of step 1"):
        from_rollouts([[0.5]], how="soft")
