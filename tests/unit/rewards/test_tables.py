"""What a recipe refuses about [rewards.NAME]: with the key, what is wrong and what is right."""

from __future__ import annotations

from typing import Any

import pytest

from truing.errors import ConfigError
from truing.recipe import load_recipe, recipe_from_dict, resolved

DATA = {"train": {"generator": "word_problems", "count": 8}}


def recipe(rewards: dict[str, Any], **changes: Any) -> Any:
    base: dict[str, Any] = {
        "algorithm": "grpo", "model": "m", "steps": 2, "data": DATA, "rewards": rewards,
        "sampler": {"group_size": 4, "max_tokens": 64},
    }  # fmt: skip
    return recipe_from_dict({**base, **changes})


ANSWER = {"verifier": "math_answer"}
REMAX = {"algorithm": "remax"}


@pytest.mark.parametrize(
    ("rewards", "changes", "key", "says"),
    [
        ({"a": {"weight": 1.0}}, {}, "rewards.a", "no verifier, term or judge is named"),
        ({"a": {"verifier": "math_answer", "term": "overlong"}}, {}, "rewards.a", "both set"),
        ({"a": {"term": "overlnog"}}, {}, "rewards.a.term", "overlong"),
        ({"a": {**ANSWER, "cieling": 1.0}}, {}, "rewards.a.cieling", "ceiling"),
        ({"a": {**ANSWER, "ceiling": 0.0, "floor": 1.0}}, {}, "rewards.a", "not below"),
        ({"a": {**ANSWER, "failed": -1.0}}, {}, "rewards.a", "gate = true"),
        ({"a": {**ANSWER, "weight": 0.0}}, {}, "rewards", "every weight is 0"),
        ({"reward_model": {"weight": 0.5}}, {}, "rewards.reward_model", "has none"),
        ({"reward_model": ANSWER}, {"reward_model": "rm"}, "rewards.reward_model", "very name"),
        ({"a": ANSWER, "l": {"term": "overlong", "options": {"max_tokens": 200, "cache": 20}}}, {},
         "rewards.l.options", "stops at 64"),
        ({"a": ANSWER, "l": {"term": "overlong", "options": {"max_tokens": 8, "cache": 20}}}, {},
         "rewards.l.options", "at most max_tokens"),
        ({"anser": ANSWER, "l": {"term": "cosine_length"}}, {}, "rewards.l.options.of", "did you mean 'anser'"),
        ({"l": {"term": "cosine_length", "options": {"of": "m"}}, "m": {"term": "mean_length"}}, {},
         "rewards.l.options.of", "first"),
        ({"f": {"verifier": "format", "gate": True}, "a": {**ANSWER, "scale": "batch"}}, {},
         "rewards.f.failed", "failed = -2"),
        ({"a": {**ANSWER, "scale": "batch"}}, REMAX, "rewards.a.scale", "greedy"),
        ({"a": ANSWER, "l": {"term": "mean_length"}}, REMAX, "rewards.l.term", "greedy"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(rewards: Any, changes: Any, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(rewards, **changes)
    found = [p for p in error.value.problems if p.key == key or p.key.startswith(key)]
    assert found, error.value
    assert any(says in str(p) for p in found), error.value


def test_a_whole_reward_is_kept_as_it_is(tmp_path: Any) -> None:
    made = recipe(
        {
            "form": {"verifier": "format", "gate": True, "failed": -2.5},
            "answer": {**ANSWER, "scale": "group"},
            "length": {"term": "overlong", "weight": 0.5, "options": {"max_tokens": 64, "cache": 16}},
            "reward_model": {"weight": 0.3, "ceiling": 2.0},
        },
        reward_model="owner/model",
    )
    path = tmp_path / "again.toml"
    path.write_text(resolved(made), encoding="utf-8")
    assert load_recipe(path) == made


def test_weights_of_zero_beside_a_reward_model_are_fine() -> None:
    assert recipe({"a": {**ANSWER, "weight": 0.0}}, reward_model="owner/model")
    with pytest.raises(ConfigError, match="every weight is 0"):
        recipe({"reward_model": {"weight": 0.0}}, reward_model="owner/model")
