"""From replies to labels, and from log-probs to expected labels."""

from __future__ import annotations

import math

import pytest

from truing.judges._labels import expected, read
from truing.judges.client import Reply, TokenLogprob

AB = {"a": 1.0, "b": 0.0, "c": 0.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<verdict>A</verdict>", 1.0),
        ("<VERDICT> b </VERDICT> so be it", 0.0),
        ("<verdict>A</verdict> again <verdict>a</verdict>", 1.0),
        ("<think>first <verdict>A</verdict>, no</think><verdict>B</verdict>", 0.0),
        ("<think>it says </think><verdict>A</verdict>, no</think><verdict>B</verdict>", 0.0),
        ("<verdict>A</verdict><verdict>B</verdict>", None),
        ("<verdict>A or B</verdict>", None),
        ("<verdict>D</verdict>", None),
        ("<verdict></verdict>", None),
        ("<verdict>A", None),
        ("A", None),
        ("[[A]]", None),
        ('{"verdict": "A"}', None),
        ("", None),
    ],
)
def test_a_verdict_is_what_the_tag_holds_and_a_doubt_is_none(text, value):
    found, evidence = read(Reply(text), "verdict", AB)
    assert found == value
    assert evidence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A", 1.0),
        (" b.\n", 0.0),
        ("**C**", 0.5),
        ("(A)", 1.0),
        ("A is better", None),
        ("A B", None),
        ("", None),
    ],
)
def test_a_bare_label_is_the_whole_reply(text, value):
    assert read(Reply(text), None, AB)[0] == value


def reply(*tokens: tuple[str, dict[str, float]]) -> Reply:
    said = tuple(
        TokenLogprob(t, 0.0, tuple((w, math.log(p)) for w, p in (top or {t: 1.0}).items()))
        for t, top in tokens
    )
    return Reply("".join(t for t, _ in tokens), logprobs=said)


def test_an_expected_label_weighs_every_spelling_of_every_label():
    said = reply((" ", {}), ("A", {"A": 0.4, " A": 0.1, "a": 0.1, "B": 0.2, "C": 0.1, "The": 0.1}))
    value, words = expected(said, None, AB)
    assert value == pytest.approx((0.6 + 0.5 * 0.1) / 0.9)
    assert "p(a) = 0.667" in words


def test_an_expected_label_is_read_where_the_tag_is_and_not_before():
    said = reply(
        ("A", {"A": 1.0}), (" wins? ", {}), ("<ver", {}), ("dict>", {}), ("B", {"B": 0.75, "A": 0.25}), ("</verdict>", {}),
    )  # fmt: skip
    assert expected(said, "verdict", AB)[0] == pytest.approx(0.25)


def test_a_token_that_holds_the_end_of_the_tag_still_shows_the_label():
    said = reply(("<verdict", {}), (">B", {">B": 0.5, ">A": 0.5}), ("</verdict>", {}))
    assert expected(said, "verdict", AB)[0] == pytest.approx(0.5)


def test_first_tokens_tell_words_apart():
    labels = {"correct": 1.0, "incorrect": 0.0}
    said = reply(("in", {"in": 0.3, "cor": 0.5, "COR": 0.2}), ("correct", {}))
    assert expected(said, None, labels)[0] == pytest.approx(0.7)


def test_labels_without_probability_are_no_verdict():
    value, problem = expected(reply(("Well", {"Well": 0.97, "A": 0.01})), None, AB)
    assert value is None and "0.010" in problem


def test_two_verdicts_stay_a_doubt_with_log_probs_too():
    said = reply(("<verdict>", {}), ("A", {}), ("</verdict><verdict>", {}), ("B", {}), ("</verdict>", {}))
    assert expected(said, "verdict", AB)[0] is None
