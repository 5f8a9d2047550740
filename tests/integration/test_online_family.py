"""Critic-free online methods on a tiny model: greedy baselines, a teacher, a carried mean, old entropies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing.errors import ConfigError
from truing.recipe import recipe_from_dict
from truing.train import pipeline
from truing.train.stage import StageRun

VERIFIER = '''
"""Share of lower-case letters: a random byte model earns about a tenth."""
from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    pass


def verify(completion, reference, config):
    return Verdict("scored", sum(c.islower() for c in completion) / max(len(completion), 1))


EXAMPLES = ()
'''


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Any:
    (tmp_path / "letter.py").write_text(VERIFIER, encoding="utf-8")
    rows = [{"prompt": f"greet {n}", "answer": n} for n in ("ada", "bo", "cy", "dee", "eve", "flo")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")

    def recipe(algorithm: str, **changes: Any) -> Any:
        rewards = {"letter": {"verifier": str(tmp_path / "letter.py")}}
        stage = {
            "name": "online", "algorithm": algorithm, "model": str(tiny_model), "dtype": "float32",
            "steps": 4, "batch_size": 4, "data": {"train": str(tmp_path / "prompts.jsonl")},
            "learner": {"learning_rate": 1e-2}, "sampler": {"group_size": 4, "max_tokens": 8},
            "rewards": rewards, "checkpoint": {"every": 2}, **changes,
        }  # fmt: skip
        stage = {k: v for k, v in stage.items() if v is not None}
        return recipe_from_dict(
            {"name": "t", "output": str(tmp_path / "runs"), "stage": [stage]}, source="test"
        )

    return recipe


def finite(made: Any) -> bool:
    return all(value == value for m in made.metrics for value in m.values())


def test_remax_draws_its_baselines(run: Any) -> None:
    made = pipeline.run(run("remax", sampler={"group_size": 1, "max_tokens": 8}), quiet=True)
    assert finite(made)
    for m in made.metrics:
        assert 1 <= m["rollout/greedy_mean_tokens"] <= 8
        assert m["rollout/unscored_baseline_share"] == 0.0
        assert 0 <= m["policy/greedy_reward_mean"] <= 1
    assert any(m["loss/policy"] != 0 for m in made.metrics)


def test_distillation_brings_the_student_to_its_teacher(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    """The teacher is the tiny model, far surer of itself: other log-probs, the same vocabulary."""
    teacher = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        teacher.get_output_embeddings().weight *= 15
    teacher.save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "teacher")

    def fall(rate: float, steps: int) -> float:
        made = pipeline.run(
            run(
                "distillation", rewards=None, reference=str(tmp_path / "teacher"), steps=steps,
                learner={"learning_rate": rate, "schedule": "constant"},
                sampler={"group_size": 16, "max_tokens": 8},
            ),
            quiet=True,
        )  # fmt: skip
        assert finite(made)
        assert not [name for name in made.metrics[0] if name.startswith("reward/")]
        divergence = [m["kl/teacher_mean"] for m in made.metrics]
        return sum(divergence[-5:]) / sum(divergence[:5])

    assert fall(1e-2, 40) < 0.85
    assert fall(1e-12, 10) > 0.9


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (None, "no model is named"),
        ("copy", "'copy' is the policy itself"),
        ("cache", "'cache' is the policy"),
    ],
)
def test_distillation_without_a_teacher_is_refused(run: Any, reference: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=f"distillation learns from the reference, its teacher, and {says}"):
        run("distillation", rewards=None, reference=reference)


def test_distillation_refuses_a_reward(run: Any) -> None:
    with pytest.raises(ConfigError, match="distillation maximises no reward"):
        run("distillation", reference="some/teacher")


def test_remax_plays_no_conversations(run: Any) -> None:
    with pytest.raises(ConfigError, match="remax compares with a greedy completion"):
        run("remax", environment={"name": "self_correct", "max_tokens": 40})


def test_dr_grpo_s_constant_is_the_sampler_s_limit(run: Any) -> None:
    with pytest.raises(ConfigError, match=r"3000 is not the sampler's limit of 8[\s\S]*max_tokens = 8"):
        run("dr_grpo")
    assert finite(pipeline.run(run("dr_grpo", options={"max_tokens": 8}), quiet=True))


@pytest.mark.parametrize(("num_minibatches", "share"), [(1, 0.25), (2, 0.25)])
def test_dapo_trains_the_tokens_of_highest_entropy(run: Any, num_minibatches: int, share: float) -> None:
    learner = {"learning_rate": 1e-2, "num_minibatches": num_minibatches}
    options = {"max_tokens": 8, "overlong_cache": 2, "high_entropy_share": share}
    assert finite(pipeline.run(run("dapo", options=options, learner=learner), quiet=True))


def test_decoupled_ppo_tells_behaviour_from_proximal_policy(run: Any) -> None:
    made = pipeline.run(run("decoupled_ppo", learner={"learning_rate": 1e-2, "num_epochs": 2}), quiet=True)
    assert finite(made)
    assert all(0.99 < m["mismatch/weight_mean"] < 1.01 for m in made.metrics)  # the sampler is up to date


def test_peer_19_the_running_mean_of_reinforce_survives_a_kill(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pipeline.run(run("reinforce", steps=5), quiet=True)
    observe = StageRun.observe

    def killed_in_step_3(self: StageRun, step: int, batch: Any, metrics: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt
        observe(self, step, batch, metrics)

    folder = tmp_path / "killed"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "observe", killed_in_step_3)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(run("reinforce", steps=5), folder=folder, quiet=True)
    resumed = pipeline.resume(folder, quiet=True)
    names = ("loss/policy", "policy/return_mean", "policy/ref_kl_per_sequence", "train/grad_norm")
    assert [[m[n] for n in names] for m in resumed.metrics] == [[m[n] for n in names] for m in whole.metrics]
