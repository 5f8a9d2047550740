from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest

from truing.verifiers._worker import pool
from truing.verifiers.math_answer import Config, verify, verify_many


def boxed(answer: str) -> str:
    return f"so it is \\boxed{{{answer}}}."


def test_plain_numbers_need_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing.verifiers.math_answer.pool", None)
    assert verify(boxed("12"), "12", Config()).value == 1.0
    assert verify(boxed("13"), 12, Config()).value == 0.0
    assert verify(boxed("\\frac{1}{2}"), Fraction(1, 2), Config()).value == 1.0
    assert verify(boxed("0.5"), 0.5, Config()).value == 1.0


@pytest.mark.parametrize("reference", [None, True, [], {"a": 1}, "", "   "])
def test_peer_16_a_reference_that_is_none_is_no_score(reference: Any) -> None:
    verdict = verify(boxed("7"), reference, Config())
    assert (verdict.status, verdict.value) == ("unparsable", None)


@pytest.mark.parametrize(
    ("completion", "evidence"),
    [
        ("7", "no \\boxed{} answer"),
        ("\\boxed{}", "an empty \\boxed{}"),
        (boxed("1+" * 400 + "1"), "over 500 characters"),
    ],
)
def test_what_only_the_policy_can_be_blamed_for_scores_zero_and_says_why(
    completion: str, evidence: str
) -> None:
    verdict = verify(completion, "7", Config())
    assert (verdict.status, verdict.value) == ("scored", 0.0)
    assert evidence in verdict.evidence


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7 or 8", "7"),
        ("7 \\text{ or } 8", "7"),
        ("\\{7,8\\}", "7"),
        ("\\pm 7", "7"),
        ("[6,8]", "7"),
        ("x", "7"),
        ("7 8", "7"),
        ("\\int_0^1 14x dx", "7"),
        ("\\lim_{x\\to 7} x", "7"),
        ("\\frac{2^{2005}+1}{3\\cdot 2^{2006}}", "\\frac{1}{3\\cdot 2^{2006}}"),
        ("10^{-20}", "0"),
        ("\\frac{0}{0}", "7"),
        ("3.14", "\\pi"),
    ],
)
def test_answers_that_must_not_be_rewarded(answer: str, gold: str) -> None:
    verdict = verify(boxed(answer), gold, Config())
    assert (verdict.status, verdict.value) == ("scored", 0.0), verdict.evidence


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("x = 7", "7"),
        ("6+1", "7"),
        ("10^5", "100000"),
        ("3.14159265", "\\pi"),
        ("\\sqrt{2}-\\sqrt{2}", "0"),
        ("(2,5)", "2<x<5"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("1+x^2", "x^2+1"),
        ("3\\sqrt{2}\\text{ m}", "3\\sqrt{2}"),
        ("\\text{(A)}", "A"),
    ],
)
def test_answers_that_are_equal_in_another_form(answer: str, gold: str) -> None:
    verdict = verify(boxed(answer), gold, Config())
    assert verdict.value == 1.0, verdict.evidence


def test_the_tolerance_is_relative_and_can_be_none() -> None:
    assert verify(boxed("1.4142136"), "\\sqrt{2}", Config()).value == 1.0
    assert verify(boxed("1.4142136"), "\\sqrt{2}", Config(relative_tolerance=0)).value == 0.0


def test_peer_17_one_pathological_sample_does_not_hold_the_others() -> None:
    verify(boxed("\\sqrt{2}"), "\\sqrt{2}", Config())
    start = time.perf_counter()
    verdicts = verify_many(
        [boxed("9^{9^{9^{9}}}"), *[boxed("\\sqrt{12}")] * 6],
        ["7", *["2\\sqrt{3}"] * 6],
        Config(deadline_s=1.5),
    )
    assert [v.status for v in verdicts] == ["timed_out", *["scored"] * 6]
    assert all(v.value == 1.0 for v in verdicts[1:])
    assert 1.4 < verdicts[0].time_s < 4.0
    assert time.perf_counter() - start < 20.0
    assert len(pool("math").pids()) <= pool("math").slots
