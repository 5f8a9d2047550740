from __future__ import annotations

import math

import pytest

from truing.ai_feedback.compare import letter
from truing.ai_feedback.soft import both_orders, both_orders_log_odds, label_logprobs, soft_label, vote_share


def test_soft_labels_are_finite_at_any_gap() -> None:
    assert soft_label(0.0, -1e4) == 1 and soft_label(-1e4, 0.0) == 0
    assert soft_label(-3.0, -3.0) == 0.5


def test_forms_of_a_label_add_up_and_others_do_not_count() -> None:
    top = [("A", math.log(0.3)), (" a", math.log(0.1)), ("B", math.log(0.2)), ("An", math.log(0.25))]
    a, b = label_logprobs(top)
    assert math.exp(a) == pytest.approx(0.4) and math.exp(b) == pytest.approx(0.2)


def test_a_label_that_is_not_listed_gets_the_bound_of_the_list() -> None:
    a, b = label_logprobs([("(A", math.log(0.9)), ("x", math.log(0.02))])
    assert math.exp(a) == pytest.approx(0.9) and math.exp(b) == pytest.approx(0.02)
    assert label_logprobs([("x", -0.1), ("y", -3.0)]) is None
    assert label_logprobs([]) is None


def test_a_judge_that_prefers_a_slot_is_undecided() -> None:
    assert both_orders(0.9, 0.9) == pytest.approx(0.5)
    assert both_orders(0.9, 0.1) == pytest.approx(0.9)


def test_peer_26_only_a_whole_answer_is_a_vote() -> None:
    assert [letter(t) for t in ("A", " (b).", "**A**")] == ["A", "B", "A"]
    assert [letter(t) for t in ("A or B", "", "Both", "AB", "C")] == [None] * 5
    assert vote_share([]) is None and vote_share([1, 0, 1, 1]) == 0.75


@pytest.mark.parametrize("slot", [-4.0, 0.0, 2.5])
def test_log_odds_take_a_constant_slot_preference_off(slot: float) -> None:
    gap = 0.8
    given, swapped = soft_label(slot + gap, 0.0), soft_label(slot - gap, 0.0)
    assert both_orders_log_odds(given, swapped) == pytest.approx(soft_label(gap, 0.0))
    assert both_orders(given, swapped) <= soft_label(gap, 0.0) + 1e-9
    assert both_orders_log_odds(1.0, 0.0) == pytest.approx(1.0) and both_orders_log_odds(1.0, 1.0) == 0.5
