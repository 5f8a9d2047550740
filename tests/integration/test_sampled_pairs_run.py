"""Methods with an opponent, with self-play and with rounds run from a recipe, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from truing.config import LearnerConfig
from truing.errors import ConfigError
from truing.model.load import load_model
from truing.model.reference import build_reference
from truing.recipe import recipe_from_dict
from truing.rollout._mixture import MixtureSampler
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams
from truing.train import pipeline
from truing.train.learner import TorchLearner
from truing.train.opponents import Opposed, make_opponent
from truing.train.order import Order
from truing.train.self_play import SelfPlay, last_turn
from truing.train.stage import StageRun
from truing.types import Completion, Message, Prompt, Rollout, Row

VERIFIER = '''
"""Share of lower-case letters; "always" pays everyone the same."""
from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    always: bool = False


def verify(completion, reference, config):
    share = sum("a" <= c <= "z" for c in completion) / max(len(completion), 1)
    return Verdict("scored", 1.0 if config.always else share)


EXAMPLES = ()
'''
NAMES = ["ada", "bo", "cy", "dee", "eve", "flo", "gus", "hal"]


def stage(name: str, model: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "letters.py").write_text(VERIFIER, encoding="utf-8")
    rows = [{"prompt": f"greet {n}", "completion": f"hello {n}"} for n in NAMES]
    if name != "spin":
        rows = [{"prompt": r["prompt"]} for r in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    base: dict[str, Any] = {
        "name": name,
        "algorithm": name,
        "model": str(model),
        "dtype": "float32",
        "steps": 4,
        "batch_size": 4,
        "learner": {"learning_rate": 1e-2, "num_minibatches": 2, "num_epochs": 2},
        "sampler": {"group_size": 4, "max_tokens": 6, "mismatch_threshold": 0.1},
        "data": {"train": str(folder / "rows.jsonl")},
        "checkpoint": {"every": 2},
    }
    if name != "spin":
        base["rewards"] = {"letters": {"verifier": str(folder / "letters.py")}}
    return base | changes


def run(folder: Path, *stages: dict[str, Any]) -> Any:
    record = {"name": "t", "output": str(folder / "runs"), "stage": list(stages)}
    return pipeline.run(recipe_from_dict(record, source="test"), quiet=True)


EVERY = ["online_dpo", "iterative_dpo", "sppo", "rebel", "rejection_sampling", "xpo", "nash_md", "spin"]


@pytest.mark.parametrize("name", EVERY)
def test_it_runs_from_a_recipe(name: str, tmp_path: Path, tiny_model: Path) -> None:
    made = run(tmp_path, stage(name, tiny_model, tmp_path))
    assert [m["step"] for m in made.metrics] == [0, 1, 2, 3]
    assert all(value == value for m in made.metrics for value in m.values()), "a metric is NaN"
    assert all(m["mismatch/logprob_gap_mean"] < 0.01 for m in made.metrics)
    assert ("rollout/identical_share" in made.metrics[0]) == (name == "spin")
    assert ("reward/opponent_mean" in made.metrics[0]) == (name in ("xpo", "nash_md"))


@pytest.mark.parametrize("name", ["xpo", "nash_md", "spin"])
def test_peer_19_resumed_run_equals_the_uninterrupted_one(
    name: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opponent's weights are those of the start model in both, not those of the checkpoint."""
    whole = run(tmp_path, stage(name, tiny_model, tmp_path))
    observe = StageRun.observe

    def killed(self: StageRun, step: int, batch: Any, metrics: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt
        observe(self, step, batch, metrics)

    folder = tmp_path / "b" / "run"
    folder.mkdir(parents=True)
    record = {"name": "t", "output": str(tmp_path / "b"), "stage": [stage(name, tiny_model, tmp_path)]}
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "observe", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe_from_dict(record, source="test"), folder=folder, quiet=True)
    resumed = pipeline.resume(folder, quiet=True)

    def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if not k.startswith("time")} for r in rows]

    assert steady(resumed.metrics) == steady(whole.metrics)


@pytest.mark.parametrize("name", ["online_dpo", "sppo", "rejection_sampling", "xpo"])
def test_peer_26_a_step_of_nothing_but_ties_trains_nothing(
    name: str, tmp_path: Path, tiny_model: Path
) -> None:
    rewards = {"letters": {"verifier": str(tmp_path / "letters.py"), "options": {"always": True}}}
    options = {"min_reward": 2.0} if name == "rejection_sampling" else {}
    made = run(tmp_path, stage(name, tiny_model, tmp_path, rewards=rewards, options=options, steps=2))
    assert [m["rollout/trained_group_share"] for m in made.metrics] == [0.0, 0.0]
    assert [m["train/grad_norm"] for m in made.metrics] == [0.0, 0.0]
    before, after = load_model(str(tiny_model)).model, load_model(str(made.folder / name / "model")).model
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_opponent_is_the_reference_that_the_recipe_names(tmp_path: Path, tiny_model: Path) -> None:
    """A name that is the start model's own gives the run that the default copy gives."""
    named = run(tmp_path, stage("xpo", tiny_model, tmp_path, reference=str(tiny_model)))
    copied = run(tmp_path, stage("xpo", tiny_model, tmp_path))
    for one, two in zip(named.metrics, copied.metrics, strict=True):
        assert one["reward/opponent_mean"] == two["reward/opponent_mean"]
        assert one["loss/dpo"] == pytest.approx(two["loss/dpo"], rel=1e-4)


