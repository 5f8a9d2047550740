from __future__ import annotations

from typing import Any

import pytest

from truing.config import Data
from truing.data.rankings import rankings
from truing.data.readers import SourceRow
from truing.errors import DataError
from truing.train.batches import batch_of

ASSISTANT = {"role": "assistant", "content": "b"}


def read(tokenizer: Any, *values: dict[str, Any], **options: Any) -> Any:
    rows = [SourceRow(v, "x.jsonl", n) for n, v in enumerate(values, 1)]
    return rankings(rows, tokenizer, Data(train="x.jsonl", **options))


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ({"completions": ["a", "b", "c"], "ranks": [2, 1, 3]}, (2, 1, 3)),
        ({"completions": ["a", "b", "c"], "ranks": [5, 0, 5]}, (2, 1, 2)),
        ({"completions": ["a", [ASSISTANT], "c"], "ranks": [1, 2, 2]}, (1, 2, 2)),
        ({"ranked": ["a", "b", "c"]}, (1, 2, 3)),
    ],
)
def test_every_layout(tokenizer: Any, values: dict[str, Any], ranks: tuple[int, ...]) -> None:
    records, report = read(tokenizer, {"prompt": "q", **values})
    assert records[0].ranks == ranks
    assert [tokenizer.decode(r.tokens) for r in records[0].rows] == [f"{c}<|im_end|>" for c in "abc"]
    assert len({r.prompt_tokens for r in records[0].rows}) == 1
    assert (report.kept, report.trained_tokens) == (1, 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"completions": ["a", "b"]}, "'ranks' must be a list of 2 numbers"),
        ({"completions": ["a", "b"], "ranks": [1]}, "'ranks' must be a list of 2 numbers"),
        ({"completions": ["a", "b"], "ranks": [1, True]}, "'ranks' holds True"),
        ({"completions": ["a"], "ranks": [1]}, "two completions or more"),
        ({"completions": "ab", "ranks": [1, 2]}, "two completions or more"),
        ({"ranked": ["a", "b"], "ranks": [1, 2]}, "remove 'completions' and 'ranks'"),
        ({"ranked": ["a", 3]}, r"'ranked\[2\]' must be"),
        ({"chosen": "a", "rejected": "b"}, "are not those of rankings: prompt \\+ completions"),
    ],
)
def test_wrong_columns_are_named_with_the_row(tokenizer: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"x.jsonl, row 1.*{message}"):
        read(tokenizer, {"prompt": "q", **values})


def test_what_teaches_nothing_is_dropped_and_counted(tokenizer: Any) -> None:
    tie = {"prompt": "q", "completions": ["a", "b"], "ranks": [1, 1]}
    records, report = read(tokenizer, tie, {"prompt": "q", "ranked": ["a", "b"]})
    assert (len(records), report.tied_rankings_dropped) == (1, 1)
    with pytest.raises(DataError, match="1 rankings that are all ties"):
        read(tokenizer, tie)


def test_a_ranking_is_dropped_whole(tokenizer: Any) -> None:
    long = {"prompt": "q", "ranked": ["a", "b" * 20]}
    records, report = read(
        tokenizer, long, {"prompt": "q", "ranked": ["a", "b"]}, max_completion_tokens=5, overlong="drop"
    )
    assert (len(records), report.dropped_overlong) == (1, 1)
    cut, report = read(tokenizer, long, max_completion_tokens=5, overlong="truncate")
    assert ([len(r.tokens) for r in cut[0].rows], report.truncated) == ([2, 5], 1)


def test_a_ranking_stays_in_one_micro_batch(tokenizer: Any) -> None:
    """Its loss compares all its rows: split by rows as other groups are, the gradient would be another."""
    records, _ = read(tokenizer, *({"prompt": p, "ranked": ["aa", "b", "c"]} for p in "pqr"))
    batch = batch_of(records)
    assert batch.ranks.tolist() == [1, 2, 3] * 3
    parts = list(batch.split(1))
    assert sorted(len(p) for p in parts) == [3, 3, 3]
    assert all(len(set(p.groups.tolist())) == 1 for p in parts)
