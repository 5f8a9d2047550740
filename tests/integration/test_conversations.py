"""Conversations, replay and the process network through the real stack, on a tiny model."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from truing import plugins
from truing.data.chat import render_prompt
from truing.environments import Reply
from truing.errors import ConfigError, DataError
from truing.recipe import recipe_from_dict
from truing.rewards import RewardTerm
from truing.rollout.sampler import SamplingParams
from truing.train import pipeline
from truing.train.batches import batch_of_rollouts
from truing.train.conversations import Conversations
from truing.train.scoring import Scorer, rollout_metrics
from truing.train.stage import StageRun
from truing.types import Completion, Message, Prompt, Verdict

PROMPT = Prompt("p", (Message("user", "What is 12*7?"),), "84")


@dataclass
class Script:
    """A sampler that says what it is told: one list of (text, how it ended) a call."""

    tokenizer: Any
    lines: list[list[tuple[str, str]]]
    heard: list[list[tuple[int, ...]]] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        self.heard.append([tuple(p) for p in prompts])
        said = [self._completion(*line) for line in self.lines.pop(0)]
        assert len(said) == len(prompts) * num_samples
        return [said[i : i + num_samples] for i in range(0, len(said), num_samples)]

    def publish(self, version: int) -> None: ...

    def _completion(self, text: str, end: str) -> Completion:
        ids = tuple(self.tokenizer.encode(text + end))
        return Completion(ids, text, (-1.0,) * len(ids), "stop" if end else "length", 3)


def exact(completion: str, reference: Any, config: Any) -> Verdict:
    return Verdict("scored", float(completion == reference))


def conversations(tokenizer: Any, name: str, lines: Any, *, max_tokens: int = 400, **options: Any) -> Any:
    module = plugins.load("environments", name)
    return Conversations(
        sampler=Script(tokenizer, lines), tokenizer=tokenizer, reply=module.reply,
        config=module.Config(**options), scorer=Scorer([RewardTerm("exact", 1.0, exact, None)]),
        max_tokens=max_tokens,
    )  # fmt: skip


def talk(of: Any, group_size: int = 1) -> Any:
    ids = render_prompt(of.tokenizer, PROMPT.messages)
    return of([PROMPT], [ids], SamplingParams(max_tokens=60, stop_token_ids=(2,)), [0], group_size)


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


CALL, END = "<tool>calculator: 12*7</tool>", "<|im_end|>"


def test_peer_05_a_conversation_s_ids_are_what_was_sampled_and_only_grow(tokenizer: Any) -> None:
    of = conversations(tokenizer, "tool_use", [[(CALL, END), ("85", END)], [("84", END)]])
    called, straight = talk(of, group_size=2)
    whole = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in PROMPT.messages]
        + [
            {"role": "assistant", "content": CALL},
            {"role": "tool", "content": "84"},
            {"role": "assistant", "content": "84"},
        ],
        tokenize=False,
    ).removesuffix("\n")
    assert tokenizer.decode([*called.prompt_tokens, *called.completion.tokens]) == whole
    assert of.sampler.heard[1] == [
        (*called.prompt_tokens, *called.completion.tokens[: called.turns[1].start])
    ]
    assert called.completion.text == f"{CALL}\n\n[tool] 84\n\n[assistant] 84"
    assert (called.reward, straight.reward) == (1.0, 0.0)
    assert called.completion.policy_version == 3

    batch = batch_of_rollouts([called, straight])
    first, second = called.turns
    own = [*range(first.start, first.stop), *range(second.start, second.stop)]
    assert batch.mask[0].nonzero()[:, 0].tolist() == own
    assert batch.sampler_logprobs is not None and batch.turns is not None
    assert batch.turn_rewards is not None
    assert batch.sampler_logprobs[0].isnan().tolist() == [i not in own for i in range(len(batch.mask[0]))]
    assert batch.turns[0, own].tolist() == [0] * first.stop + [1] * (second.stop - second.start)
    assert batch.turn_rewards.nan_to_num(-1.0)[0].tolist() == [-1.0] * (second.stop - 1) + [1.0]
    assert batch.turn_rewards[1, : batch.lengths[1]].tolist()[-1] == 0.0
    assert batch.mask[1].sum() == batch.lengths[1] == 3
    metrics = rollout_metrics([called, straight], 60)
    assert metrics["environment/turns_per_conversation"] == 1.5
    assert metrics["environment/malformed_per_conversation"] == 0


def test_every_attempt_at_self_correction_is_judged(tokenizer: Any) -> None:
    lines = [[("85", END), ("84", END)], [("84", END), ("84", END)]]
    found = talk(conversations(tokenizer, "self_correct", lines, instruction="Again."), group_size=2)
    assert [[t.reward for t in r.turns] for r in found] == [[0.0, 1.0], [1.0, 1.0]]
    batch = batch_of_rollouts(found)
    assert batch.turn_rewards is not None
    assert (~batch.turn_rewards.isnan()).sum() == 4


def test_peer_16_a_malformed_call_is_answered_and_a_broken_environment_has_no_reward(tokenizer: Any) -> None:
    (found,) = talk(conversations(tokenizer, "tool_use", [[("<tool>12*7", END)], [("84", END)]]))
    assert found.facts["environment/malformed_per_conversation"] == 1
    assert found.reward == 1.0
    of = conversations(tokenizer, "tool_use", [[(CALL, END)]])
    object.__setattr__(of, "reply", lambda *_: Reply(status="failed", evidence="the tool is down"))
    (broken,) = talk(of)
    assert broken.reward is None
    assert broken.verdicts["exact"] == Verdict("failed", evidence="the environment failed: the tool is down")


def test_a_turn_that_is_cut_or_would_not_fit_is_the_last(tokenizer: Any) -> None:
    (cut,) = talk(conversations(tokenizer, "tool_use", [[(CALL, "")]]))
    assert (cut.completion.finish_reason, len(cut.turns)) == ("length", 1)
    (full,) = talk(conversations(tokenizer, "tool_use", [[(CALL, END)]], max_tokens=100))
    assert (full.completion.finish_reason, len(full.turns)) == ("length", 1)
    assert len(full.completion.tokens) == full.turns[0].stop  # nothing dangles after the last turn


def test_the_template_s_own_end_follows_another_stop_token(tokenizer: Any) -> None:
    of = conversations(tokenizer, "tool_use", [[(CALL, "<|endoftext|>")], [("84", END)]])
    (found,) = talk(of)
    between = found.completion.tokens[found.turns[0].stop : found.turns[1].start]
    assert tokenizer.decode(between) == "<|im_end|>\n<|im_start|>tool\n84<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("said", ["", " ", " 85 \n", "\ufffd", "<tool>", "a<|im_start|>b"])
def test_odd_text_does_not_stop_a_conversation(tokenizer: Any, said: str) -> None:
    lines = [[(said, END)], [("84", END)]]
    (found,) = talk(conversations(tokenizer, "self_correct", lines, instruction="Again."))
    assert len(found.turns) == 2


def test_peer_09_a_template_that_rewrites_what_was_said_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] if not loop.last else m['content'] }}"
    )
    of = conversations(tokenizer, "self_correct", [[("<think>12*7</think>84", END)]], instruction="Again.")
    with pytest.raises(DataError, match="does not let a conversation grow"):
        talk(of)


LETTERS = '''
from truing.config import Strict
from truing.types import Verdict

class Config(Strict):
    """None."""

def verify(completion, reference, config):
    return Verdict("scored", sum("a" <= c <= "z" for c in completion) / max(len(completion), 1))
'''


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": f"greet {n}", "completion": f"hello {n}"} for n in ("ada", "bo", "cy", "dee", "eve")]
    pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": "go away"} for r in rows]
    files = {"rows": rows, "pairs": pairs, "prompts": [{"prompt": r["prompt"]} for r in rows]}
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content), "utf-8")
    (tmp_path / "letters.py").write_text(LETTERS, encoding="utf-8")
    return {name: str(tmp_path / f"{name}.jsonl") for name in files} | {
        "letters": str(tmp_path / "letters.py")
    }


def stage(algorithm: str, model: Path, files: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a stage whose completions end soon: any letter or digit is a stop token."""
    base: dict[str, Any] = {
        "name": algorithm, "algorithm": algorithm, "model": str(model), "dtype": "float32", "steps": 3,
        "batch_size": 2, "learner": {"learning_rate": 1e-2}, "checkpoint": {"every": 1, "keep": 2},
        "data": {"train": files["prompts"]},
        "sampler": {"group_size": 4, "max_tokens": 24, "stop": list(string.ascii_letters + string.digits)},
        "rewards": {"letters": {"verifier": files["letters"]}},
    }  # fmt: skip
    return {k: v for k, v in {**base, **changes}.items() if v is not None}