def test_an_adapter_s_opponent_is_its_base(tmp_path: Path, tiny_model: Path) -> None:
    learner = {"learning_rate": 1e-2, "lora": {"rank": 2}}
    made = run(tmp_path, stage("nash_md", tiny_model, tmp_path, learner=learner))
    assert all(m["mismatch/logprob_gap_mean"] < 0.01 for m in made.metrics)
    assert made.metrics[0]["policy/ref_kl_per_sequence"] == pytest.approx(0.0, abs=1e-4)


def test_an_opponent_plays_no_conversations(tmp_path: Path, tiny_model: Path) -> None:
    table = {"name": "self_correct", "max_tokens": 64}
    with pytest.raises(ConfigError, match="plays no conversations"):
        run(tmp_path, stage("xpo", tiny_model, tmp_path, environment=table))


def test_spin_needs_a_sampler_and_no_reward(tmp_path: Path, tiny_model: Path) -> None:
    without = stage("spin", tiny_model, tmp_path)
    del without["sampler"]
    with pytest.raises(ConfigError, match=r"there is no \[sampler\]"):
        run(tmp_path, without)
    paid = stage("spin", tiny_model, tmp_path, rewards={"l": {"verifier": str(tmp_path / "letters.py")}})
    with pytest.raises(ConfigError, match="maximises no reward"):
        run(tmp_path, paid)


PARAMS = SamplingParams(max_tokens=2, stop_token_ids=(2,), seed=5)


