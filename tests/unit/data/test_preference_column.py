"""The optional column `preference` of pairs: how probably the chosen side is better."""

from __future__ import annotations

from typing import Any

import pytest

from truing.config import Data
from truing.data.readers import SourceRow
from truing.data.records import pairs
from truing.errors import DataError
from truing.train.batches import batch_of_pairs


def source(*preferences: Any) -> list[SourceRow]:
    rows = ({"prompt": "q", "chosen": f"good {n}", "rejected": "bad"} for n in range(len(preferences)))
    given = [r if p == "none" else {**r, "preference": p} for r, p in zip(rows, preferences, strict=True)]
    return [SourceRow(row, "p.jsonl", n) for n, row in enumerate(given, 1)]


def test_a_preference_is_the_label_of_both_sides_and_certain_where_it_is_not_given(tokenizer: Any) -> None:
    kept, _ = pairs(source("none", None, 0.5, 1, 0), tokenizer, Data(train="p.jsonl"))
    assert [p.preference for p in kept] == [1.0, 1.0, 0.5, 1.0, 0.0]
    labels = batch_of_pairs(kept).labels
    assert labels is not None
    assert labels.tolist() == [1.0, 1.0, 0.5, 1.0, 0.0] * 2


@pytest.mark.parametrize("wrong", [1.5, -0.1, "A", True, float("nan")])
def test_what_is_no_probability_is_an_error_with_file_and_row(tokenizer: Any, wrong: Any) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl.*2.*'preference' is .*a number from 0 to 1"):
        pairs(source(1.0, wrong), tokenizer, Data(train="p.jsonl"))


def test_what_takes_labels_for_certain_refuses_others(tokenizer: Any) -> None:
    certain, _ = pairs(source("none", 1.0), tokenizer, Data(train="p.jsonl"), soft_labels=False)
    assert len(certain) == 2
    with pytest.raises(DataError, match=r"p\.jsonl.*2.*'preference' is 0\.5.*use_labels = true"):
        pairs(source(1.0, 0.5), tokenizer, Data(train="p.jsonl"), soft_labels=False)
