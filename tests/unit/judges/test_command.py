"""`truing judge` against a scripted endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from truing.cli import app


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight pairs of a right and a wrong answer; the first four bear a person's label."""
    path = tmp_path / "pairs.jsonl"
    lines = []
    for i in range(8):
        row: dict[str, Any] = {"prompt": f"What is {i} + 1?", "completions": [f"right {i + 1}", f"wrong {i}"]}
        row |= {"human": ["first", "first", "second", "tie"][i]} if i < 4 else {}
        lines.append(json.dumps(row | {"authors": ["judge", "other"]}))
    path.write_text("\n".join(lines))
    return path


def upright(request: dict[str, Any]) -> str:
    said = request["messages"][1]["content"]
    return "<verdict>A</verdict>" if said.index("right") < said.index("wrong") else "<verdict>B</verdict>"


def run(endpoint: Any, *arguments: object, model: str | None = "m") -> Any:
    who = ["--model", model] if model else []
    return CliRunner().invoke(app, ["judge", *map(str, arguments), "--endpoint", endpoint.url, *who])


def test_a_line_a_row_and_a_summary(endpoint, rows):
    endpoint.answer = upright
    result = run(endpoint, rows, "--human", "human", "--authors", "authors", "--own", "judge", "--json")
    assert result.exit_code == 0, result.output
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert [(x["row"], x["status"], x["value"]) for x in lines] == [(i, "scored", 1.0) for i in range(1, 9)]
    assert [v["swapped"] for v in lines[0]["votes"]] == [False, True]
    assert summary["mean"] == {"value": 1.0, "low": pytest.approx(0.676, abs=1e-3), "high": 1.0, "count": 8}
    assert summary["statuses"] == {"scored": 8}
    health = summary["health"]["m"]
    assert (health["consistency"]["value"], health["first_slot"]["value"], health["own"]["value"]) == (
        1,
        0.5,
        1,
    )
    assert summary["people"]["labels"] == 4
    assert summary["people"]["agreement"]["value"] == 0.5
    assert summary["people"]["agreement_without_ties"]["value"] == pytest.approx(2 / 3)
    assert summary["people"]["corrected_share"] is None  # the judge calls everything a win
    assert summary["people"]["corrected_mean"]["value"] == pytest.approx(0.625)
    assert summary["usage"]["m"]["requests"] == 16


def test_a_judge_of_the_first_slot_wins_nothing_and_is_seen(endpoint, rows):
    result = run(endpoint, rows)
    assert result.exit_code == 0, result.output
    assert "win rate of the first: 0.500" in result.stdout
    assert "consistency: 0.000" in result.stdout
    assert "first_slot: 1.000" in result.stdout


def test_peer_26_rows_without_verdict_are_counted_and_not_averaged(endpoint, rows):
    endpoint.answer = lambda request: upright(request) if "7 + 1" not in str(request) else "Both are fine."
    result = run(endpoint, rows, "--json")
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert (lines[7]["status"], lines[7]["value"]) == ("unparsable", None)
    assert summary["statuses"] == {"scored": 7, "unparsable": 1}
    assert (summary["mean"]["value"], summary["mean"]["count"]) == (1.0, 7)


def test_nothing_scored_is_a_failure(endpoint, rows):
    endpoint.answer = 401
    result = run(endpoint, rows, "--json")
    assert result.exit_code == 1
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert summary["mean"] is None and summary["statuses"] == {"failed": 8}
    assert "HTTP 401" in lines[0]["evidence"]


def test_several_models_are_a_jury(endpoint, rows):
    endpoint.answer = lambda request: (
        upright(request) if request["model"] != "bad" else "<verdict>B</verdict>"
    )
    result = run(endpoint, rows, "-m", "one", "-m", "two", "-m", "bad", "--json", model=None)
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert summary["mean"]["value"] == 1.0
    assert set(summary["health"]) == {"one", "two", "bad"}
    assert summary["health"]["bad"]["consistency"]["value"] == 0
    assert len(lines[0]["votes"]) == 6
    assert summary["jurors_alpha"] < 0.5


def test_single_completions_are_scored(endpoint, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"prompt": "p", "completion": c}) for c in ("splendid", "bad one", "worse, and longer")
        )
    )
    endpoint.answer = lambda request: f"<verdict>{10 if 'splendid' in str(request) else 1}</verdict>"
    result = run(endpoint, path, "--judge", "pointwise", "--json")
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert [x["value"] for x in lines] == [1.0, 0.0, 0.0]
    assert summary["health"]["m"]["length_correlation"]["value"] < 0


def test_the_second_time_nothing_is_asked(endpoint, rows, tmp_path):
    endpoint.answer = upright
    for requests in (16, 16):
        run(endpoint, rows, "--cache", tmp_path / "replies.sqlite")
        assert len(endpoint.requests) == requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "pointwise"], "the row needs prompt and completion"),
        (["--judge", "pairwize"], "Did you mean 'pairwise'"),
        (["--judge", "client"], "judges nothing; known: pairwise"),
        (["--option", "swap=1"], "its options: .*both_orders"),
        (["--option", "votes=3"], "every vote is the same"),
        (["--human", "prompt"], "row 1: 'prompt' is"),
        (["--own", "judge"], "--authors COLUMN and --own"),
        (["--model", "m"], "different models"),
        (["--prices", "1"], "write IN,OUT"),
        (["--api-key-env", "NOT_SET"], "NOT_SET is not set"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(endpoint, rows, arguments, message):
    import re

    result = run(endpoint, rows, *arguments)
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    assert not endpoint.requests


def test_no_model_is_an_error(endpoint, rows):
    result = run(endpoint, rows, model=None)
    assert result.exit_code == 2 and "set --model" in result.stderr
