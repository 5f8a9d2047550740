from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from truing.config import Data
from truing.data.readers import SourceRow
from truing.data.records import Report, demonstrations, pairs, prompt_tokens, prompts
from truing.errors import DataError, ModelError
from truing.types import Message, Row


def source(*values: dict[str, Any]) -> list[SourceRow]:
    return [SourceRow(v, "x.jsonl", n) for n, v in enumerate(values, 1)]


def data(**options: Any) -> Data:
    return Data(train="x.jsonl", **options)


def trained(tokenizer: Any, row: Row) -> str:
    return str(tokenizer.decode([t for t, on in zip(row.tokens, row.mask, strict=True) if on]))


USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "q", "completion": "a"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER, ASSISTANT], "prompt": "q"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "input": None, "output": "a", "source": "web"},
    ],
)
def test_every_layout_of_a_demonstration(tokenizer: PreTrainedTokenizerFast, values: dict[str, Any]) -> None:
    rows, report = demonstrations(source(values), tokenizer, data())
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(rows[0].prompt_tokens) == text
    assert trained(tokenizer, rows[0]) == "a<|im_end|>"
    assert report.rows == report.kept == 1
    assert report.trained_tokens == 2
    assert report.masked_fraction == pytest.approx(1 - 2 / (len(rows[0].prompt_tokens) + 2))


def test_a_completion_alone_is_trained_and_messages_train_every_reply(tokenizer: Any) -> None:
    turns = [USER, ASSISTANT, USER]
    one, _ = demonstrations(source({"prompt": turns, "completion": "b"}), tokenizer, data())
    every, _ = demonstrations(source({"messages": [*turns, ASSISTANT]}), tokenizer, data())
    assert trained(tokenizer, one[0]) == "b<|im_end|>"
    assert trained(tokenizer, every[0]) == "a<|im_end|>a<|im_end|>"


def test_a_system_column_is_the_first_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    rows, _ = demonstrations(source({"system": "s", "prompt": "q", "completion": "a"}), tokenizer, data())
    assert tokenizer.decode(rows[0].prompt_tokens).startswith("<|im_start|>system\ns<|im_end|>")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"prompt": "q", "response": "a"},
            r"x.jsonl, row 1: columns .*'response'.*did you mean 'completion'",
        ),
        ({"prompt": "q", "completon": "a"}, "did you mean 'completion' where it says 'completon'"),
        ({"messages": []}, "'messages' must be a list of turns"),
        ({"messages": "hi"}, "'messages' must be a list of turns"),
        ({"messages": [USER]}, "the last turn is 'user'"),
        ({"messages": [{"role": "assitant", "content": "a"}]}, "Did you mean 'assistant'"),
        (
            {"messages": [{"rol": "user", "content": "a"}]},
            r"turn 1 needs text in role and content.*\['content', 'rol'\]",
        ),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]}, "turn 2 needs text"),
        ({"prompt": "q", "completion": 3}, "'completion' must be a list of turns"),
        ({"instruction": 3, "output": "a"}, "'instruction' must be text, got int"),
    ],
)
def test_wrong_rows_say_what_would_be_right(tokenizer: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        demonstrations(source(values), tokenizer, data())


CHOSEN, REJECTED = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]},
        {"prompt": "q", "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
    ],
)
def test_every_layout_of_a_pair(tokenizer: PreTrainedTokenizerFast, values: dict[str, Any]) -> None:
    made, report = pairs(source(values | {"margin": 2}), tokenizer, data())
    (pair,) = made
    assert trained(tokenizer, pair.chosen) == "good<|im_end|>"
    assert trained(tokenizer, pair.rejected) == "bad<|im_end|>"
    assert pair.chosen.prompt_tokens == pair.rejected.prompt_tokens
    assert pair.margin == 2.0
    assert report.trained_tokens == len("goodbad") + 2


def test_a_pair_of_conversations_trains_only_what_differs(tokenizer: PreTrainedTokenizerFast) -> None:
    start = [USER, ASSISTANT, {"role": "user", "content": "more"}]
    made, _ = pairs(source({"chosen": [*start, CHOSEN], "rejected": [*start, REJECTED]}), tokenizer, data())
    assert trained(tokenizer, made[0].chosen) == "good<|im_end|>"
    assert "more" in tokenizer.decode(made[0].chosen.prompt_tokens)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "q", "chosen": "a"}, "columns .* are not those of pairs"),
        ({"prompt": "q", "accepted": "a", "rejected": "b"}, "did you mean 'chosen'"),
        ({"chosen": "a", "rejected": "b"}, "'chosen' is text without a 'prompt'"),
        (
            {"chosen": [USER, CHOSEN], "rejected": [{"role": "user", "content": "x"}, CHOSEN]},
            "share no first turn",
        ),
        ({"chosen": [USER, CHOSEN], "rejected": [USER]}, "ends with a turn of 'user'"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "high"}, "'margin' must be a number"),
    ],
)
def test_wrong_pairs_say_what_would_be_right(tokenizer: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(source(values), tokenizer, data())


def test_identical_pairs_are_dropped_and_counted_also_after_a_cut(tokenizer: Any) -> None:
    rows = source(
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"prompt": "q", "chosen": "abcdefgh", "rejected": "abcdxyzz"},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
    )
    made, report = pairs(rows, tokenizer, data(max_completion_tokens=4, overlong="truncate"))
    assert (report.rows, report.kept, report.identical_pairs_dropped, report.truncated) == (3, 1, 2, 1)
    assert trained(tokenizer, made[0].chosen) == "good"
    assert trained(tokenizer, made[0].rejected) == "bad<|im_end|>"