def moved(model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_mixture_draws_from_the_weighted_mean_of_logits(
    share: float, temperature: float, tiny_model: Path
) -> None:
    """Its log-probs are those of the enumerated distribution, whose sum over the vocabulary is 1."""
    reference, policy = load_model(str(tiny_model)), moved(load_model(str(tiny_model)).model)
    sampler = MixtureSampler(policy, reference.model, reference.tokenizer, share=share, dtype=torch.float32)
    params = SamplingParams(max_tokens=5, stop_token_ids=(2,), temperature=temperature, seed=5)
    prompts = [[1, 30, 40], [1, 60, 61, 62, 63]]
    for prompt, group in zip(prompts, sampler.generate(prompts, params, num_samples=3), strict=True):
        for completion in group:
            for place, token in enumerate(completion.tokens):
                ids = [*prompt, *completion.tokens[:place]]
                mixed = (1 - share) * logits(policy, ids) + share * logits(reference.model, ids)
                expected = (mixed / temperature).log_softmax(-1)[token]
                assert completion.sampler_logprobs[place] == pytest.approx(float(expected), abs=2e-4)


def test_the_mixture_s_frequencies_are_its_probabilities(tiny_model: Path) -> None:
    """The first token of many samples against the geometric mean of both policies, normalised."""
    reference, policy = load_model(str(tiny_model)), moved(load_model(str(tiny_model)).model)
    sampler = MixtureSampler(policy, reference.model, reference.tokenizer, share=0.5, dtype=torch.float32)
    params = SamplingParams(max_tokens=1, stop_token_ids=(2,), temperature=0.25, seed=1)
    (group,) = sampler.generate([[1, 30, 40]], params, num_samples=4000)
    own, fixed = ((logits(m, [1, 30, 40]) / 0.25).softmax(-1) for m in (policy, reference.model))
    expected = (own * fixed).sqrt() / (own * fixed).sqrt().sum()
    found = torch.bincount(torch.tensor([c.tokens[0] for c in group]), minlength=len(expected)) / 4000
    assert float((found - expected).abs().sum()) < 0.2
    assert float((found - own).abs().sum()) > 0.4, "it is not the policy"
    assert float((found - fixed).abs().sum()) > 0.4, "nor the reference"


def test_opponents_follow_publish_as_they_should(tiny_model: Path) -> None:
    """The mixture takes the policy's new weights, the reference stays; both keep the reference's."""
    loaded = load_model(str(tiny_model))
    policy = loaded.model

    def drawn(sampler: Any) -> list[tuple[float, ...]]:
        return [c.sampler_logprobs for (c,) in sampler.generate([[1, 30, 40]], PARAMS)]

    how: dict[str, Any] = {"reference": "copy", "start": loaded, "engine": "hf", "dtype": torch.float32}
    fixed = make_opponent("reference", policy, **how)
    mixture = make_opponent("mixture", policy, share=0.5, **how)
    before = drawn(fixed), drawn(mixture)
    moved(policy)
    assert (drawn(fixed), drawn(mixture)) == before, "nothing shows before publish"
    fixed.publish(1)
    mixture.publish(1)
    assert drawn(fixed) == before[0]
    assert drawn(mixture) != before[1]
    with pytest.raises(ConfigError, match="needs the logits of both policies"):
        make_opponent("mixture", policy, **{**how, "engine": "other"})


def test_opponents_log_probs_are_the_reference_s(tiny_model: Path) -> None:
    """Rows of the opponent bear its log-probs, rows of the policy theirs."""
    loaded = load_model(str(tiny_model))
    start = build_reference(
        "copy", loaded.model, start=loaded, dtype=torch.float32, max_tokens=512, temperature=1.0
    )
    opponent = make_opponent(
        "reference", loaded.model, reference="copy", start=loaded, engine="hf", dtype=torch.float32
    )
    sampler = HFSampler(moved(loaded.model), loaded.tokenizer, dtype=torch.float32)

    def score(prompts: Any, prompt_tokens: Any, completions: Any, groups: Any) -> list[Rollout]:
        rows = zip(prompts, prompt_tokens, completions, groups, strict=True)
        return [Rollout(p, ids, c, g, {}, float(sum(c.tokens))) for p, ids, c, g in rows]

    collect = Opposed(
        prompts=[Prompt(str(i), (Message("user", "x"),)) for i in range(2)],
        prompt_tokens=[(1, 30, 40), (1, 50)],
        order=Order(["0", "1"], seed=0, shuffle=False),
        sampler=sampler,
        opponent=opponent,
        params=SamplingParams(max_tokens=5, stop_token_ids=(2,)),
        scorer=score,  # type: ignore[arg-type]
        batch_size=2,
        group_size=3,
        seed=0,
    )
    batch = collect(0).batch
    assert batch.by_opponent is not None
    assert batch.by_opponent.tolist() == [False, False, True] * 2
    gap = ((start.logprobs(batch) - batch.require("sampler_logprobs")) * batch.mask).abs().amax(-1)
    assert (gap[batch.by_opponent] < 1e-3).all()
    assert (gap[~batch.by_opponent] > 1e-2).all()


def test_a_batch_without_a_trained_token_moves_no_weight(tiny_model: Path) -> None:
    loaded = load_model(str(tiny_model))
    learner = TorchLearner(
        policy=loaded.model,
        critic=None,
        scorer=None,
        config=LearnerConfig(),
        learning_rate=0.1,
        num_updates=2,
        compute_dtype=torch.float32,
    )
    before = {k: v.clone() for k, v in learner.master_weights().items()}
    row = Row("a", (1, 30), (40, 50), (True, True))
    collect = self_play(lambda prompts, params, num_samples: [[drawn((40, 50))] * num_samples], [row])
    found = collect(0)
    assert found.metrics["rollout/identical_share"] == 1.0
    outputs = learner.forward(found.batch, frozenset({"logprobs"}))
    learner.backward(outputs.require("logprobs").sum())
    learner.optimizer_step()
    assert all(torch.equal(v, before[k]) for k, v in learner.master_weights().items())


def drawn(tokens: tuple[int, ...]) -> Completion:
    return Completion(tokens, "", tuple(-1.0 for _ in tokens), "length")


def self_play(generate: Any, rows: list[Row]) -> SelfPlay:
    class Scripted:
        def generate(self, prompts: Any, params: Any, *, num_samples: int = 1) -> Any:
            return generate(prompts, params, num_samples)

        def publish(self, version: int) -> None:
            raise AssertionError("collecting publishes nothing")

    order = Order([r.uid for r in rows], seed=0, shuffle=False)
    return SelfPlay(
        rows=rows,
        order=order,
        sampler=Scripted(),
        params=PARAMS,
        decode=str,
        batch_size=len(rows),
        group_size=2,
        seed=0,
    )


def test_self_play_pairs_a_demonstration_with_what_differs_from_it() -> None:
    rows = [Row("a", (1, 30), (40, 50), (True, True)), Row("b", (1, 31), (41,), (True,))]
    asked: list[Any] = []

    def generate(prompts: Any, params: Any, num_samples: int) -> Any:
        asked.extend(prompts)
        return [[drawn((40, 50)), drawn((7, 8, 9))], [drawn((7,)), drawn((8,))]]

    found = self_play(generate, rows)(0)
    batch = found.batch
    assert asked == [(1, 30), (1, 31)]
    assert batch.paired
    assert batch.completions.tolist() == [
        [40, 50, 0],
        [41, 0, 0],
        [41, 0, 0],
        [7, 8, 9],
        [7, 0, 0],
        [8, 0, 0],
    ]
    assert batch.require("by_opponent").tolist() == [True] * 3 + [False] * 3
    assert batch.require("sampler_logprobs")[:3, 0].isnan().all()
    assert found.metrics["rollout/identical_share"] == 0.25
    assert [r.group for r in found.rollouts] == [0, 0, 1, 1]


def test_self_play_continues_the_last_turn_of_a_conversation() -> None:
    row = Row("a", (1, 2), (3, 4, 5, 6, 7, 8), (True, True, False, True, True, False))
    assert last_turn(row) == Row("a", (1, 2, 3, 4, 5), (6, 7), (True, True))
