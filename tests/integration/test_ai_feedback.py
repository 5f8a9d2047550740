"""Feedback from models end to end: a tiny model served on loopback writes, judges, revises and is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import truing
from truing.ai_feedback.prompts import filled
from truing.cli import app
from truing.serve.engine import Engine
from truing.serve.server import serving

ROOT = Path(__file__).parents[2]
SMALL = {"steps": 2, "batch_size": 4, "dtype": "float32", "learner": {"learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def judging_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model with louder labels, so that they are among its likeliest tokens."""
    folder = tmp_path_factory.mktemp("models") / "judging"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model),
        AutoTokenizer.from_pretrained(tiny_model),
    )
    model.config.max_position_embeddings = 4096
    for letter in "AB012345":
        model.lm_head.weight.data[tokenizer.convert_tokens_to_ids(letter)] *= 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(judging_model: Path) -> Engine:
    return Engine(str(judging_model), alias="tiny")


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving(engine) as found:
        yield found


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    rows = [{"prompt": f"{a} + {b}?", "answer": str(a + b)} for a in range(3) for b in range(2)]
    return write(tmp_path / "prompts.jsonl", rows)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(*args: Any) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, args), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def label(prompts: str, url: str, out: Path, *more: Any) -> dict[str, Any]:
    asked = ["--model", "tiny", "--endpoint", url, "--max-tokens", 8, "--out", out]
    return command("label", prompts, *asked, *more)


def test_labels_over_http_train_a_reward_model_and_dpo(
    tmp_path: Path, prompts: str, url: str, judging_model: Path
) -> None:
    record = label(prompts, url, tmp_path / "pairs.jsonl", "-n", 4)
    assert record["label_from"] == {"logprobs": record["scored"]} and record["scored"] >= 6
    rows, trail = read(tmp_path / "pairs.jsonl"), read(tmp_path / "pairs.audit.jsonl")
    assert len(rows) == record["rows"] == record["scored"]
    assert all(0.5 <= r["preference"] < 1 and r["chosen"] != r["rejected"] for r in rows)
    compared = [t for t in trail if t["action"] == "compare"]
    assert len(compared) == record["pairs"] and sum(t["action"] == "sample" for t in trail) == 24
    by_texts = {frozenset(t["completions"]): t for t in compared}
    for row in rows:
        said = by_texts[frozenset((row["chosen"], row["rejected"]))]
        p = said["preference"] if said["completions"][0] == row["chosen"] else 1 - said["preference"]
        assert row["preference"] == pytest.approx(p)
    for algorithm in ("reward_model", "dpo"):
        made = truing.train(
            algorithm, model=judging_model, data=tmp_path / "pairs.jsonl", options={"use_labels": True},
            folder=tmp_path / algorithm, **SMALL,
        )  # fmt: skip
        assert len(made.metrics) == 2


def test_hard_labels_train_what_takes_them_for_certain(
    tmp_path: Path, prompts: str, url: str, judging_model: Path
) -> None:
    label(prompts, url, tmp_path / "hard.jsonl", "--hard")
    assert all("preference" not in r for r in read(tmp_path / "hard.jsonl"))
    data = tmp_path / "hard.jsonl"
    assert truing.train("simpo", model=judging_model, data=data, folder=tmp_path / "s", **SMALL).metrics


def test_a_continued_command_asks_nothing_twice(
    tmp_path: Path, prompts: str, url: str, engine: Engine
) -> None:
    cache = tmp_path / "replies"
    label(prompts, url, tmp_path / "one.jsonl", "--cache", cache, "--limit", 3)
    before = sum(engine.batches)
    label(prompts, url, tmp_path / "one.jsonl", "--cache", cache, "--limit", 3)
    assert sum(engine.batches) == before, "every reply came from the cache"
    first, trail = read(tmp_path / "one.jsonl"), read(tmp_path / "one.audit.jsonl")
    label(prompts, url, tmp_path / "one.jsonl", "--cache", cache)
    assert read(tmp_path / "one.jsonl")[: len(first)] == first
    assert read(tmp_path / "one.audit.jsonl")[: len(trail)] == trail


