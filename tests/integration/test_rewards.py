"""Sample stages and refreshed reward models on a tiny model, and a whole reward in a run."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import truing
from truing import plugins
from truing.cli import app
from truing.config import Stage
from truing.errors import DataError
from truing.recipe import load_recipe, recipe_from_dict, resolved
from truing.train import pipeline
from truing.train import sample as sampling

VERIFIER = '''
"""Share of lower-case letters."""
from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    pass


def verify(completion, reference, config):
    return Verdict("scored", sum("a" <= c <= "z" for c in completion) / max(len(completion), 1))
'''


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"say {i}", "answer": str(i)}) + "\n" for i in range(6)))
    old = tmp_path / "old.jsonl"
    old.write_text(json.dumps({"prompt": "hi", "chosen": "yes", "rejected": "no!"}) + "\n")
    verifier = tmp_path / "lower.py"
    verifier.write_text(VERIFIER)
    return {"prompts": str(prompts), "old": str(old), "verifier": str(verifier)}


def sample(files: dict[str, str], name: str = "pairs", **changes: Any) -> dict[str, Any]:
    base = {
        "name": name, "sample": {}, "data": {"train": files["prompts"]}, "batch_size": 4,
        "sampler": {"group_size": 4, "max_tokens": 8}, "rewards": {"lower": {"verifier": files["verifier"]}},
    }  # fmt: skip
    return {**base, **changes}


def learn(name: str, algorithm: str, rows: str, **changes: Any) -> dict[str, Any]:
    base = {"name": name, "algorithm": algorithm, "data": {"train": rows}, "steps": 2, "batch_size": 2}
    return {**base, **changes}


def recipe(model: Path, output: Path, *stages: dict[str, Any]) -> Any:
    whole = {
        "name": "t",
        "output": str(output),
        "dtype": "float32",
        "stage": [{"model": str(model), **s} for s in stages],
    }
    return recipe_from_dict(whole)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_reward_model_is_refreshed_on_old_and_new_pairs_in_one_recipe(
    tiny_model: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    grpo = {"sampler": {"group_size": 2, "max_tokens": 6}, "data": {"train": files["prompts"]}}
    made = pipeline.run(
        recipe(
            tiny_model, tmp_path / "runs",
            learn("rm-1", "reward_model", files["old"]),
            learn("rl-1", "grpo", "", **grpo, reward_model="stage:rm-1"),
            sample(files, "fresh", model="stage:rl-1", sample={"old_rows": files["old"]}),
            learn("rm-2", "reward_model", "stage:fresh", calibration={"normalise": True}),
            learn("rl-2", "grpo", "", **grpo, model="stage:rl-1", reward_model="stage:rm-2",
                  rewards={"reward_model": {"ceiling": 2.0}, "lower": {"verifier": files["verifier"], "weight": 0.1},
                           "long": {"term": "overlong", "options": {"max_tokens": 6, "cache": 2}}}),
        ),
        quiet=True,
    )  # fmt: skip
    fresh = rows(made.folder / "fresh" / "rows.jsonl")
    assert fresh[0] == {"prompt": "hi", "chosen": "yes", "rejected": "no!"}
    new = fresh[1:]
    assert new and all(r["rewards"]["chosen"] > r["rewards"]["rejected"] for r in new)
    source = new[0]["source"]
    assert source["model"].endswith("rl-1/model") and source["seed"] == 0
    assert source["rewards"] == {"lower": files["verifier"]}
    last = made.metrics[-1]
    assert {"reward/reward_model_mean", "reward/lower_mean", "reward/long_mean"} <= last.keys()
    assert 0 <= last["reward/reward_model_ceiling_share"] <= 1
    drawn = [m for m in made.metrics if m["stage"] == "fresh"]
    assert [m["step"] for m in drawn] == [0, 1] and all(m["train/flops"] > 0 for m in drawn)
    assert (made.folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("pairs", "dpo"), ("unpaired", "kto"), ("rankings", "plackett_luce"), ("demonstrations", "sft")],
)
def test_every_kind_of_rows_is_read_by_a_method(
    kind: str, algorithm: str, tiny_model: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    options = {"threshold": 0.1} if kind in ("unpaired", "demonstrations") else {}
    sampled = sample(files, "made", sample={"kind": kind, **options})
    made = pipeline.run(
        recipe(tiny_model, tmp_path / "runs", sampled, learn("m", algorithm, "stage:made")), quiet=True
    )
    assert made.policy is None or len(made.metrics) == 4


def test_peer_19_an_interrupted_sampling_goes_on_and_a_finished_one_is_not_run_again(
    tiny_model: Path, tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (sample(files, batch_size=2), learn("m", "dpo", "stage:pairs"))
    whole = pipeline.run(recipe(tiny_model, tmp_path / "a", *stages), quiet=True)
    draw, calls = sampling.Drawing.__call__, list[int]()

    def broken(self: Any, step: int) -> Any:
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(self, step)

    monkeypatch.setattr(sampling.Drawing, "__call__", broken)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe(tiny_model, tmp_path / "b", *stages), quiet=True)
    folder = next((tmp_path / "b").iterdir())
    drawn = folder / "pairs" / "drawn.jsonl"
    drawn.write_text(drawn.read_text() + drawn.read_text().splitlines()[0] + "\n{half")  # a step cut short
    again = pipeline.resume(folder, quiet=True)
    assert calls == [0, 1, 1, 2]
    assert rows(folder / "pairs" / "rows.jsonl") == rows(whole.folder / "pairs" / "rows.jsonl")
    assert [m["step"] for m in again.metrics] == [m["step"] for m in whole.metrics]
    pipeline.resume(folder, quiet=True)
    assert calls == [0, 1, 1, 2]


def test_a_recipe_with_a_sample_stage_is_written_and_read_back(
    tiny_model: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    made = recipe(tiny_model, tmp_path, sample(files), learn("m", "dpo", "stage:pairs"))
    (tmp_path / "again.toml").write_text(resolved(made), encoding="utf-8")
    assert load_recipe(tmp_path / "again.toml") == made


def test_nothing_to_choose_between_is_an_error(
    tiny_model: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    alike = sample(files, rewards={"lower": {"verifier": files["verifier"], "ceiling": 0.0, "floor": -1.0}})
    with pytest.raises(DataError, match="gave no pairs"):
        pipeline.run(recipe(tiny_model, tmp_path / "runs", alike), quiet=True)


def test_the_command_and_the_function_write_the_same_rows(
    tiny_model: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    out = tmp_path / "command.jsonl"
    done = CliRunner().invoke(
        app,
        ["sample", str(tiny_model), "--data", files["prompts"], "--verifier", files["verifier"], "-n", "4",
         "--kind", "pairs", "--pairs", "all", "--max-tokens", "8", "--dtype", "float32", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = truing.sample(
        tiny_model, data=files["prompts"], out=tmp_path / "function.jsonl", verifier=files["verifier"], kind="pairs",
        pairs="all", group_size=4, max_tokens=8, keys={"dtype": "float32"},
    )  # fmt: skip
    assert made and made == rows(out) == rows(tmp_path / "function.jsonl")


def test_completions_need_no_verifier_and_can_be_verified_later(
    tiny_model: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    out = tmp_path / "completions.jsonl"
    made = truing.sample(
        tiny_model, data=files["prompts"], out=out, group_size=2, max_tokens=4, keys={"dtype": "float32"}
    )
    assert len(made) == 12 or len({(r["prompt"], r["completion"]) for r in made}) == len(made)
    done = CliRunner().invoke(app, ["verify", files["verifier"], str(out)])
    assert done.exit_code == 0, done.output


def test_a_stage_that_samples_is_a_stage(files: dict[str, str]) -> None:
    stage = Stage(name="s", sample={}, model="m", data={"train": files["prompts"]})
    assert stage.algorithm is None and stage.sample is not None


ROOT = Path(__file__).parents[2]


def test_the_recipes_of_the_hacking_page_are_valid() -> None:
    page = (ROOT / "docs" / "reward_hacking.md").read_text(encoding="utf-8")
    rewards, whole = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    assert [s.name for s in recipe_from_dict(whole).stages] == ["rm-1", "rl-1", "fresh", "rm-2", "rl-2"]
    rl = {**whole["stage"][1], "model": "m", "name": None, "reward_model": None, **rewards}
    assert list(recipe_from_dict(rl).stages[0].rewards) == ["form", "answer", "length"]


def test_the_hacked_and_the_defended_recipe_differ_in_the_reward_and_the_kl_alone() -> None:
    naive, defended = (load_recipe(ROOT / "recipes" / "hacking" / f"{n}.toml") for n in ("naive", "defended"))
    assert naive.stages[0] == defended.stages[0]
    own = {"rewards": {}, "options": {}}
    assert naive.stages[1].model_copy(update=own) == defended.stages[1].model_copy(update=own)
    assert naive.stages[1].options | {"kl_coef": 0.02} == defended.stages[1].options


def test_is_brief_counts_words() -> None:
    module = plugins.load("verifiers", str(ROOT / "recipes" / "hacking" / "is_brief.py"))
    found = [module.verify("word " * n, None, module.Config()).value for n in (0, 15, 30, 60)]
    assert found == [1.0, 0.5, 0.0, 0.0]


def test_the_hacking_page_is_drawn_from_runs(tiny_model: Path, tmp_path: Path, files: dict[str, str]) -> None:
    brief = {"verifier": str(ROOT / "recipes" / "hacking" / "is_brief.py")}
    made = pipeline.run(
        recipe(
            tiny_model, tmp_path / "runs",
            learn("learn", "grpo", files["prompts"], sampler={"group_size": 2, "max_tokens": 6},
                  rewards={"brief": brief, "lower": {"verifier": files["verifier"]}},
                  evaluation={"data": files["prompts"], "verifier": files["verifier"], "max_tokens": 4,
                              "allow_overlap": True}),
        ),
        quiet=True,
    )  # fmt: skip
    spec = importlib.util.spec_from_file_location("hacking", ROOT / "docs" / "hacking.py")
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = page
    spec.loader.exec_module(page)
    curves = page.read(made.folder)
    assert len(curves.proxy) == 2 and [e[0] for e in curves.evaluations] == [0, 2]
    svg = page.figure([curves, curves])
    assert len(svg.findall("{*}g")) == 3 or len(svg.findall("g")) == 3
    assert page.table([curves, curves]).count("| `t` | 2 |") == 2
