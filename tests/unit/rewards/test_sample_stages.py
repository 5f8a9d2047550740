"""Stages that sample: what a recipe refuses, and which rows come of completions."""

from __future__ import annotations

from typing import Any

import pytest

from truing.config import Sample
from truing.errors import ConfigError, DataError
from truing.recipe import recipe_from_dict
from truing.train.sampled_rows import rows_of

DATA = {"train": {"generator": "word_problems", "count": 8}}
SAMPLE: dict[str, Any] = {
    "name": "fresh", "sample": {}, "model": "m", "data": DATA, "sampler": {"group_size": 4},
    "rewards": {"answer": {"verifier": "math_answer"}},
}  # fmt: skip
DPO: dict[str, Any] = {
    "name": "dpo", "algorithm": "dpo", "model": "m", "steps": 2, "data": {"train": "stage:fresh"},
}  # fmt: skip


def recipe(*stages: dict[str, Any], **top: Any) -> Any:
    return recipe_from_dict({"stage": [{k: v for k, v in s.items() if v is not None} for s in stages], **top})


@pytest.mark.parametrize(
    ("stages", "key", "says"),
    [
        ([{**SAMPLE, "steps": 3}], "stages.fresh.steps", "trains nothing"),
        ([{**SAMPLE, "algorithm": "dpo"}], "stages.fresh.sample", "not both"),
        ([{**SAMPLE, "algorithm": "sft", "sample": None}], "stages.fresh.sampler", "samples nothing"),
        ([{**DPO, "algorithm": None, "data": DATA}], "stages.dpo.algorithm", "is missing"),
        ([{**SAMPLE, "rewards": None}], "stages.fresh.rewards", "better"),
        ([{**SAMPLE, "sampler": None}], "stages.fresh.sampler", "no [sampler]"),
        ([{**SAMPLE, "sampler": {"group_size": 1}}], "stages.fresh.sampler.group_size", "too few"),
        ([{**SAMPLE, "sample": {"kind": "pair"}}], "stages.fresh.sample.kind", "did you mean 'pairs'"),
        ([{**SAMPLE, "sample": {"kind": "rankings", "pairs": "all"}}], "stages.fresh.sample", "of kind"),
        ([{**SAMPLE, "sample": {"old_rows": "stage:x"}}], "stages.fresh.sample.old_rows", "unknown"),
        ([{**SAMPLE, "data": {**DATA, "shuffle": True}}], "stages.fresh.data.shuffle", "no use"),
        ([SAMPLE, {**DPO, "data": {"train": "stage:frsh"}}], "stages.dpo.data.train", "unknown"),
        ([SAMPLE, {**DPO, "algorithm": "kto"}], "stages.dpo.data.train", 'sample.kind = "unpaired"'),
        ([SAMPLE, {**DPO, "model": "stage:fresh"}], "stages.dpo.model", "leaves no model"),
        ([DPO, SAMPLE], "stages.dpo.data.train", "comes later"),
        ([DPO | {"data": {"train": {"generator": "preferences", "count": 4}}}, {**DPO, "name": "b",
          "data": {"train": "stage:dpo"}}], "stages.b.data.train", "makes no rows"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(stages: Any, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(*stages)
    found = [p for p in error.value.problems if p.key == key]
    assert found, error.value
    assert any(says in str(p) for p in found), error.value


def test_the_recipes_defaults_reach_only_stages_that_use_them() -> None:
    made = recipe(SAMPLE, DPO, learner={"learning_rate": 1e-5}, dtype="float32")
    assert [s.dtype for s in made.stages] == ["float32"] * 2
    assert made.stages[1].learner.learning_rate == 1e-5


def completion(text: str, reward: float | None) -> dict[str, Any]:
    return {"text": text, "num_tokens": 1, "finish_reason": "stop", "reward": reward, "verdicts": {}}


def group(prompt: str, **rewards: float | None) -> dict[str, Any]:
    said = [completion(text, reward) for text, reward in rewards.items()]
    return {"prompt": prompt, "reference": "7", "completions": said}


def columns(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(r[n] for n in names) for r in rows]


def test_pairs_are_the_best_beside_the_worst_or_any_two_that_differ() -> None:
    groups = [group("p", a=0.0, b=1.0, c=0.4, d=None), group("q", a=1.0, b=1.0)]
    rows, count = rows_of(groups, Sample(), {"seed": 3})
    assert columns(rows, "prompt", "chosen", "rejected") == [("p", "b", "a")]
    assert (count["unscored"], count["prompts_without_rows"]) == (1, 1)
    assert rows[0]["rewards"] == {"chosen": 1.0, "rejected": 0.0} and rows[0]["source"] == {"seed": 3}
    rows, _ = rows_of(groups, Sample(pairs="all"), {})
    assert columns(rows, "chosen", "rejected") == [("b", "c"), ("b", "a"), ("c", "a")]
    rows, _ = rows_of(groups, Sample(pairs="all", min_gap=0.5), {})
    assert columns(rows, "chosen", "rejected") == [("b", "c"), ("b", "a")]


def test_rankings_give_ties_one_rank() -> None:
    rows, _ = rows_of([group("p", a=0.0, b=1.0, c=0.0, d=None)], Sample(kind="rankings"), {})
    assert columns(rows, "completions", "ranks") == [(["a", "b", "c"], [2, 1, 2])]


def test_labels_and_demonstrations_go_by_the_threshold() -> None:
    groups = [group("p", a=0.4, b=0.6), group("q", a=0.1, b=0.2)]
    rows, _ = rows_of(groups, Sample(kind="unpaired", threshold=0.2), {})
    assert columns(rows, "completion", "label") == [("a", True), ("b", True), ("a", False), ("b", True)]
    rows, _ = rows_of(groups, Sample(kind="demonstrations"), {})
    assert columns(rows, "prompt", "completion") == [("p", "b")]


def test_peer_16_what_could_not_be_scored_is_never_the_worse_side() -> None:
    with pytest.raises(DataError, match="1 could not be scored"):
        rows_of([group("p", a=1.0, b=None)], Sample(), {})


def test_a_row_that_is_there_already_is_not_added_again() -> None:
    first, _ = rows_of([group("p", a=0.0, b=1.0)], Sample(), {"round": 1})
    both, count = rows_of([group("p", a=0.0, b=1.0), group("q", a=0.0, b=1.0)], Sample(), {"round": 2}, first)
    assert columns(both, "prompt", "source") == [("p", {"round": 1}), ("q", {"round": 2})]
    assert count["duplicates"] == 1
