"""Judged completions: every way to write the judgement, and what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from truing.config import Data
from truing.data.readers import SourceRow, read_rows
from truing.data.records import unpaired
from truing.errors import DataError
from truing.train.batches import batch_of

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def source(*values: dict[str, Any]) -> list[SourceRow]:
    return [SourceRow(v, "x.jsonl", n) for n, v in enumerate(values, 1)]


def data(**options: Any) -> Data:
    return Data(train="x.jsonl", **options)


@pytest.mark.parametrize(
    ("judgement", "label"),
    [
        ({"label": True}, 1.0),
        ({"label": False}, 0.0),
        ({"label": 1}, 1.0),
        ({"label": 0}, 0.0),
        ({"label": 0.3}, 0.3),
        ({"label": "true"}, 1.0),
        ({"label": "False"}, 0.0),
        ({"label": "0"}, 0.0),
        ({"rating": 0.75}, 0.75),
        ({"rating": 0.0, "label": None}, 0.0),
        ({"thumbs": "up"}, 1.0),
        ({"thumbs": "Down"}, 0.0),
        ({"thumbs": True}, 1.0),
    ],
)
def test_every_way_to_judge(tokenizer: Any, judgement: dict[str, Any], label: float) -> None:
    rows, report = unpaired(source({"prompt": "q", "completion": "a", **judgement}), tokenizer, data())
    assert [r.label for r in rows] == [label]
    assert report.kept == 1 and report.trained_tokens == 2


@pytest.mark.parametrize(
    ("judgement", "message"),
    [
        ({}, r"row 1: columns \['prompt', 'completion'\] are not those of unpaired: .*one of label, rating"),
        ({"lable": True}, "did you mean 'label' where it says 'lable'"),
        ({"label": 2}, r"row 1: 'label' is 2; right would be true, false, or a number from 0 \(bad\) to 1"),
        ({"label": -0.1}, "'label' is -0.1"),
        ({"label": float("nan")}, "'label' is nan"),
        ({"label": "good"}, "'label' is 'good'"),
        ({"rating": 4}, "'rating' is 4"),
        ({"thumbs": "sideways"}, "'thumbs' is 'sideways'; right would be 'up' or 'down'"),
        ({"label": [1]}, r"'label' is \[1\]"),
        ({"label": True, "rating": 0.2}, "label and rating both judge the completion; keep one column"),
    ],
)
def test_an_unclear_judgement_is_an_error(tokenizer: Any, judgement: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        unpaired(source({"prompt": "q", "completion": "a", **judgement}), tokenizer, data())


def test_a_conversation_is_judged_by_its_last_turn(tokenizer: Any) -> None:
    turns = [USER, {"role": "assistant", "content": "first"}, USER, ASSISTANT]
    rows, _ = unpaired(source({"messages": turns, "label": 0}), tokenizer, data())
    trained = [t for t, on in zip(rows[0].tokens, rows[0].mask, strict=True) if on]
    assert tokenizer.decode(trained) == "a<|im_end|>"
    assert "first" in tokenizer.decode(rows[0].prompt_tokens)


def test_labels_reach_the_batch_in_order(tokenizer: Any) -> None:
    judged = [{"prompt": f"q{i}", "completion": "a", "label": i % 2} for i in range(4)]
    rows, _ = unpaired(source(*judged), tokenizer, data())
    batch = batch_of(rows)
    assert batch.labels is not None and batch.labels.tolist() == [0.0, 1.0, 0.0, 1.0]
    count = batch.count()
    assert (count["desirable"], count["undesirable"], count["sequence"]) == (2, 2, 4)


def test_a_cut_row_keeps_its_label(tokenizer: Any) -> None:
    rows, report = unpaired(
        source({"prompt": "q", "completion": "a long reply", "label": 0}),
        tokenizer,
        data(max_completion_tokens=3, overlong="truncate"),
    )
    assert (rows[0].label, len(rows[0].tokens), report.truncated) == (0.0, 3, 1)


def test_labels_of_a_table_of_text(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "judged.csv"
    path.write_text("prompt,completion,label\nq,a,true\nr,b,0\n")
    rows, _ = unpaired(read_rows(str(path)), tokenizer, data())
    assert [r.label for r in rows] == [1.0, 0.0]
