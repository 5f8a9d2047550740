"""Soft labels, batch-wide sorting and a moving shift through a whole run on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truing.errors import DataError
from truing.recipe import recipe_from_dict
from truing.train import pipeline
from truing.train.stage import StageRun

NAMES = ["ada", "bo", "cy", "dee", "eve", "flo", "gus", "hal"]


def pairs_file(folder: Path, preferences: list[float] | None = None) -> str:
    rows = [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}"} for n in NAMES]
    if preferences:
        rows = [{**r, "preference": p} for r, p in zip(rows, preferences, strict=True)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def run(folder: Path, model: Path, algorithm: str, train: str, **changes: Any) -> Any:
    stage = {
        "name": "align", "algorithm": algorithm, "model": str(model), "dtype": "float32", "steps": 4,
        "batch_size": 4, "data": {"train": train, "shuffle": False}, "learner": {"learning_rate": 1e-2},
    }  # fmt: skip
    recipe = {"name": "t", "output": str(folder / "runs"), "stage": [{**stage, **changes}]}
    return pipeline.run(recipe_from_dict(recipe, source="test"), quiet=True)


def test_soft_labels_reach_the_loss(tmp_path: Path, tiny_model: Path) -> None:
    """Where the labels say that the rejected side is better, the margin moves the other way."""
    data, options = pairs_file(tmp_path, [0.1] * 8), {"use_labels": True}
    doubted = run(tmp_path, tiny_model, "dpo", data, options=options).metrics
    certain = run(tmp_path, tiny_model, "dpo", pairs_file(tmp_path)).metrics
    assert doubted[0]["loss/dpo"] == pytest.approx(certain[0]["loss/dpo"])
    assert doubted[-1]["rewards/margin"] < -0.01
    assert certain[-1]["rewards/margin"] > 0.01


@pytest.mark.parametrize("algorithm", ["dpo", "hinge_dpo"])
def test_uncertain_pairs_are_refused_by_a_method_that_reads_no_labels(
    algorithm: str, tmp_path: Path, tiny_model: Path
) -> None:
    data = pairs_file(tmp_path, [1.0, 1.0, 0.7] + [1.0] * 5)
    with pytest.raises(DataError, match=r"pairs\.jsonl.*3.*'preference' is 0\.7"):
        run(tmp_path, tiny_model, algorithm, data)


@pytest.mark.parametrize("variant", ["paired", "unpaired"])
def test_aot_is_the_same_run_for_every_size_of_micro_batch(
    variant: str, tmp_path: Path, tiny_model: Path
) -> None:
    data, found = pairs_file(tmp_path), []
    for tokens in (40, 8192):
        made = run(
            tmp_path, tiny_model, "aot", data, options={"variant": variant},
            learner={"learning_rate": 1e-2, "micro_batch_tokens": tokens},
        )  # fmt: skip
        found.append([m["loss/aot"] for m in made.metrics])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0][-1] < found[0][0]


def test_peer_19_the_shift_of_bco_is_resumed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, changes = pairs_file(tmp_path), {"checkpoint": {"every": 1}}
    whole = run(tmp_path / "a", tiny_model, "bco", data, **changes).metrics
    observe = StageRun.observe

    def killed_in_step_2(self: StageRun, step: int, batch: Any, metrics: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt
        observe(self, step, batch, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "observe", killed_in_step_2)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", tiny_model, "bco", data, **changes)
    resumed = pipeline.resume(next((tmp_path / "b" / "runs").iterdir()), quiet=True).metrics
    assert [m["rewards/shift"] for m in resumed] == [m["rewards/shift"] for m in whole]
    assert whole[-1]["rewards/shift"] != 0


def test_the_learner_gives_wpo_its_weights(tmp_path: Path, tiny_model: Path) -> None:
    """Under a nearly uniform policy every token has the average probability, and a pair weighs nearly 1."""
    metrics = run(tmp_path, tiny_model, "wpo", pairs_file(tmp_path)).metrics
    assert metrics[0]["rewards/weight_mean"] == pytest.approx(1.0, abs=0.1)
    assert metrics[0]["loss/wpo"] == pytest.approx(0.6931 * metrics[0]["rewards/weight_mean"], rel=1e-3)
    assert metrics[-1]["rewards/margin"] > 0
