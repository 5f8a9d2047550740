"""What a judge's own votes say of it: planted biases are seen, a sound judge has none."""

from __future__ import annotations

import random

import pytest

from truing.judges.health import health
from truing.judges.judging import Item, Judged, Vote
from truing.judges.juries import combine_jury
from truing.judges.pairwise import verdict_of
from truing.types import Prompt, Verdict


def said(value: float | None, status: str = "scored") -> Verdict:
    return Verdict(status if value is None else "scored", value, "because")  # type: ignore[arg-type]


def pair(given: float | None, swapped: float | None, *more: tuple[bool, float]) -> Judged:
    votes = [Vote(said(given, "unparsable"), False), Vote(said(swapped, "unparsable"), True)]
    votes += [Vote(said(v), s) for s, v in more]
    return Judged(verdict_of(votes, "conservative"), tuple(votes))


def items(*completions: tuple[str, ...]) -> list[Item]:
    return [Item(Prompt(str(i), ()), c) for i, c in enumerate(completions)]


def test_a_judge_that_takes_the_first_slot_is_seen():
    found = health(items(*[("a", "bb")] * 40), [pair(1.0, 1.0)] * 40)
    assert found["consistency"].value == 0
    assert found["first_slot"].value == 1 and 0.9 < found["first_slot"].low < 0.95
    assert "longer" not in found  # every pair is a tie: there is no winner
    assert found["unparsable"].value == 0


def test_a_sound_judge_has_no_slot():
    rng = random.Random(0)
    judged = [pair(1.0, 0.0) if rng.random() < 0.5 else pair(0.0, 1.0) for _ in range(50)]
    found = health(items(*[("a", "b")] * 50), judged)
    assert found["consistency"].value == 1
    assert found["first_slot"].value == 0.5


def test_a_judge_that_takes_the_longer_is_seen():
    rng = random.Random(0)
    texts = [("x" * rng.randint(1, 50), "y" * rng.randint(1, 50)) for _ in range(60)]
    judged = [pair(float(len(a) > len(b)), float(len(b) > len(a))) for a, b in texts if len(a) != len(b)]
    found = health(items(*[t for t in texts if len(t[0]) != len(t[1])]), judged)
    assert found["longer"].value == 1 and found["longer"].low > 0.9


def test_length_and_score_of_single_completions():
    scores = [0.1, 0.3, 0.5, 0.6, 0.9]
    judged = [Judged(said(s), (Vote(said(s)),)) for s in scores]
    found = health(items(*[("x" * (i + 1),) for i in range(5)]), judged)
    assert found["length_correlation"].value > 0.95
    assert "consistency" not in found


def test_a_judge_that_takes_its_own_is_seen():
    authors = [("judge", "other"), ("other", "judge"), ("other", "other"), ("judge", "other")]
    judged = [pair(1.0, 0.0), pair(0.0, 1.0), pair(1.0, 0.0), pair(0.0, 1.0)]
    found = health(items(*[("a", "b")] * 4), judged, authors=authors, own="judge")
    assert (found["own"].value, found["own"].count) == (2 / 3, 3)
    with pytest.raises(ValueError, match="needs both"):
        health(items(("a", "b")), judged[:1], authors=authors[:1])


def test_failures_are_counted_by_status_and_leave_the_rest_alone():
    broken = Judged(
        said(None, "timed_out"), (Vote(said(None, "timed_out")), Vote(said(None, "refused"), True))
    )
    found = health(items(*[("a", "b")] * 3), [pair(1.0, 0.0), pair(None, 1.0), broken])
    assert {k: round(found[k].value * 6) for k in ("unparsable", "refused", "timed_out", "failed")} == {
        "unparsable": 1, "refused": 1, "timed_out": 1, "failed": 0,
    }  # fmt: skip
    assert found["consistency"].count == 1


def test_repeatability_is_of_votes_in_one_order():
    steady = pair(1.0, 0.0, (False, 1.0), (True, 0.0))
    torn = pair(1.0, 0.0, (False, 0.0), (True, 1.0))
    found = health(items(("a", "b"), ("a", "b")), [steady, torn])
    assert found["repeatability"].value == 0.5


@pytest.mark.parametrize(
    ("values", "how", "value"),
    [
        ((1.0, 1.0, 0.0), "majority", 1.0),
        ((1.0, 0.0), "majority", 0.5),
        ((1.0, 0.5, 0.0), "majority", 0.5),
        ((0.9, 0.6, 0.0), "majority", 1.0),
        ((0.9, 0.6, 0.0), "mean", 0.5),
        ((1.0, None, 1.0), "majority", 1.0),
        ((1.0, None), "majority", None),
        ((None, None), "mean", None),
    ],
)
def test_peer_26_a_juror_without_verdict_has_no_vote(values, how, value):
    found = combine_jury([said(v, "timed_out") for v in values], how)
    assert found.value == (None if value is None else pytest.approx(value))
    assert found.status == ("scored" if value is not None else "timed_out")


def test_peer_26_ties_are_ties_and_broken_replies_count_for_nobody():
    assert pair(0.5, 0.5).verdict.value == 0.5
    assert pair(1.0, 1.0).verdict.value == 0.5
    assert pair(None, 0.0).verdict.status == "unparsable"
    assert pair(1.0, None).verdict.value is None