def run(tmp_path: Path, *stages: dict[str, Any]) -> Any:
    recipe = recipe_from_dict({"name": "t", "output": str(tmp_path / "runs"), "stage": list(stages)}, "test")
    return pipeline.run(recipe, quiet=True)


SELF_CORRECT = {"name": "self_correct", "options": {"instruction": "Again."}, "max_tokens": 200}


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "score"])
def test_conversations_train_and_the_learner_agrees_with_the_sampler(
    tmp_path: Path, tiny_model: Path, data: dict[str, Any], algorithm: str
) -> None:
    made = run(tmp_path, stage(algorithm, tiny_model, data, environment=SELF_CORRECT))
    for metrics in made.metrics:
        assert 1 < metrics["environment/turns_per_conversation"] <= 2
        assert metrics["mismatch/logprob_gap_mean"] < 1e-3
        assert metrics["train/completion_tokens"] > 0
    if algorithm == "score":
        assert "turns/accuracy_gain" in made.metrics[0]
    samples = [json.loads(s) for s in (made.folder / algorithm / "samples.jsonl").read_text().splitlines()]
    assert any("[user] Again." in s["completion"] for s in samples)


def test_grpo_trains_with_tools(tmp_path: Path, tiny_model: Path, data: dict[str, Any]) -> None:
    environment = {"name": "tool_use", "options": {"max_calls": 1}, "max_tokens": 100}
    made = run(tmp_path, stage("grpo", tiny_model, data, environment=environment))
    assert all("environment/malformed_per_conversation" in m for m in made.metrics)


