"""Judged completions and noisy imitation through the real stack: recipe, readers, reference, learner, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from truing.errors import ConfigError, DataError
from truing.recipe import recipe_from_dict
from truing.train import pipeline
from truing.train.stage import StageRun

NAMES = ["ada", "bo", "cy", "dee", "eve", "flo", "gus", "hal", "ivy", "jo"]
ROWS = {
    "kto": [
        {"prompt": f"greet {n}", "completion": f"{word} {n}", "label": word == "hello"}
        for n in NAMES
        for word in ("hello", "go away")
    ],
    "sft": [{"prompt": f"greet {n}", "completion": f"hello {n}"} for n in NAMES],
    "orpo": [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}"} for n in NAMES],
}
OPTIONS = {"kto": {}, "sft": {"neftune_alpha": 5.0}, "orpo": {"nll_scope": "all"}}


def recipe(tmp_path: Path, model: Path, kind: str, **changes: Any) -> Any:
    path = tmp_path / f"{kind}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS[kind]), encoding="utf-8")
    stage = {
        "name": kind, "algorithm": kind, "options": OPTIONS[kind], "model": str(model), "dtype": "float32",
        "steps": 7, "batch_size": 4, "learner": {"learning_rate": 1e-2}, "data": {"train": str(path)},
        "checkpoint": {"every": 2, "keep": 2},
    }  # fmt: skip
    stage |= changes
    return recipe_from_dict({"name": "t", "output": str(tmp_path / "runs"), "stage": [stage]}, source="test")


def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if not k.startswith("time")} for r in rows]


@pytest.mark.parametrize("kind", ["kto", "sft"])
def test_peer_19_resumed_run_equals_the_uninterrupted_one(
    kind: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KTO with its reference point, SFT with noise from torch's random state."""
    whole = pipeline.run(recipe(tmp_path, tiny_model, kind), quiet=True)
    observe = StageRun.observe

    def killed_in_step_4(self: StageRun, step: int, batch: Any, metrics: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        observe(self, step, batch, metrics)

    folder = tmp_path / "killed"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "observe", killed_in_step_4)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe(tmp_path, tiny_model, kind), folder=folder, quiet=True)
    resumed = pipeline.resume(folder, quiet=True)
    assert steady(resumed.metrics) == steady(whole.metrics)
    one, two = (load_file(f / kind / "model" / "model.safetensors") for f in (whole.folder, folder))
    assert all((one[k] == two[k]).all() for k in one)


def test_kto_learns_from_labels_and_keeps_a_copy_as_reference(tmp_path: Path, tiny_model: Path) -> None:
    made = pipeline.run(recipe(tmp_path, tiny_model, "kto", steps=20, batch_size=10), quiet=True)
    first, last = made.metrics[0], made.metrics[-1]
    assert first["kl/reference_point"] == pytest.approx(0, abs=1e-4)
    assert first["rewards/desirable"] == pytest.approx(0, abs=1e-4)
    assert first["loss/kto"] == pytest.approx(0.5, abs=1e-4)
    assert last["rewards/desirable"] - last["rewards/undesirable"] > 1
    assert last["loss/kto"] < 0.4
    events = [json.loads(line) for line in (made.folder / "kto" / "events.jsonl").read_text().splitlines()]
    assert ("reference", "copy") in [(e["kind"], e.get("reference")) for e in events]


def test_without_a_reference_point_kto_s_reference_is_a_cache(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    options = {"kl_estimate": "none"}
    made = pipeline.run(recipe(tmp_path, tiny_model, "kto", options=options, steps=2), quiet=True)
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    assert "kl/reference_point" not in made.metrics[0]


def test_a_cache_cannot_serve_mismatched_rows(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(tmp_path, tiny_model, "kto", reference="cache")
    (problem,) = caught.value.problems
    assert "kto pairs prompts with other completions" in problem.what
    assert "'copy'" in problem.right and "kl_estimate = 'none'" in problem.right


def test_peer_04_a_batch_of_one_row_stops_the_run(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(DataError, match="the batch has one row"):
        pipeline.run(recipe(tmp_path, tiny_model, "kto", batch_size=1), quiet=True)


def test_orpo_trains_with_the_likelihood_of_the_prompt(tmp_path: Path, tiny_model: Path) -> None:
    made = pipeline.run(recipe(tmp_path, tiny_model, "orpo", steps=20), quiet=True)
    assert made.metrics[-1]["loss/nll"] < 0.6 * made.metrics[0]["loss/nll"]


def test_the_recipe_s_noise_reaches_the_training_pass(tmp_path: Path, tiny_model: Path) -> None:
    loud = pipeline.run(recipe(tmp_path, tiny_model, "sft", options={"neftune_alpha": 15.0}), quiet=True)
    still = pipeline.run(recipe(tmp_path, tiny_model, "sft", options={}), quiet=True)
    assert loud.metrics[0]["loss/nll"] != still.metrics[0]["loss/nll"]
