"""`truing compare` from recipes to the page on a tiny model; the KL and the compute that runs record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from truing.compare import execute
from truing.compare.run import compare
from truing.errors import ConfigError, NonFiniteError
from truing.log import read_jsonl, read_metrics
from truing.recipe import recipe_from_dict
from truing.train import pipeline

VERIFIER = '''
"""Passes where a lower-case letter comes first."""
from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    pass


def verify(completion, reference, config):
    return Verdict("scored", float(completion[:1].islower()))


EXAMPLES = ()
'''


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    names = [f"name{i}" for i in range(12)]
    pairs = [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"GO {n}"} for n in names]
    rows = {"pairs": pairs, "prompts": [{"prompt": f"meet {n}", "answer": n} for n in names]}
    rows["held_out"] = [{"prompt": f"see {i}", "answer": str(i)} for i in range(40)]
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    (tmp_path / "lower.py").write_text(VERIFIER)
    return {n: str(tmp_path / f"{n}.jsonl") for n in rows} | {"verifier": str(tmp_path / "lower.py")}


def recipe(name: str, model: Path, files: dict[str, str], **changes: Any) -> dict[str, Any]:
    evaluation = {
        "data": files["held_out"],
        "verifier": files["verifier"],
        "max_tokens": 4,
        "temperature": 1.0,
    }
    base: dict[str, Any] = {
        "name": name, "algorithm": name, "model": str(model), "dtype": "float32", "steps": 3, "batch_size": 4,
        "learner": {"learning_rate": 1e-2}, "evaluation": evaluation,
    }  # fmt: skip
    if name == "grpo":
        base |= {"data": {"train": files["prompts"]}, "rewards": {"lower": {"verifier": files["verifier"]}}}
        base["sampler"] = {"group_size": 4, "max_tokens": 4}
    else:
        base["data"] = {"train": files["pairs"]}
    return base | changes


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / f"{content['name']}.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def test_recipes_run_over_seeds_at_one_budget_and_are_not_run_again(
    tmp_path: Path, tiny_model: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [written(tmp_path, recipe(n, tiny_model, files)) for n in ("dpo", "grpo")]
    out = tmp_path / "out"
    found = compare(sources, output=out, budget="tokens=400", seeds=2, quiet=True)
    assert [m.name for m in found.methods] == ["dpo", "grpo"] and not found.failures
    assert all(len(m.trials) == 2 and m.kl is not None for m in found.methods)
    assert all(abs(m.compute["tokens"] / 400 - 1) < 0.25 for m in found.methods)
    steps = [m.trials[0].final.step for m in found.methods]
    assert steps[0] != steps[1], "one budget is not one number of steps"
    assert all(len(t.points) >= 3 for m in found.methods for t in m.trials), "a frontier has points"
    assert (out / "comparison.html").is_file() and (out / "frontier-kl.svg").is_file()

    monkeypatch.setattr(pipeline, "run", lambda *a, **k: pytest.fail("a finished seed is run again"))
    again = compare(sources, output=out, budget="tokens=400", seeds=2, quiet=True)
    assert again.record() == found.record()
    with pytest.raises(ConfigError, match="another recipe, budget or option"):
        compare(sources, output=out, seeds=2, quiet=True)


def test_an_interrupted_comparison_continues(
    tmp_path: Path, tiny_model: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path, recipe("dpo", tiny_model, files, checkpoint={"every": 1}))
    run, calls = pipeline.run, []

    def interrupted(*args: Any, **keys: Any) -> Any:
        calls.append(keys["folder"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare([source], output=tmp_path / "out", seeds=2, quiet=True)
    found = compare([source], output=tmp_path / "out", seeds=2, quiet=True)
    assert [t.seed for t in found.methods[0].trials] == [0, 1]


def test_a_run_that_breaks_is_a_finding_and_not_the_end(
    tmp_path: Path, tiny_model: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [written(tmp_path, recipe(n, tiny_model, files)) for n in ("dpo", "grpo")]
    start = execute.api.start

    def breaks(made: Any, folder: Path, **keys: Any) -> Any:
        if made.name == "grpo" and folder.name == "seed-1":
            raise NonFiniteError("the loss is NaN")
        return start(made, folder, **keys)

    monkeypatch.setattr(execute.api, "start", breaks)
    found = compare(sources, output=tmp_path / "out", seeds=2, quiet=True)
    assert [(f.name, f.seed) for f in found.failures] == [("grpo", 1)]
    assert [len(m.trials) for m in found.methods] == [2, 1]
    assert "the loss is NaN" in (tmp_path / "out" / "comparison.md").read_text()


def test_evaluations_measure_the_kl_from_the_start_policy(
    tmp_path: Path, tiny_model: Path, files: dict[str, str]
) -> None:
    values = recipe("dpo", tiny_model, files, steps=6, learner={"learning_rate": 5e-2})
    values["evaluation"] |= {"kl": True, "every": 3, "max_tokens": 8}
    made = pipeline.run(
        recipe_from_dict({**values, "output": str(tmp_path / "runs")}, source="test"), quiet=True
    )
    before, middle, after = read_jsonl(made.folder / "train" / "evaluations.jsonl")
    assert before["kl"] == pytest.approx(0, abs=1e-5)
    assert middle["kl"] > 0.5 and after["kl"] > 0.5
    assert after["kl_low"] < after["kl"] < after["kl_high"]


def test_kl_needs_completions_at_temperature_1(
    tmp_path: Path, tiny_model: Path, files: dict[str, str]
) -> None:
    values = recipe("dpo", tiny_model, files)
    values["evaluation"] |= {"kl": True, "temperature": 0.0}
    with pytest.raises(ConfigError, match=r"evaluation\.kl is of the policy itself"):
        recipe_from_dict(values, source="test")


def test_runs_record_what_they_compute(tmp_path: Path, tiny_model: Path, files: dict[str, str]) -> None:
    flops = {}
    for name in ("dpo", "grpo"):
        values = recipe(name, tiny_model, files, output=str(tmp_path / "runs"))
        made = pipeline.run(recipe_from_dict(values, source="test"), quiet=True)
        flops[name] = read_metrics(made.folder / "train" / "metrics.jsonl")
    parameters = 2 * sum(p.numel() for p in _weights(tiny_model))
    for rows in flops.values():
        assert all(row["train/flops"] > 3 * parameters * row["train/completion_tokens"] for row in rows)
    assert flops["dpo"][0]["train/flops"] > flops["dpo"][1]["train/flops"], "the cached reference, once"
    assert all(row["rollout/drawn_tokens"] == row["train/completion_tokens"] for row in flops["grpo"])


def _weights(model: Path) -> list[Any]:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    return [p for n, p in loaded.named_parameters() if "embed_tokens" not in n]