def test_a_single_turn_environment_is_the_plain_path(
    tmp_path: Path, tiny_model: Path, data: dict[str, Any]
) -> None:
    plain = run(tmp_path, stage("grpo", tiny_model, data)).metrics
    turn = run(tmp_path, stage("grpo", tiny_model, data, environment={"name": "single_turn"})).metrics
    for one, other in zip(plain, turn, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith("time")} == {
            k: other[k] for k in one if not k.startswith("time")
        }


REPLAY = {"weight": 2.0, "share": 0.3}
OFFLINE: dict[str, Any] = {"sampler": None, "rewards": None}


@pytest.mark.parametrize("algorithm", ["ppo", "dpo", "prime"])
def test_peer_19_replay_and_process_resume_bit_for_bit(
    tmp_path: Path, tiny_model: Path, data: dict[str, Any], algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"replay": {**REPLAY, "data": {"train": data["rows"]}}}
    if algorithm == "dpo":
        changes |= {**OFFLINE, "data": {"train": data["pairs"]}}
    s = stage(algorithm, tiny_model, data, **changes)
    s["learner"] = {**s["learner"], "num_minibatches": 2}
    if algorithm == "prime":
        s["learner"]["process_learning_rate"] = 1e-3
        s["options"] = {"accuracy_low": 0.0, "accuracy_high": 1.0}
    whole = run(tmp_path / "a", s)
    assert all(m["loss/replay"] > 0 and m["loss/replay"] == m["loss/replay"] for m in whole.metrics)
    if algorithm == "prime":
        assert whole.metrics[0]["process/reward_per_sequence"] == pytest.approx(0, abs=1e-3)
        assert abs(whole.metrics[-1]["process/reward_per_sequence"]) > 1e-3

    observe = StageRun.observe

    def killed_in_step_2(self: StageRun, step: int, batch: Any, metrics: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt
        observe(self, step, batch, metrics)

    folder = tmp_path / "b" / "run"
    folder.mkdir(parents=True)
    recipe = recipe_from_dict({"name": "t", "output": str(tmp_path / "b"), "stage": [s]}, "test")
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "observe", killed_in_step_2)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, folder=folder, quiet=True)
    pipeline.resume(folder, quiet=True)
    one, two = (load_file(f / algorithm / "model" / "model.safetensors") for f in (whole.folder, folder))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_replayed_batch_keeps_its_mix_and_the_method_s_own_numbers(
    tmp_path: Path, tiny_model: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[Any]()
    minibatches = StageRun.minibatches

    def watched(self: StageRun, batch: Any) -> Any:
        for part in minibatches(self, batch):
            seen.append(part)
            yield part

    monkeypatch.setattr(StageRun, "minibatches", watched)
    replay = {"share": 0.5, "weight": 1e-9, "data": {"train": data["rows"]}}
    s = stage("grpo", tiny_model, data, replay=replay, steps=1)
    s["learner"] = {**s["learner"], "num_minibatches": 2}
    s["sampler"] = {**s["sampler"], "group_size": 4}
    mixed = run(tmp_path, s).metrics[0]
    assert [(len(b), int(b.replay.sum())) for b in seen] == [(8, 4), (8, 4)]
    plain = run(tmp_path, {k: v for k, v in s.items() if k != "replay"}).metrics[0]
    for name in ("loss/policy", "policy/entropy", "mismatch/logprob_gap_mean", "reward/mean"):
        assert mixed[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("grpo", {"environment": {"name": "tool_usee"}}, "Did you mean 'tool_use'"),
        ("grpo", {"environment": {"name": "tool_use", "options": {"calls": 3}}}, "environment.options.calls"),
        ("grpo", {"environment": {"name": "tool_use", "options": {"tools": ["pithon"]}}}, "unknown tool 'pithon'"),
        ("grpo", {"environment": {"name": "tool_use", "max_tokens": 10}}, "no room for one turn"),
        ("dpo", {**OFFLINE, "environment": {"name": "tool_use"}}, "dpo learns from pairs and samples nothing"),
        ("nash_md", {"environment": {"name": "tool_use"}}, "nash_md samples beside an opponent"),
        ("remax", {"environment": {"name": "tool_use"}}, "plays no conversations"),
        ("score", {}, "score learns from the turns of a conversation"),
        ("score", {"environment": {"name": "tool_use"}}, "tool_use judges only the last"),
        ("grpo", {"learner": {"process_learning_rate": 1e-4}}, "grpo trains no process reward model"),
        ("reward_model", {**OFFLINE, "replay": {"data": {"train": "rows"}}}, "writes nothing that could follow"),
        ("grpo", {"replay": {"data": {"train": "no.jsonl"}}}, "no such file"),
        ("grpo", {"replay": {"share": 1.0, "data": {"train": "rows"}}}, "replay.share"),
    ],
)  # fmt: skip
def test_recipes_say_what_does_not_go_together(
    tmp_path: Path, tiny_model: Path, data: dict[str, Any], algorithm: str, changes: Any, message: str
) -> None:
    if algorithm in ("dpo", "reward_model"):
        changes = {**changes, "data": {"train": data["pairs"]}}
    changes = json.loads(json.dumps(changes).replace('"rows"', json.dumps(data["rows"])))
    with pytest.raises(ConfigError) as error:
        run(tmp_path, stage(algorithm, tiny_model, data, **changes))
    assert message in str(error.value)
