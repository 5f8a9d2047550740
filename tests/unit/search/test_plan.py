"""A plan says what is wrong with it before anything is loaded."""

from __future__ import annotations

import pytest

from truing.errors import ConfigError, TruingError
from truing.search import LabelPlan, Plan, compare, load_label_plan, load_plan

PLAN = """
model = "policy"
data = "prompts.jsonl"
verifier = "math_answer"
budget = 100
scorer = { kind = "process", model = "prm" }
[strategy.best_of_n]
[strategy.wide]
method = "beam"
options = { num_beams = 8, width = 8 }
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN, encoding="utf-8")
    return path


def test_paths_are_beside_the_plan_where_they_exist_there(plan, tmp_path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "prompts.jsonl").write_text("{}", encoding="utf-8")
    found = load_plan(plan)
    assert found.model == str(tmp_path / "policy") and found.data == str(tmp_path / "prompts.jsonl")
    assert found.scorer is not None and found.scorer.model == "prm"
    assert list(found.strategy) == ["best_of_n", "wide"]


def test_overrides_reach_every_key(plan) -> None:
    found = load_plan(
        plan,
        ["budget=7", "strategy.wide.options.width=4", 'scorer.aggregate="min"', "strategy.mcts.options={}"],
    )
    assert (found.budget, found.strategy["wide"].options["width"], list(found.strategy)[2]) == (7, 4, "mcts")
    assert found.scorer is not None and found.scorer.aggregate == "min"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budgett=3", "did you mean 'budget'"),
        ("budget=0", "budget: Input should be greater than 0"),
        ("budget", "write key=value"),
        ("temperature=0.0", "temperature"),
        ('scorer={ kind = "process" }', "needs model, and no verifier"),
        ('scorer={ kind = "verifier", verifier = "format", aggregate = "min" }', "aggregate does nothing"),
        ('scorer={ kind = "outcome", model = "x", options = { a = 1 } }', "options are of a verifier"),
        ("strategy={}", "at least 1"),
        ("model.x=1", "'model' is no table"),
    ],
)
def test_a_wrong_key_or_value_is_named(plan, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plan(plan, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy.wide.method='beams'"], "Did you mean 'beam'"),
        (["strategy.wide.options.widht=3"], "did you mean 'width'"),
        (["strategy.wide.options.width=3"], "must be a multiple of width"),
        (["scorer="], "strategy.best_of_n: best_of_n needs a"),
        (["budget=", "strategy.mcts.options={}"], "num_simulations says when mcts ends"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_before_the_model_is_loaded(plan, overrides, message) -> None:
    with pytest.raises(TruingError, match=message):
        compare(plan, *overrides)


def test_a_curve_needs_a_proxy(plan) -> None:
    with pytest.raises(ConfigError, match="curve_samples needs a scorer"):
        load_plan(plan, ["scorer=", "curve_samples=8"])


def test_bisection_writes_hard_labels_only(plan) -> None:
    keys = {"model": "m", "data": "d.jsonl", "verifier": "math_answer"}
    assert LabelPlan(**keys, find="first_error", labels="hard").num_rollouts == 8
    with pytest.raises(ValueError, match='set labels = "hard"'):
        LabelPlan(**keys, find="first_error")
    with pytest.raises(ConfigError, match="unknown key"):
        load_label_plan(plan)


def test_a_file_that_is_none_says_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_plan(tmp_path / "none.toml")
    assert Plan.model_fields["budget"].default is None
