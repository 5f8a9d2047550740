"""`truing label` with judges by name, given completions, errors, and the judge as a term of a reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import scripted
from typer.testing import CliRunner

from truing.ai_feedback import preferred
from truing.cli import app
from truing.config import Endpoint
from truing.terms import Written
from truing.types import Completion, Message, Prompt, Verdict


def given(tmp_path: Path) -> str:
    path = tmp_path / "given.jsonl"
    rows = [
        {"prompt": "a?", "completions": ["good", "bad"]},
        {"prompt": "b?", "chosen": "bad", "rejected": "good"},
        {"prompt": "c?", "completions": ["same", "same"]},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def shown_first(body: dict[str, Any]) -> str:
    text = body["messages"][-1]["content"]
    return "good" if text.index("good\n") < text.index("bad\n") else "bad"


def by_letter(body: dict[str, Any]) -> dict[str, float]:
    return {"A": 0.75, "B": 0.25} if shown_first(body) == "good" else {"A": 0.25, "B": 0.75}


def test_given_completions_are_labelled_without_a_policy(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with scripted(by_letter) as server:
        asked = ["--judge-model", "j", "--judge-endpoint", server.url, "--out", str(out), "--json"]
        done = CliRunner().invoke(app, ["label", given(tmp_path), *asked], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.splitlines()[-1])
    assert (record["pairs"], record["scored"], record["rows"]) == (3, 2, 2)
    assert record["not_scored"] == {"the two completions are the same": 1}
    assert record["position_consistency"] == 1 and record["first_slot_preference"] == pytest.approx(0.5)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["chosen"], r["rejected"]) for r in rows] == [("good", "bad")] * 2
    assert [r["preference"] for r in rows] == [pytest.approx(0.75)] * 2
    assert rows[0]["provenance"]["policy"] is None and rows[0]["provenance"]["consistent"]


def test_a_judge_by_name_labels_too(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> str:
        return f"It is clear.\n<verdict>{'A' if shown_first(body) == 'good' else 'B'}</verdict>"

    out = tmp_path / "out.jsonl"
    with scripted(script) as server:
        asked = [
            "--judge",
            "pairwise",
            "-o",
            "max_tokens=64",
            "--judge-model",
            "j",
            "--judge-endpoint",
            server.url,
        ]
        done = CliRunner().invoke(
            app, ["label", given(tmp_path), *asked, "--out", str(out)], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        assert {r["max_tokens"] for r in server.requests} == {64}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["chosen"], r["preference"]) for r in rows] == [("good", 1.0)] * 2
    assert rows[0]["provenance"]["label_from"] == "pairwise" and rows[0]["provenance"]["consistent"]
    trail = [json.loads(line) for line in (tmp_path / "out.audit.jsonl").read_text().splitlines()]
    assert len(trail) == 2 and all(len(t["votes"]) == 2 for t in trail)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "no model judges"),
        (["--judge-model", "j", "--reason", "--clamp", "0.6,0.9"], "so that a tie stays possible"),
        (["--judge-model", "j", "--judge", "pointwise"], "looks at one completion"),
        (["--judge-model", "j", "--judge", "pairwise", "-o", "vots=2"], "its options"),
        (["--judge-model", "j", "-o", "votes=2"], "--option is of a judge"),
        (["--judge-model", "j", "--judge", "pairwise", "--reason"], "in its own words"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_asked(
    tmp_path: Path, more: list[str], said: str
) -> None:
    done = CliRunner().invoke(app, ["label", given(tmp_path), "--out", str(tmp_path / "o.jsonl"), *more])
    assert done.exit_code == 2 and said in done.output


def written(text: str, group: int) -> Written:
    prompt = Prompt(str(group), (Message("user", f"q{group}"),))
    return Written(Completion((1,), text, (0.0,), "stop"), group, {}, prompt)


def test_the_reward_term_is_the_mean_preference_within_a_group(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> dict[str, float] | int:
        text = body["messages"][-1]["content"]
        if "q2" in text:
            return 400
        order = sorted(("good", "bad", "ugly"), key=lambda w: text.find(f"]\n{w}\n") % 10**6)
        worth = {"good": 3, "ugly": 2, "bad": 1}
        return {"A": 0.9, "B": 0.1} if worth[order[0]] > worth[order[1]] else {"A": 0.1, "B": 0.9}

    with scripted(script) as server:
        config = preferred.Config(
            endpoint=Endpoint(model="j", url=server.url, max_tries=1), audit=str(tmp_path / "a.jsonl")
        )
        found = preferred.measure(
            [
                written(t, g)
                for t, g in (
                    ("good", 0),
                    ("x", 1),
                    ("bad", 0),
                    ("x", 1),
                    ("ugly", 0),
                    ("bad", 2),
                    ("good", 2),
                )
            ],
            config,
        )
    assert (
        found[0] == pytest.approx(0.9) and found[2] == pytest.approx(0.1) and found[4] == pytest.approx(0.5)
    )
    assert found[1] == found[3] == 0.5, "equal texts are a tie, and nobody is asked"
    assert all(isinstance(v, Verdict) and v.status == "failed" for v in found[5:])
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 4
