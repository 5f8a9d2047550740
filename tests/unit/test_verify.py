"""`truing verify` scores a file's completions, and checks that a verifier accepts a file's own answers."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from truing.cli import app

ROWS = [
    {"completion": "\\boxed{7}", "answer": "7"},
    {"completion": [{"role": "assistant", "content": "\\boxed{8}"}], "answer": "7"},
    {"completion": "\\boxed{3}", "reference": None},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def run(*words):
    return CliRunner().invoke(app, ["verify", *map(str, words)])


def test_a_verdict_a_line_and_a_summary(rows):
    result = run("math_answer", rows, "--json")
    *verdicts, summary = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 0
    assert [(v["row"], v["status"], v["value"]) for v in verdicts] == [
        (1, "scored", 1.0), (2, "scored", 0.0), (3, "unparsable", None),
    ]  # fmt: skip
    assert (summary["passed"], summary["rate"]) == (1, 0.5)
    assert summary["statuses"] == {"scored": 2, "unparsable": 1}


def test_the_text_names_file_row_and_reason(rows):
    said = run("math_answer", rows).stdout
    assert f"{rows}, row 2: scored 0: '8' against '7'" in said
    assert "1 of 3 pass: 50.0%" in said


def test_gold_answers_that_are_refused_fail(rows):
    result = run("math_answer", rows, "--gold")
    assert result.exit_code == 1
    assert "row 3" in result.stdout
    assert run("math_answer", rows, "--gold", "--limit", 2).exit_code == 0


def test_gold_shows_what_a_constant_answer_earns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"answer": a}) for a in ("yes", "yes", "no")), encoding="utf-8")
    result = run("exact_match", path, "--gold", "--json")
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["rate"], summary["constant"]) == (1.0, "yes")
    assert summary["constant_rate"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("math_anser",), "Did you mean 'math_answer'"),
        (("math_answer", "-o", "deadlin=3"), "its options: relative_tolerance"),
        (("math_answer", "-o", "deadline_s"), "write key=value"),
        (("instruction_following", "--gold"), "cannot write an answer"),
    ],
)
def test_a_mistake_is_said(rows, words, message):
    result = run(words[0], rows, *words[1:])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_row_without_a_completion_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"answer": "7"}', encoding="utf-8")
    result = run("math_answer", path)
    assert result.exit_code == 2
    assert "row 1: 'completion' must be text" in result.stderr
