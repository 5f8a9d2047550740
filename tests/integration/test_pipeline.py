"""A whole run on a tiny model: offline, online, a pipeline; and a resumed run equals the uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from truing.errors import DataError, MismatchError
from truing.recipe import recipe_from_dict
from truing.train import pipeline
from truing.train.stage import StageRun

VERIFIER = '''
"""Share of lower-case letters: a random byte model earns about a tenth."""
from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    letters: str = "abcdefghijklmnopqrstuvwxyz"


def verify(completion, reference, config):
    return Verdict("scored", sum(c in config.letters for c in completion) / max(len(completion), 1))


EXAMPLES = ()
'''


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    names = ["ada", "bo", "cy", "dee", "eve", "flo", "gus", "hal", "ivy", "jo"]
    (tmp_path / "letter.py").write_text(VERIFIER, encoding="utf-8")
    return {
        "demonstrations": write_rows(
            tmp_path / "sft.jsonl", [{"prompt": f"greet {n}", "completion": f"hello {n}"} for n in names]
        ),
        "pairs": write_rows(
            tmp_path / "pairs.jsonl",
            [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}"} for n in names],
        ),
        "prompts": write_rows(
            tmp_path / "prompts.jsonl", [{"prompt": f"greet {n}", "answer": n} for n in names]
        ),
        "held_out": write_rows(tmp_path / "held_out.jsonl", [{"prompt": "greet zed", "answer": "zed"}]),
        "verifier": str(tmp_path / "letter.py"),
    }


def stage(kind: str, model: Path, data: dict[str, str], **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": kind,
        "algorithm": kind,
        "model": str(model),
        "dtype": "float32",
        "steps": 6,
        "batch_size": 4,
        "learner": {"learning_rate": 1e-2},
        "checkpoint": {"every": 2, "keep": 2},
    }
    if kind in ("grpo", "dapo", "ppo"):
        base["data"] = {"train": data["prompts"]}
        base["sampler"] = {"group_size": 4, "max_tokens": 8, "mismatch_threshold": 0.1}
        if kind == "dapo":
            base["options"] = {"max_tokens": 8, "overlong_cache": 2}
        base["rewards"] = {"letter": {"verifier": data["verifier"]}}
    else:
        base["data"] = {"train": data["demonstrations" if kind == "sft" else "pairs"]}
    return {**base, **changes}


def recipe(tmp_path: Path, *stages: dict[str, Any]) -> Any:
    return recipe_from_dict(
        {"name": "t", "output": str(tmp_path / "runs"), "stage": list(stages)}, source="test"
    )


def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if not k.startswith("time")} for r in rows]


def weights(folder: Path) -> dict[str, Any]:
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward_model", "grpo", "dapo", "ppo"])
def test_every_method_trains_and_explains_itself(
    kind: str, tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    made = pipeline.run(recipe(tmp_path, stage(kind, tiny_model, data)), quiet=True)
    assert [m["step"] for m in made.metrics] == list(range(6))
    assert all(value == value for m in made.metrics for value in m.values()), "a metric is NaN"
    for name in ("run.json", "recipe.toml", "command.txt", "versions.json", "report.html", kind):
        assert (made.folder / name).exists(), name
    assert (made.folder / kind / "model" / "config.json").exists()
    assert (made.policy is None) == (kind == "reward_model")


def test_offline_loss_falls(tmp_path: Path, tiny_model: Path, data: dict[str, str]) -> None:
    made = pipeline.run(recipe(tmp_path, stage("sft", tiny_model, data, steps=30)), quiet=True)
    losses = [m["loss/nll"] for m in made.metrics]
    assert losses[-1] < 0.3 * losses[0]


def test_online_reward_rises_and_stays_flat_without_a_learning_rate(
    tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    sampler = {"group_size": 8, "max_tokens": 8}

    def gain(rate: float) -> float:
        s = stage(
            "grpo", tiny_model, data, steps=40, batch_size=4, learner={"learning_rate": rate}, sampler=sampler
        )
        rewards = [m["reward/mean"] for m in pipeline.run(recipe(tmp_path, s), quiet=True).metrics]
        return sum(rewards[-5:]) / 5 - sum(rewards[:5]) / 5

    assert gain(2e-2) > 0.3
    assert abs(gain(1e-12)) < 0.05


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo", "ppo"])
def test_peer_19_resumed_run_equals_the_uninterrupted_one(
    kind: str, tmp_path: Path, tiny_model: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stage(kind, tiny_model, data, steps=7)
    if kind == "ppo":
        s["learner"] |= {"num_minibatches": 2, "num_epochs": 2}
        s["options"] = {"adaptive_kl": True} if _has_option("ppo", "adaptive_kl") else {}
    whole = pipeline.run(recipe(tmp_path / "a", s), quiet=True)

    observe = StageRun.observe

    def killed_in_step_4(self: StageRun, step: int, batch: Any, metrics: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        observe(self, step, batch, metrics)

    folder = tmp_path / "b" / "run"
    folder.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "observe", killed_in_step_4)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe(tmp_path / "b", s), folder=folder, quiet=True)
    resumed = pipeline.resume(folder, quiet=True)

    assert steady(resumed.metrics) == steady(whole.metrics)
    one, two = weights(whole.folder / kind / "model"), weights(folder / kind / "model")
    assert one.keys() == two.keys()
    assert all((one[k] == two[k]).all() for k in one)


def _has_option(algorithm: str, name: str) -> bool:
    from truing import plugins

    return name in plugins.config_class("algorithms", algorithm).model_fields


def test_a_pipeline_feeds_its_stages_and_measures_each_policy_once(
    tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    evaluation = {"data": data["held_out"], "verifier": data["verifier"], "max_tokens": 4}
    first = stage("sft", tiny_model, data, evaluation=evaluation)
    second = stage("grpo", tiny_model, data, evaluation=evaluation) | {"model": "stage:sft"}
    made = pipeline.run(recipe(tmp_path, first, second), quiet=True)
    assert [(e["stage"], e["when"]) for e in made.evaluations] == [
        ("sft", "before"),
        ("sft", "after"),
        ("grpo", "after"),
    ]
    assert made.policy is not None
    assert isinstance(made.policy.generate("greet ada", max_tokens=4), str)


def test_held_out_prompts_that_are_trained_on_are_refused(
    tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    evaluation = {"data": data["prompts"], "verifier": data["verifier"]}
    with pytest.raises(DataError, match="10 of 10 prompts are also trained on"):
        pipeline.run(recipe(tmp_path, stage("sft", tiny_model, data, evaluation=evaluation)), quiet=True)


def test_peer_11_stale_sampler_weights_stop_the_run(
    tmp_path: Path, tiny_model: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from truing.rollout.hf import HFSampler

    publish = HFSampler.publish
    monkeypatch.setattr(
        HFSampler, "publish", lambda self, version: None if version else publish(self, version)
    )
    s = stage("grpo", tiny_model, data, learner={"learning_rate": 0.1, "warmup": 0.0})
    with pytest.raises(MismatchError, match="sampler and learner log-probs differ"):
        pipeline.run(recipe(tmp_path, s), quiet=True)
    folder = next((tmp_path / "runs").iterdir())
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert len((folder / "grpo" / "metrics.jsonl").read_text().splitlines()) == 2  # caught one step later


def test_peer_16_a_verifier_that_fails_is_counted_and_never_a_zero(
    tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    flaky = tmp_path / "flaky.py"
    flaky.write_text(
        VERIFIER.replace(
            "    return Verdict(",
            "    if len(completion) % 2:\n        return Verdict('failed', evidence='down')\n    return Verdict(",
        ),
        encoding="utf-8",
    )
    s = stage("grpo", tiny_model, data, rewards={"letter": {"verifier": str(flaky)}})
    made = pipeline.run(recipe(tmp_path, s), quiet=True)
    assert any(m["rollout/unscored_share"] > 0 for m in made.metrics)
