"""How verdicts, scores and lengths become one scalar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from truing.config import Reward
from truing.rewards import BatchTerm, Composed, RewardTerm, ScoreTerm, Shape, compose, load_terms
from truing.terms import Written
from truing.train.scoring import Scorer, rollout_metrics
from truing.types import Completion, Message, Prompt, Verdict


def term(name: str, weight: float = 1.0, **shape: Any) -> RewardTerm:
    return RewardTerm(
        name, weight, lambda text, reference, config: Verdict("scored", 0.0), None, Shape(**shape)
    )


def composed(
    terms: Sequence[Any], groups: Sequence[int] | None = None, **values: Sequence[float | None]
) -> list[Composed]:
    number = len(next(iter(values.values())))
    said = [
        {n: Verdict("failed") if v[i] is None else Verdict("scored", v[i]) for n, v in values.items()}
        for i in range(number)
    ]
    return compose(terms, said, groups or [0] * number)


def rewards(*args: Any, **kwargs: Any) -> list[float | None]:
    return [c.reward for c in composed(*args, **kwargs)]


def test_plain_terms_are_a_weighted_sum() -> None:
    found = rewards([term("a", 2.0), term("b", -0.5)], a=[1.0, 0.0, 0.25], b=[1.0, 1.0, 0.0])
    assert found == [1.5, -0.5, 0.5]


def test_a_missed_gate_gives_its_own_reward_whatever_the_others_say() -> None:
    form = term("form", 0.0, gate=True, failed=-1.0)
    assert rewards([form, term("answer")], form=[1.0, 0.0, 0.5], answer=[0.0, 1.0, 1.0]) == [0.0, -1.0, 1.0]


def test_the_first_missed_gate_has_the_last_word() -> None:
    gates = [term("a", gate=True, failed=-2.0), term("b", gate=True, failed=-1.0)]
    assert rewards(gates, a=[0.0, 1.0, 0.0], b=[0.0, 0.0, 1.0]) == [-2.0, -1.0, -2.0]


def test_bounds_cut_a_value_and_are_counted() -> None:
    found = composed([term("work", 0.5, floor=0.0, ceiling=2.0)], work=[-3.0, 1.0, 9.0])
    assert [c.reward for c in found] == [0.0, 0.5, 1.0]
    assert [c.facts["reward/work_ceiling_share"] for c in found] == [0.0, 0.0, 1.0]
    assert [c.facts["reward/work_floor_share"] for c in found] == [1.0, 0.0, 0.0]


def test_a_gate_is_counted() -> None:
    found = composed([term("form", gate=True, threshold=0.8)], form=[0.7, 0.8])
    assert [c.facts["reward/form_failed_share"] for c in found] == [1.0, 0.0]


def test_terms_of_any_scale_count_alike_when_scaled() -> None:
    terms = [term("a", scale="batch"), term("b", scale="batch")]
    found = rewards(terms, a=[0.0, 1.0, 0.0, 1.0], b=[500.0, 500.0, 900.0, 900.0])
    assert found == pytest.approx([-math.sqrt(3), 0.0, 0.0, math.sqrt(3)], rel=1e-4, abs=1e-5)


def test_a_scale_by_group_compares_completions_of_a_prompt_only() -> None:
    found = rewards([term("a", scale="group")], groups=[0, 0, 1, 1], a=[0.0, 1.0, 100.0, 101.0])
    assert found == pytest.approx([-0.7071, 0.7071, -0.7071, 0.7071], abs=1e-3)


def test_statistics_are_of_completions_that_pass_the_gates() -> None:
    gate = term("form", 0.0, gate=True, failed=-3.0)
    found = rewards([gate, term("a", scale="batch")], form=[1.0, 1.0, 0.0], a=[0.0, 2.0, 1e6])
    assert found == pytest.approx([-0.7071, 0.7071, -3.0], abs=1e-3)


def test_peer_16_a_term_that_says_nothing_leaves_no_reward_and_enters_no_statistic() -> None:
    found = rewards([term("a", scale="batch"), term("b")], a=[0.0, 2.0, 9.0], b=[0.0, 0.0, None])
    assert found[2] is None
    assert found[:2] == pytest.approx([-0.7071, 0.7071], abs=1e-3)


def test_peer_14_equal_values_scale_to_exactly_zero() -> None:
    for scale in ("batch", "group"):
        assert rewards([term("a", scale=scale)], a=[0.3, 0.3, 0.3]) == [0.0, 0.0, 0.0]


class Scores:
    """Reward models that score a completion by its number of tokens."""

    def __init__(self, *factors: float) -> None:
        self.factors = factors

    def members(self, batch: Any) -> torch.Tensor:
        return torch.stack([f * batch.lengths.float() for f in self.factors])

    def combine(self, members: torch.Tensor) -> torch.Tensor:
        return members.mean(0)


def scored(scorer: Scorer, *texts: str) -> list[Any]:
    prompts = [Prompt(str(i), (Message("user", "?"),)) for i in range(len(texts))]
    said = [Completion(tuple(range(len(t))), t, (0.0,) * len(t), "stop") for t in texts]
    return scorer(prompts, [(1,)] * len(texts), said, list(range(len(texts))))


def length_of_a(written: Sequence[Written], config: Any) -> list[float]:
    return [w.values["a"] * len(w.completion.tokens) for w in written]


def says(text: str, reference: Any, config: Any) -> Verdict:
    return Verdict("timed_out", evidence="slow") if text == "slow" else Verdict("scored", float("!" in text))


def test_every_term_is_a_verdict_under_its_own_name() -> None:
    terms = [
        RewardTerm("a", 1.0, says, None),
        BatchTerm("long", 0.1, length_of_a, None),
        ScoreTerm(weight=2.0),
    ]
    found = scored(Scorer(terms, Scores(1.0, 3.0)), "abc!", "ab", "slow")
    assert found[0].reward == pytest.approx(1.0 + 0.1 * 4 + 2.0 * 8)
    assert found[1].reward == pytest.approx(2.0 * 4)
    assert found[2].reward is None
    metrics = rollout_metrics(found, 10)
    assert metrics["reward/a_mean"] == 0.5
    assert metrics["reward/long_mean"] == 2.0
    assert metrics["reward/reward_model_mean"] == 6.0
    assert metrics["reward/member_std"] == pytest.approx(3.0)  # of 1 and 3 times the length, n in the divisor
    assert metrics["rollout/unscored_share"] == pytest.approx(1 / 3)


def test_a_score_counts_as_it_is_without_a_table() -> None:
    assert [r.reward for r in scored(Scorer([], Scores(0.5)), "ab", "abcd")] == [1.0, 2.0]


def test_a_score_that_is_no_number_is_a_failure() -> None:
    (found,) = scored(Scorer([], Scores(float("nan"))), "ab")
    assert (found.reward, found.verdicts["reward_model"].status) == (None, "failed")


def test_tables_become_terms_in_their_order() -> None:
    tables = {
        "answer": Reward(verifier="math_answer", gate=True),
        "length": Reward(term="overlong", weight=0.2, options={"max_tokens": 64, "cache": 8}),
        "reward_model": Reward(weight=0.5, ceiling=2.0),
    }
    a, b, c = load_terms(tables, scored=True)
    assert isinstance(a, RewardTerm) and a.shape.gate
    assert isinstance(b, BatchTerm) and (b.weight, b.config.cache) == (0.2, 8)
    assert isinstance(c, ScoreTerm) and (c.weight, c.shape.ceiling) == (0.5, 2.0)
    assert [t.name for t in load_terms({}, scored=True)] == ["reward_model"]