def test_constitutional_ai_from_principles_to_a_policy(tmp_path: Path, url: str, judging_model: Path) -> None:
    constitution, helpful = ROOT / "constitutions" / "example.toml", tmp_path / "helpful.jsonl"
    write(helpful, [{"prompt": f"say {n}", "completion": f"it is {n}"} for n in range(20)])
    record = command(
        "constitution", "revise", constitution, "--model", "tiny", "--endpoint", url, "--rounds", 2, "--limit", 3,
        "--max-tokens", 8, "--helpful", helpful, "--out", tmp_path / "sft.jsonl",
    )  # fmt: skip
    assert record["revisions"] == 6 and record["cut_short"] == 0
    rows, trail = read(tmp_path / "sft.jsonl"), read(tmp_path / "sft.audit.jsonl")
    assert len(rows) == 12 and {r["provenance"]["by"] for r in rows} == {"revision", "helpful"}
    assert [sum(t["action"] == a for t in trail) for a in ("sample", "critique", "revise")] == [3, 6, 6]
    assert all(t["constitution"] and t["principle"] for t in trail if t["action"] != "sample")
    made = truing.train(
        "sft", model=judging_model, data=tmp_path / "sft.jsonl", folder=tmp_path / "sft", **SMALL
    )
    assert len(made.metrics) == 2
    red_team = write(tmp_path / "red.jsonl", [{"prompt": f"harm {n}"} for n in range(3)])
    label(red_team, url, tmp_path / "pairs.jsonl", "--constitution", constitution)
    principles = {r["provenance"]["principle"] for r in read(tmp_path / "pairs.jsonl")}
    assert principles <= {"no-harm", "honest", "private", "not-preachy", "brief"}
    policy = tmp_path / "sft" / "train" / "model"
    data = tmp_path / "pairs.jsonl"
    options = {"use_labels": True}
    assert truing.train(
        "dpo", model=policy, data=data, options=options, folder=tmp_path / "dpo", **SMALL
    ).metrics


def test_the_helpful_share_is_kept_or_refused(tmp_path: Path, url: str) -> None:
    helpful = write(tmp_path / "helpful.jsonl", [{"prompt": "a", "completion": "b"}])
    done = CliRunner().invoke(
        app,
        ["constitution", "revise", str(ROOT / "constitutions" / "example.toml"), "--model", "tiny", "--endpoint",
         url, "--rounds", "2", "--limit", "2", "--max-tokens", "4", "--helpful", helpful, "--out",
         str(tmp_path / "x.jsonl")],
    )  # fmt: skip
    assert done.exit_code == 2 and "needs 4" in done.output and not (tmp_path / "x.jsonl").exists()


def self_rewarding(prompts: str, model: Path, out: Path) -> dict[str, Any]:
    return command(
        "self-reward", prompts, "--model", model, "--out", out, "--rounds", 2, "-n", 3, "--max-tokens", 6,
        "--by", "digit", "--verifier", "exact_match", "--held-out", prompts, "steps=1", "batch_size=2", "epochs=",
        "evaluation.allow_overlap=true", "dtype=float32", "learner.learning_rate=1e-3",
    )  # fmt: skip


def test_self_rewarding_rounds_follow_each_other_and_continue(
    tmp_path: Path, prompts: str, judging_model: Path
) -> None:
    found = self_rewarding(prompts, judging_model, tmp_path / "a")
    first, second = found["rounds"]
    assert first["start"] == str(judging_model) and second["start"] == first["model"]
    assert first["pairs"] + first["tied_prompts"] == first["prompts"] == 3
    assert first["pairs"] > 0 and first["candidates"] > 0 and 0 <= first["own_score"] <= 5
    assert first["outside_score"] is not None and first["outside_after"] is not None
    (tmp_path / "a" / "round-2" / "round.json").unlink()
    again = self_rewarding(prompts, judging_model, tmp_path / "a")
    assert again["rounds"][0] == first
    assert {k: v for k, v in again["rounds"][1].items() if k != "evaluations"} == {
        k: v for k, v in second.items() if k != "evaluations"
    }
    done = CliRunner().invoke(
        app,
        ["self-reward", prompts, "--model", str(judging_model), "--out", str(tmp_path / "a"), "--verifier",
         "exact_match"],
    )  # fmt: skip
    assert done.exit_code == 2 and "other prompts or options" in done.output


def test_the_prompts_are_texts_with_every_name_used() -> None:
    with pytest.raises(KeyError, match="takes \\['critique'\\]"):
        filled("critique")


def test_online_dpo_learns_from_a_served_judge(
    tmp_path: Path, prompts: str, url: str, judging_model: Path
) -> None:
    options = {"endpoint": {"model": "tiny", "url": url}, "audit": str(tmp_path / "audit.jsonl")}
    made = truing.train(
        "online_dpo", model=judging_model, data=prompts, sampler={"group_size": 2, "max_tokens": 6},
        rewards={"judge": {"term": "truing.ai_feedback.preferred", "options": options}},
        folder=tmp_path / "run", **SMALL,
    )  # fmt: skip
    assert all(m["rollout/unscored_share"] == 0 for m in made.metrics)
    assert all(m["reward/judge_mean"] == pytest.approx(0.5) for m in made.metrics), "two shares add up to 1"
    assert len(read(tmp_path / "audit.jsonl")) >= 6
