"""Pairs and reports of a round by hand-made judgements, and the reading of scores."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from scripted import scripted

from truing.ai_feedback.audit import Audit
from truing.ai_feedback.candidates import Candidate
from truing.ai_feedback.rounds import Group, Judged, pair_rows, report
from truing.ai_feedback.score import Scored, Scoring, expected_digit, score, sum_of
from truing.ai_feedback.speaker import Speaker
from truing.judges.client import judge_from
from truing.types import Message

PROMPT = (Message("user", "q"),)


def judged(text: str, votes: tuple[float, ...], outside: float | None = None) -> Judged:
    own = Scored("scored", sum(votes) / len(votes), votes) if votes else Scored("unparsable")
    return Judged(Candidate(text, 0, "stop", len(text)), own, outside)


def group(*items: Judged) -> Group:
    return Group(PROMPT, items)


def test_the_best_meets_the_worst() -> None:
    (row,) = pair_rows(
        [group(judged("b", (3,)), judged("a", (5, 4)), judged("c", (1,)))], model="m", number=2
    )
    assert (row["chosen"], row["rejected"]) == ("a", "c")
    assert row["provenance"] == {
        "by": "self",
        "model": "m",
        "round": 2,
        "scores": [4.5, 1.0],
        "seeds": [0, 0],
    }


@pytest.mark.parametrize(
    "tied",
    [
        group(judged("a", (3,)), judged("b", (3,))),
        group(judged("a", (3,)), judged("b", ())),
        group(judged("same", (3,)), judged("same", (1,))),
        group(),
    ],
)
def test_peer_26_ties_and_failures_give_no_pair(tied: Group) -> None:
    assert tied.pair() is None and pair_rows([tied], model="m", number=1) == []
    assert report([tied])["tied_prompts"] == 1


def test_the_report_counts_by_hand() -> None:
    groups = [
        group(judged("aaaa", (4, 2), 1.0), judged("bb", (1, 1), 0.0), judged("c", (), 0.5)),
        group(judged("aa", (5,), 0.0), judged("bbbb", (2,), 1.0)),
        group(judged("x", (2,), 1.0), judged("y", (0,), 1.0)),  # the outsider finds them equal
    ]
    found = report(groups)
    assert found["candidates"] == 7 and found["not_scored"] == 1 and found["pairs"] == 3
    assert found["own_score"] == pytest.approx((3 + 1 + 5 + 2 + 2 + 0) / 6)
    assert found["vote_spread"] == pytest.approx((2 + 0) / 2)
    assert (found["agreement"], found["outside_decided"]) == (0.5, 2)
    assert found["outside_score"] == pytest.approx(4.5 / 7)
    assert found["pair_gap"] == pytest.approx((2 + 3 + 2) / 3)
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (pytest.approx(7 / 3), pytest.approx(7 / 3))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It is fine.\nScore: 4", 4.0),
        ("**Score:** 3.5", 3.5),
        ("score: 4, so Score: 4", 4.0),
        ("Score: 4 ... Score: 5", None),
        ("Score: 9", None),
        ("no number", None),
        ("", None),
    ],
)
def test_peer_26_a_score_is_read_or_not(text: str, value: float | None) -> None:
    assert sum_of(text) == value


def test_the_expected_digit_ignores_other_tokens() -> None:
    top = [
        ("4", math.log(0.3)),
        (" 2", math.log(0.1)),
        ("4", math.log(0.1)),
        ("x", math.log(0.4)),
        ("9", -3.0),
    ]
    assert expected_digit(top) == pytest.approx((4 * 0.4 + 2 * 0.1) / 0.5)
    assert expected_digit([("x", -0.1)]) is None


def run(tmp_path: Path, script: Any, how: Scoring) -> tuple[Scored, dict[str, Any]]:
    with (
        scripted(script) as server,
        judge_from({"model": "j", "url": server.url, "max_tries": 1}) as client,
        Audit(tmp_path / "a.jsonl") as audit,
    ):
        found = asyncio.run(score(Speaker("j", client), PROMPT, "Score: 5", how, audit))
    return found, json.loads((tmp_path / "a.jsonl").read_text())


def test_votes_are_averaged_and_what_cannot_be_read_is_no_vote(tmp_path: Path) -> None:
    texts = iter(["Score: 2", "hm", "Score: 4"])
    found, record = run(tmp_path, lambda body: next(texts), Scoring(votes=3))
    assert found.score == 3 and sorted(found.votes) == [2, 4]
    assert record["score"] == 3 and len(record["said"]) == 3


def test_peer_26_a_judge_without_a_score_has_no_score(tmp_path: Path) -> None:
    found, record = run(tmp_path, lambda body: "hm", Scoring(votes=2))
    assert (found.status, found.score) == ("unparsable", None) and record["score"] is None
    found, _ = run(tmp_path / "b", lambda body: 400, Scoring(votes=2))
    assert (found.status, found.score) == ("failed", None)
    found, _ = run(tmp_path / "c", lambda body: "4", Scoring(by="digit"))
    assert found.status == "failed" and "log-probs" in found.evidence
