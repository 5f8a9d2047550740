"""Reward models through the real stack: every data kind, calibration on disk, ensembles in online stages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from truing.errors import ConfigError, DataError
from truing.model.forward import both_scores, calibrated_scores, sequence_scores, token_scores
from truing.model.heads import ScalarModel
from truing.model.load import load_model
from truing.model.scalar import load_scalar
from truing.recipe import recipe_from_dict
from truing.train import pipeline
from truing.types import Batch

NAMES = ["ada", "bo", "cy", "dee", "eve", "flo", "gus", "hal"]
KINDS: dict[str, list[dict[str, Any]]] = {
    "pairs": [
        {"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}", "preference": p}
        for n, p in zip(NAMES, [1, 1, 0.5, 1, 1, 0.5, 1, 0], strict=True)
    ],
    "certain": [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away, {n}"} for n in NAMES],
    "rankings": [
        {"prompt": f"greet {n}", "completions": ["go", f"hello {n}", f"oh {n}"], "ranks": [3, 1, 2]} for n in NAMES
    ],
    "unpaired": [
        {"prompt": f"greet {n}", "completion": f"{t} {n}", "label": t == "hello"}
        for n in NAMES
        for t in ("hello", "go")
    ],
    "steps": [
        {"prompt": f"greet {n}", "completions": ["look up", f"say {t}", n], "labels": [1, t == "hello", None]}
        for n in NAMES
        for t in ("hello", "go")
    ],
}  # fmt: skip
METHODS = {
    "reward_model": "certain",
    "thurstone": "certain",
    "mars": "certain",
    "odin": "certain",
    "rao_kupper": "pairs",
    "davidson": "pairs",
    "plackett_luce": "rankings",
    "all_pairs_ranking": "rankings",
    "outcome_reward": "unpaired",
    "implicit_process_reward": "unpaired",
    "process_reward": "steps",
}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    for kind, rows in KINDS.items():
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (tmp_path / f"{kind}.jsonl").write_text(text, encoding="utf-8")
    return {kind: str(tmp_path / f"{kind}.jsonl") for kind in KINDS}


def stage(method: str, model: Path, data: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {
        "name": method,
        "algorithm": method,
        "model": str(model),
        "dtype": "float32",
        "steps": 6,
        "batch_size": 4,
        "learner": {"learning_rate": 3e-3, "micro_batch_tokens": 64},
        "data": {"train": data[METHODS[method]]},
        **changes,
    }


def run(tmp_path: Path, *stages: dict[str, Any]) -> Any:
    recipe = {"name": "t", "output": str(tmp_path / "runs"), "stage": list(stages)}
    return pipeline.run(recipe_from_dict(recipe, source="test"), quiet=True)


def batch_of_texts(folder: Path | str, texts: list[str]) -> Batch:
    tokenizer = load_model(str(folder)).tokenizer
    rows = [tokenizer.encode(t) for t in texts]
    width = max(map(len, rows))
    completions = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows])
    lengths = torch.tensor([len(r) for r in rows])
    return Batch(
        prompts=tuple(torch.tensor([3, 4]) for _ in rows), completions=completions, lengths=lengths,
        mask=torch.arange(width) < lengths[:, None], groups=torch.arange(len(rows)),
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_from_its_rows(
    name: str, tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    made = run(tmp_path, stage(name, tiny_model, data, steps=16, batch_size=16))
    assert all(math.isfinite(v) for m in made.metrics for v in m.values() if isinstance(v, float))
    loss = next(k for k in made.metrics[0] if k.startswith("loss/"))
    first, last = (sum(m[loss] for m in part) / 3 for part in (made.metrics[:3], made.metrics[-3:]))
    assert last < first
    assert (made.policy is None) == (name != "implicit_process_reward")


@pytest.mark.parametrize("read", ["sequence", "both", "token"])
def test_micro_batches_change_no_score(read: str, tiny_model: Path) -> None:
    torch.manual_seed(0)
    network = ScalarModel.from_causal(load_model(str(tiny_model)).model, length_head=True)
    torch.nn.init.normal_(network.head.weight)
    batch = batch_of_texts(tiny_model, ["hello ada", "hello", "go", "hello ada and bo"])
    score = {"sequence": sequence_scores, "both": lambda n, b: both_scores(n, b)[1], "token": token_scores}[
        read
    ]
    whole = score(network, batch)
    for path in ("forest", "padded"):
        if read != "both":
            torch.testing.assert_close(score(network, batch, path), whole, rtol=1e-4, atol=1e-5)
    for index in batch.split_index(12):
        part = score(network, batch.rows(index))
        torch.testing.assert_close(
            part, whole[index] if whole.ndim == 1 else whole[index, : part.shape[1]], rtol=1e-4, atol=1e-5
        )


def test_the_last_token_s_score_is_the_sequence_s(tiny_model: Path) -> None:
    network = ScalarModel.from_causal(load_model(str(tiny_model)).model)
    torch.nn.init.normal_(network.head.weight)
    batch = batch_of_texts(tiny_model, ["hello ada", "go", "oh my"])
    last = token_scores(network, batch).gather(1, batch.lengths[:, None] - 1)[:, 0]
    torch.testing.assert_close(last, sequence_scores(network, batch), rtol=1e-4, atol=1e-5)


def test_scores_are_calibrated_after_training_and_on_disk(
    tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    calibration = {"normalise": True, "remove_length": True}
    made = run(tmp_path, stage("reward_model", tiny_model, data, calibration=calibration))
    folder = made.folder / "reward_model" / "model"
    network = load_scalar(str(folder))
    rows = [r[side] + "<|im_end|>" for r in KINDS["certain"] for side in ("chosen", "rejected")]
    prompt = "<|im_start|>user\ngreet {}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = load_model(str(folder)).tokenizer
    prompts = [torch.tensor(tokenizer.encode(prompt.format(n))) for n in NAMES for _ in range(2)]
    batch = batch_of_texts(folder, rows)
    batch = Batch(tuple(prompts), batch.completions, batch.lengths, batch.mask, batch.groups)
    with torch.no_grad():
        scores, raw = calibrated_scores(network, batch), sequence_scores(network, batch)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-3)
    lengths = batch.lengths.float()
    together = torch.corrcoef(torch.stack([scores, lengths]))[0, 1]
    before = torch.corrcoef(torch.stack([raw, lengths]))[0, 1]
    assert abs(float(together)) < 1e-3 < abs(float(before))
    events = (made.folder / "reward_model" / "events.jsonl").read_text()
    assert '"kind": "calibration"' in events


def test_calibration_on_other_completions(tmp_path: Path, tiny_model: Path, data: dict[str, str]) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text(
        "".join(json.dumps({"prompt": n, "completion": n * k}) + "\n" for n in NAMES for k in (1, 2))
    )
    own = stage("reward_model", tiny_model, data, calibration={"data": str(samples), "limit": 10})
    network = load_scalar(str(run(tmp_path, own).folder / "reward_model" / "model"))
    assert network.calibration is not None and network.calibration.length_slope == 0
    raw = load_scalar(
        str(run(tmp_path, stage("reward_model", tiny_model, data)).folder / "reward_model" / "model")
    )
    assert raw.calibration is None


def test_learned_numbers_are_saved_with_the_head(
    tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    made = run(tmp_path, stage("davidson", tiny_model, data))
    network = load_scalar(str(made.folder / "davidson" / "model"))
    assert float(network.numbers["tie"].detach()) != 0
    frozen = run(tmp_path, stage("davidson", tiny_model, data, options={"learn_nu": False}))
    assert not load_scalar(str(frozen.folder / "davidson" / "model")).numbers
    assert all(m["rewards/tie_width"] == pytest.approx(0.5) for m in frozen.metrics)


def test_ties_must_be_in_the_data(tmp_path: Path, tiny_model: Path, data: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"no pair is a tie.*rao_kupper cannot learn"):
        run(tmp_path, stage("rao_kupper", tiny_model, {**data, "pairs": data["certain"]}))


ONLINE = {
    "algorithm": "grpo", "name": "grpo", "dtype": "float32", "steps": 3, "batch_size": 4,
    "sampler": {"group_size": 4, "max_tokens": 8}, "learner": {"learning_rate": 1e-3},
}  # fmt: skip


@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
def test_an_ensemble_scores_rollouts(
    combine: str, tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"greet {n}"}) + "\n" for n in NAMES))
    members = [
        stage("reward_model", tiny_model, data, name=f"rm{seed}", seed=seed, calibration={})
        for seed in (0, 1)
    ]
    online = {**ONLINE, "model": str(tiny_model), "data": {"train": str(prompts)}}
    online |= {"reward_model": ["stage:rm0", "stage:rm1"], "ensemble": {"combine": combine}}
    made = run(tmp_path, *members, online)
    found = [m for m in made.metrics if m["stage"] == "grpo"]
    assert all(m["reward/member_std"] > 0 for m in found)
    assert all(math.isfinite(m["reward/mean"]) for m in found)


def test_members_must_be_calibrated(tmp_path: Path, tiny_model: Path, data: dict[str, str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "greet"}) + "\n")
    members = [stage("reward_model", tiny_model, data, name=f"rm{i}", steps=1) for i in (0, 1)]
    online = {**ONLINE, "model": str(tiny_model), "data": {"train": str(prompts)}}
    with pytest.raises(ConfigError, match="is not calibrated"):
        run(tmp_path, *members, {**online, "reward_model": ["stage:rm0", "stage:rm1"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": {"combine": "worst"}, "reward_model": "stage:rm"}, "no list of reward models"),
        ({"reward_model": ["stage:rm", "stage:nobody"]}, "stage 'nobody' is unknown"),
        ({"reward_model": ["stage:rm"]}, "at least 2"),
        (
            {"ensemble": {"penalty": 0.5}, "reward_model": ["stage:rm", "stage:rm"]},
            "does nothing without combine",
        ),
        ({"reward_model": "stage:rm", "calibration": {}}, "trains no score"),
        ({"reward_model": "stage:rm", "calibration": {"normalise": False}}, "does nothing"),
    ],
)
def test_peer_02_keys_that_do_nothing_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny_model: Path, data: dict[str, str]
) -> None:
    online = {**ONLINE, "model": str(tiny_model), "data": {"train": data["certain"]}, **changes}
    recipe = {"name": "t", "stage": [stage("reward_model", tiny_model, data, name="rm"), online]}
    with pytest.raises(ConfigError, match=message):
        recipe_from_dict(recipe, source="test")