LONG = source({"prompt": "q", "completion": "abcdef"}, {"prompt": "q", "completion": "ab"})


def test_peer_07_an_overlong_row_is_an_error_unless_a_policy_is_chosen(tokenizer: Any) -> None:
    with pytest.raises(
        DataError, match=r"row 1: the completion has 7 tokens, more than max_completion_tokens = 4"
    ):
        demonstrations(LONG, tokenizer, data(max_completion_tokens=4))


def test_peer_07_dropped_rows_are_counted(tokenizer: Any) -> None:
    rows, report = demonstrations(LONG, tokenizer, data(max_completion_tokens=4, overlong="drop"))
    assert (len(rows), report.dropped_overlong, report.truncated) == (1, 1, 0)


def test_peer_07_a_cut_row_keeps_trained_tokens_and_has_no_eos(tokenizer: Any) -> None:
    rows, report = demonstrations(LONG, tokenizer, data(max_completion_tokens=4, overlong="truncate"))
    assert (len(rows), report.truncated) == (2, 1)
    assert trained(tokenizer, rows[0]) == "abcd"
    assert all(r.mask[0] and r.mask[-1] for r in rows)


@pytest.mark.parametrize("limit", range(1, 60))
def test_peer_07_no_cut_leaves_a_row_without_trained_tokens(tokenizer: Any, limit: int) -> None:
    turns = source({"messages": [USER, ASSISTANT, USER, ASSISTANT]})
    rows, report = demonstrations(turns, tokenizer, data(max_completion_tokens=limit, overlong="truncate"))
    assert 0 < report.trained_tokens == sum(rows[0].mask)
    assert rows[0].mask[-1]
    assert 0 < report.masked_fraction < 1


@pytest.mark.parametrize("overlong", ["error", "truncate"])
def test_peer_07_prompts_are_never_cut(tokenizer: Any, overlong: str) -> None:
    long = source({"prompt": "q" * 50, "completion": "a"}, {"prompt": "q", "completion": "a"})
    with pytest.raises(DataError, match="a prompt is never cut"):
        demonstrations(long, tokenizer, data(max_prompt_tokens=40, overlong=overlong))
    _, report = demonstrations(long, tokenizer, data(max_prompt_tokens=40, overlong="drop"))
    assert report.dropped_overlong == 1
    kept, report = prompts(long, tokenizer, data(max_prompt_tokens=40, overlong="drop"))
    assert (len(kept), report.dropped_overlong) == (1, 1)


def test_nothing_left_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"none of 1 rows is left \(1 overlong"):
        demonstrations(LONG[:1], tokenizer, data(max_completion_tokens=1, overlong="drop"))


def test_prompts_keep_reference_and_metadata(tokenizer: Any) -> None:
    made, report = prompts(
        source(
            {"prompt": "q", "answer": "4", "level": 2, "id": 7},
            {"messages": [{"role": "system", "content": "s"}, USER], "reference": [1, 2]},
            {"prompt": "q"},
        ),
        tokenizer,
        data(),
    )
    assert [p.reference for p in made] == ["4", [1, 2], None]
    assert made[0].uid == "7"
    assert made[0].metadata == {"level": 2}
    assert made[1].messages == (Message("system", "s"), Message("user", "q"))
    assert report == Report(rows=3, kept=3)
    assert tokenizer.decode(prompt_tokens(tokenizer, made[0])).endswith(
        "q<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_prompt_that_ends_with_the_assistant_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="the last turn is the assistant's"):
        prompts(source({"messages": [USER, ASSISTANT]}), tokenizer, data())
    with pytest.raises(DataError, match="did you mean 'prompt' where it says 'question'"):
        prompts(source({"question": "q", "answer": "a"}), tokenizer, data())


def test_uids_are_explicit_or_by_content_and_occurrence(tokenizer: Any) -> None:
    twice = {"prompt": "q", "completion": "a"}
    rows, _ = demonstrations(source(twice, twice, twice | {"uid": "mine"}), tokenizer, data())
    again, _ = demonstrations(source(twice), tokenizer, data())
    assert len({r.uid for r in rows}) == 3
    assert rows[0].uid == again[0].uid
    assert rows[2].uid == "mine"
    with pytest.raises(DataError, match=r"row 2: id 'mine' was used before, in x.jsonl, row 1"):
        demonstrations(source(twice | {"uid": "mine"}, twice | {"uid": "mine"}), tokenizer, data())


def test_a_missing_template_names_the_row_and_the_remedy(make: Any) -> None:
    with pytest.raises(ModelError, match=r"x.jsonl, row 1: .*no chat template"):
        demonstrations(source({"messages": [USER, ASSISTANT, USER, ASSISTANT]}), make(None), data())
    rows, _ = demonstrations(source({"prompt": "q", "completion": "a"}), make(None), data())
    assert trained(make(None), rows[0]) == "a<|im_end|>"
