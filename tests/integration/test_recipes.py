"""Every recipe is valid, every method has one, and each takes two steps on a tiny model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from truing import plugins
from truing.cli import app
from truing.config import Evaluation, Generator, Recipe, Stage
from truing.data.readers import read_rows
from truing.recipe import load_recipe
from truing.train import pipeline

ROOT = Path(__file__).parents[2] / "recipes"
EVERY = sorted(p for p in ROOT.rglob("*.toml") if p.parent.name != "search")  # those: test_search.py
METHODS = sorted((ROOT / "methods").glob("*.toml"))
COMBINATIONS = sorted((ROOT / "combinations").glob("*.toml"))


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda p: f"{p.parent.name}/{p.stem}")


def test_every_method_has_a_recipe_that_ends_with_it() -> None:
    assert [p.stem for p in METHODS] == plugins.names("algorithms")
    assert {p.stem: load_recipe(p).stages[-1].algorithm for p in METHODS} == {p.stem: p.stem for p in METHODS}


@named(EVERY)
def test_a_recipe_is_valid_and_says_what_it_is(path: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(path), "--dry-run"])
    assert done.exit_code == 0, done.output
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and "CPU cores" in text.split("name =")[0], (
        "its header says what and on what"
    )


@named(EVERY)
def test_what_is_measured_is_not_trained_on(path: Path) -> None:
    recipe = load_recipe(path)
    for stage in recipe.stages:
        if stage.evaluation is not None:
            held_out = {r.values["prompt"] for r in read_rows(stage.evaluation.data, limit=200)}
            assert not held_out & {r.values["prompt"] for r in read_rows(made_from(recipe, stage).data.train)}


def made_from(recipe: Recipe, stage: Stage) -> Stage:
    """Return the stage that sampled this one's rows, or the stage itself: whose data are prompts."""
    makers = [s for s in recipe.stages if stage.data.train == f"stage:{s.name}"]
    return makers[0] if makers else stage


@pytest.mark.parametrize("folder", ["preferences", "online"])
def test_recipes_that_are_compared_differ_in_the_method_alone(folder: str) -> None:
    recipes = [load_recipe(p) for p in sorted((ROOT / "compare" / folder).glob("*.toml"))]
    assert len(recipes) == 6 and len({r.stages[-1].algorithm for r in recipes}) == len(recipes)
    alike = [
        r.model_copy(update={"name": "", "stages": list(map(without_method, r.stages))}) for r in recipes
    ]
    assert all(a == alike[0] for a in alike)


def without_method(stage: Stage) -> Stage:
    """Return the stage without its method and the kind of rows that the method reads."""
    kind = stage.sample and stage.sample.model_copy(update={"kind": "any"})
    return stage.model_copy(update={"algorithm": "", "options": {}, "sample": kind})


def tiny(stage: Stage, model: Path) -> Stage:
    """Return the stage with two steps on few rows of short problems; everything else as it is."""
    source = stage.data.train
    assert isinstance(source, Generator)
    changes: dict[str, Any] = {
        "model": str(model), "steps": 2, "epochs": None, "batch_size": 2, "dtype": "float32",
        "data": stage.data.model_copy(update={"train": source.model_copy(update={"count": 8})}),
        "evaluation": None if stage.evaluation is None else short(stage.evaluation),
        "sampler": None if stage.sampler is None else stage.sampler.model_copy(update={"group_size": 2}),
    }  # fmt: skip
    if "max_resamples" in stage.options:  # a model of random weights earns nothing, however often it draws
        changes["options"] = stage.options | {"max_resamples": 1}
    for key in ("reference", "reward_model"):
        target = getattr(stage, key)
        changes[key] = str(model) if target is not None and target.startswith("stage:") else target
    return stage.model_copy(update=changes)


def short(evaluation: Evaluation) -> Evaluation:
    return evaluation.model_copy(update={"limit": 2, "max_tokens": 4, "every": None})


@named([*METHODS, *COMBINATIONS])
def test_a_method_of_a_recipe_takes_two_steps(
    path: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(path)
    made = Recipe(name=recipe.name, output=str(tmp_path), stages=[tiny(recipe.stages[-1], tiny_model)])
    rows = pipeline.run(made, quiet=True).metrics
    assert [r["step"] for r in rows] == [0, 1]
    assert all(math.isfinite(r["train/grad_norm"]) for r in rows)


def test_the_python_of_the_scaling_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT.parent / "docs" / "scaling_laws.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, {})
    assert "Estimate(value=0.6" in capsys.readouterr().out
