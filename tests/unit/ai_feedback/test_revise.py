"""Critique and revision by a scripted model: what it is shown, which principles are drawn, what is trained."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Script, scripted

from truing.ai_feedback.audit import Audit
from truing.ai_feedback.candidates import Sampling
from truing.ai_feedback.constitution import load_constitution
from truing.ai_feedback.helpful import mixed
from truing.ai_feedback.revise import Revised, Revising, demonstrations, revise
from truing.ai_feedback.speaker import Speaker
from truing.data.readers import read_rows
from truing.errors import DataError
from truing.judges.client import judge_from
from truing.types import Message

EXAMPLE = Path(__file__).parents[3] / "constitutions" / "example.toml"


def run(tmp_path: Path, script: Script, rounds: int, seed: int = 0) -> tuple[Revised, list[dict[str, Any]]]:
    constitution, trail = load_constitution(EXAMPLE), tmp_path / f"{seed}.jsonl"
    with (
        scripted(script) as server,
        judge_from({"model": "m", "url": server.url, "max_tries": 1}) as client,
        Audit(trail) as audit,
    ):
        how = Revising(rounds, Sampling(seed=seed))
        found = asyncio.run(revise(Speaker("m", client), [Message("user", "q")], constitution, how, audit))
    return found, [json.loads(line) for line in trail.read_text().splitlines()]


def counting(body: dict[str, Any]) -> str:
    """Say how many turns there are and what the last one begins with."""
    return f"{len(body['messages'])} {body['messages'][-1]['content'][:5]} {body['messages'][1:2]}"


def test_each_round_shows_the_last_revision_and_its_critique(tmp_path: Path) -> None:
    found, trail = run(tmp_path, counting, 2)
    assert [t["action"] for t in trail] == ["sample", "critique", "revise", "critique", "revise"]
    assert trail[1]["text"].startswith("3 Criti") and trail[2]["text"].startswith("5 Rewri")
    assert trail[3]["completion"] == found.revisions[0].text, "round 2 revises what round 1 made"
    assert len({t["seed"] for t in trail}) == 5


def test_principles_are_drawn_by_seed_and_not_twice_before_all_were(tmp_path: Path) -> None:
    found, _ = run(tmp_path, counting, 8)
    names = [r.principle for r in found.revisions]
    assert set(names[:4]) == set(names[4:]) == {"no-harm", "honest", "private", "not-preachy"}
    assert [r.principle for r in run(tmp_path / "again", counting, 8)[0].revisions] == names
    others = {tuple(r.principle for r in run(tmp_path, counting, 4, s)[0].revisions) for s in range(1, 6)}
    assert len(others) > 1


def test_a_step_that_fails_ends_the_revisions_of_that_prompt_only(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> str | int:
        return 400 if "Round" in str(body["messages"][1:2]) and len(body["messages"]) == 3 else "Round text"

    found, trail = run(tmp_path, script, 2)
    assert found.status == "failed" and found.first is not None and found.revisions == ()
    assert trail[-1]["status"] == "failed" and "400" in trail[-1]["evidence"]
    assert demonstrations([found], every_round=True) == []
    blank, trail = run(tmp_path / "b", lambda body: " ", 1)
    assert blank.first is None and trail[-1]["status"] == "unparsable"


def test_rows_are_the_revisions_of_every_round_or_the_last(tmp_path: Path) -> None:
    found, _ = run(tmp_path, counting, 3)
    rows = demonstrations([found], every_round=True)
    assert [r["completion"] for r in rows] == [r.text for r in found.revisions]
    (last,) = demonstrations([found], every_round=False)
    assert last["completion"] == found.revisions[-1].text and last["provenance"]["round"] == 3
    same, _ = run(tmp_path / "same", lambda body: "no change", 3)
    assert len(demonstrations([same], every_round=True)) == 1


def test_the_helpful_share_is_of_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) + "\n" for i in range(9)))
    revisions = [{"prompt": "q", "completion": str(i), "provenance": {"by": "revision"}} for i in range(3)]
    rows = mixed(revisions, read_rows(str(path)), share=0.75, seed=0)
    assert sum(r["provenance"]["by"] == "helpful" for r in rows) == 9 and len(rows) == 12
    with pytest.raises(DataError, match=r"needs 27; .* at most 0.75"):
        mixed(revisions, read_rows(str(path)), share=0.9, seed=0)
