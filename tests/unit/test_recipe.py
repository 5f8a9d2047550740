"""What a recipe means: stages, defaults, overrides, paths, and its resolved form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truing.config import NAME, Generator
from truing.errors import ConfigError
from truing.recipe import load_recipe, recipe_from_dict, resolved

ONE = """
name = "small"
algorithm = "dpo"
model = "owner/model"
epochs = 1

[data]
train = "pairs.jsonl"
"""

PIPELINE = """
name = "loop"
model = "owner/model"
seed = 7
batch_size = 16
learner.weight_decay = 0.1
learner.betas = [0.9, 0.95]

[evaluation]
data = { generator = "word_problems", count = 20, seed = 9, options = { split = "test" } }
verifier = "math_answer"

[[stage]]
name = "sft"
algorithm = "sft"
epochs = 1
learner.learning_rate = 1e-4
data.train = { generator = "word_problems", count = 30 }

[[stage]]
name = "grpo"
algorithm = "grpo"
model = "stage:sft"
steps = 5
seed = 8
data.train = "prompts.jsonl"
sampler.group_size = 4
rewards.answer.verifier = "math_answer"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pairs", "prompts"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "one.toml").write_text(ONE)
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    return tmp_path


def test_a_single_stage_recipe(folder: Path) -> None:
    recipe = load_recipe(folder / "one.toml")
    (stage,) = recipe.stages
    assert (recipe.name, stage.name, stage.algorithm, stage.epochs) == ("small", "train", "dpo", 1.0)
    assert stage.data.train == str(folder / "pairs.jsonl")


def test_the_name_is_the_files_unless_it_is_set(folder: Path) -> None:
    (folder / "my run (2).toml").write_text(ONE.replace('name = "small"', ""))
    assert load_recipe(folder / "my run (2).toml").name == "my-run-2"


def test_defaults_are_merged_all_the_way_down_and_a_stage_wins(folder: Path) -> None:
    sft, grpo = load_recipe(folder / "pipeline.toml").stages
    assert (sft.seed, grpo.seed) == (7, 8)
    assert (sft.batch_size, grpo.batch_size) == (16, 16)
    assert (sft.learner.learning_rate, sft.learner.weight_decay) == (1e-4, 0.1)
    assert (grpo.learner.learning_rate, grpo.learner.betas) == (1e-6, (0.9, 0.95))
    assert sft.evaluation == grpo.evaluation is not None


def test_the_default_model_is_for_stages_that_set_none(folder: Path) -> None:
    sft, grpo = load_recipe(folder / "pipeline.toml").stages
    assert (sft.model, grpo.model) == ("owner/model", "stage:sft")


def test_a_default_that_a_stage_has_no_use_for_goes_to_the_others_only(folder: Path) -> None:
    text = "sampler.max_tokens = 9\nsteps = 3\nreference = 'copy'\n" + PIPELINE.replace("steps = 5", "")
    (folder / "defaults.toml").write_text(text + "options.kl_coef = 0.1\n")
    sft, grpo = load_recipe(folder / "defaults.toml").stages
    assert sft.sampler is None and sft.reference is None and grpo.reference == "copy"
    assert grpo.sampler is not None and (grpo.sampler.max_tokens, grpo.sampler.group_size) == (9, 4)
    assert (sft.steps, sft.epochs, grpo.steps) == (None, 1.0, 3)  # own epochs replace the default's steps


def test_a_generator_replaces_a_generator_and_is_not_merged_into_it(folder: Path) -> None:
    text = "data.train = { generator = 'word_problems', count = 1, options = { worked = true } }\n" + PIPELINE
    (folder / "generators.toml").write_text(text)
    train = load_recipe(folder / "generators.toml").stages[0].data.train
    assert train == Generator(generator="word_problems", count=30)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("learner.learning_rate=1e-6", lambda s: s.learner.learning_rate == 1e-6),
        ("options.beta=0.5", lambda s: s.options["beta"] == 0.5),
        ("seed = 3", lambda s: s.seed == 3),
        ("learner.lora={rank=4}", lambda s: s.learner.lora.rank == 4),
        ("learner.schedule=linear", lambda s: s.learner.schedule == "linear"),
        ('learner.schedule="linear"', lambda s: s.learner.schedule == "linear"),
        ("log.trackers=['wandb']", lambda s: s.log.trackers == ["wandb"]),
        ("data.shuffle=false", lambda s: s.data.shuffle is False),
        ("learner.max_grad_norm=inf", lambda s: s.learner.max_grad_norm == float("inf")),
        ("model=other/model", lambda s: s.model == "other/model"),
    ],
)
def test_overrides_are_toml_values_or_text(folder: Path, override: str, read: Any) -> None:
    assert read(load_recipe(folder / "one.toml", [override]).stages[0])


def test_the_last_override_wins_and_an_empty_one_removes(folder: Path) -> None:
    stage = load_recipe(folder / "one.toml", ["seed=1", "seed=2", "epochs=", "steps=4"]).stages[0]
    assert (stage.seed, stage.steps, stage.epochs) == (2, 4, None)


def test_overrides_address_a_stage_by_name(folder: Path) -> None:
    overrides = ["stages.grpo.learner.learning_rate=2e-6", "stages.grpo.sampler.max_tokens=5", "batch_size=2"]
    sft, grpo = load_recipe(folder / "pipeline.toml", overrides).stages
    assert (sft.learner.learning_rate, grpo.learner.learning_rate) == (1e-4, 2e-6)
    assert grpo.sampler is not None and (grpo.sampler.group_size, grpo.sampler.max_tokens) == (4, 5)
    assert (sft.batch_size, grpo.batch_size) == (2, 2)


def test_overriding_the_model_of_a_pipeline_leaves_its_links(folder: Path) -> None:
    sft, grpo = load_recipe(folder / "pipeline.toml", ["model=other/model"]).stages
    assert (sft.model, grpo.model) == ("other/model", "stage:sft")


def test_python_keys_are_overrides_too(folder: Path) -> None:
    keys = {"learner": {"learning_rate": 1e-6}, "epochs": None, "steps": 2}
    stage = load_recipe(folder / "one.toml", ["learner.warmup=0.5"], keys=keys).stages[0]
    assert (stage.learner.learning_rate, stage.learner.warmup, stage.steps) == (1e-6, 0.5, 2)


def test_a_mapping_is_a_recipe_and_none_means_left_out(folder: Path) -> None:
    made = recipe_from_dict(
        {"algorithm": "dpo", "model": "a/b", "steps": 1, "epochs": None, "data": {"train": "pairs.jsonl"}},
        folder=folder,
    )
    assert made.name == "dpo" and made.stages[0].epochs is None


def test_peer_31_paths_are_found_from_any_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("elsewhere")
    expected = load_recipe(folder / "one.toml")
    for cwd, name in (
        (folder, "one.toml"),
        (folder.parent, f"{folder.name}/one.toml"),
        (here, folder / "one.toml"),
    ):
        monkeypatch.chdir(cwd)
        assert load_recipe(name) == expected
        again = here / "resolved.toml"
        again.write_text(resolved(load_recipe(name)))
        assert load_recipe(again).stages == expected.stages


def test_beside_the_recipe_comes_before_the_current_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    for name in ("pairs.jsonl", "only_here.jsonl"):
        (here / name).write_text("{}\n")
    assert load_recipe(folder / "one.toml").stages[0].data.train == str(folder / "pairs.jsonl")
    text = ONE.replace("pairs.jsonl", "only_here.jsonl")
    (folder / "two.toml").write_text(text)
    assert load_recipe(folder / "two.toml").stages[0].data.train == str(here / "only_here.jsonl")
    typed = load_recipe(folder / "one.toml", ["data.train=pairs.jsonl"])  # what is typed is typed here
    assert typed.stages[0].data.train == str(here / "pairs.jsonl")


def test_model_folders_and_plugin_files_become_absolute(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "copy").mkdir()
    (folder / "mine.py").write_text(
        "from typing import ClassVar\nfrom truing.config import DataKind, Options\n"
        "class Config(Options):\n    data: ClassVar[DataKind] = 'pairs'\n"
        "    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)\n"
        "    def needs(self) -> frozenset[str]:\n        return frozenset({'ref_logprobs'})\n"
    )
    text = ONE.replace("owner/model", "model").replace('"dpo"', '"mine.py"')
    (folder / "own.toml").write_text("reference = 'copy'\n" + text)
    stage = load_recipe(folder / "own.toml").stages[0]
    assert (stage.model, stage.algorithm) == (str(folder / "model"), str(folder / "mine.py"))
    assert stage.reference == "copy"  # a keyword, although a folder is called so


def test_resolved_spells_out_the_defaults_that_apply(folder: Path) -> None:
    text = resolved(load_recipe(folder / "pipeline.toml"))
    assert text.count("[[stage]]") == 2 and "temperature = 1.0" in text and "mismatch_threshold" in text
    assert text.count("max_completion_tokens") == 1  # of sft's rows; grpo would ignore it
    assert "critic_learning_rate" not in text


settings_of = {
    "seed": st.integers(0, 2**40),
    "batch_size": st.integers(1, 64),
    "learner": st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": st.floats(1e-9, 0.5),
            "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
            "max_grad_norm": st.floats(0.1, 10) | st.just(float("inf")),
            "schedule": st.sampled_from(["cosine", "linear"]),
            "lora": st.fixed_dictionaries(
                {}, optional={"rank": st.integers(1, 9), "target_modules": st.text()}
            ),
        },
    ),
    "log": st.fixed_dictionaries({}, optional={"trackers": st.lists(st.sampled_from(["wandb", "mlflow"]))}),
    "checkpoint": st.fixed_dictionaries({}, optional={"every": st.integers(1, 9)}),
}
text_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
sft_stages = st.fixed_dictionaries(
    {"algorithm": st.just("sft"), "epochs": st.floats(0.1, 9) | st.integers(1, 9)}, optional=settings_of
)
grpo_stages = st.fixed_dictionaries(
    {
        "algorithm": st.just("grpo"),
        "steps": st.integers(1, 9),
        "sampler": st.fixed_dictionaries({}, optional={"stop": st.lists(text_values, max_size=2)}),
        "rewards": st.dictionaries(
            st.from_regex(NAME, fullmatch=True),
            st.fixed_dictionaries({"verifier": st.just("math_answer")}),
            min_size=1,
            max_size=2,
        ),
    },
    optional=settings_of,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stages=st.lists(sft_stages | grpo_stages, min_size=1, max_size=3), flat=st.booleans())
def test_a_resolved_recipe_loads_as_an_equal_recipe(
    folder: Path, stages: list[dict[str, Any]], flat: bool
) -> None:
    common = {"model": "owner/model", "data": {"train": str(folder / "pairs.jsonl")}}
    if flat:
        values = {"name": "x", **common, **stages[0]}
    else:
        values = {"name": "x", **common, "stage": [{"name": f"s{i}", **s} for i, s in enumerate(stages)]}
    recipe = recipe_from_dict(values)
    path = folder / "resolved.toml"
    path.write_text(resolved(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert resolved(load_recipe(path)) == resolved(recipe)


@pytest.mark.parametrize(
    "recipe", sorted(Path(__file__).parents[2].glob("recipes/*.toml")), ids=lambda p: p.stem
)
def test_the_shipped_recipes_are_sound(recipe: Path, tmp_path: Path) -> None:
    made = load_recipe(recipe)
    (tmp_path / "resolved.toml").write_text(resolved(made))
    assert load_recipe(tmp_path / "resolved.toml") == made


LIGHT = """
import sys, time
from truing.recipe import load_recipe, resolved
text = resolved(load_recipe(sys.argv[1]))
spent = time.process_time()
heavy = sorted({"torch", "transformers", "peft", "datasets", "jaxtyping"} & set(sys.modules))
assert "math_answer" in text and not heavy, heavy
assert spent < 1, f"{spent:.2f} s of CPU time"
"""


def test_a_recipe_is_checked_in_a_second_without_torch(folder: Path) -> None:
    command = [sys.executable, "-c", LIGHT, str(folder / "pipeline.toml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COVERAGE_RUN": ""})
    assert done.returncode == 0, done.stderr


def test_an_error_is_found_without_torch_too(folder: Path) -> None:
    script = (
        "import sys\nfrom truing.recipe import load_recipe\ntry:\n    load_recipe(sys.argv[1], ['lr=1'])\n"
        "except ValueError as error:\n    assert 'learner.learning_rate' in str(error)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "one.toml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_checked_recipe_is_frozen(folder: Path) -> None:
    recipe = load_recipe(folder / "one.toml")
    with pytest.raises(ValueError, match="frozen"):
        recipe.stages[0].seed = 3  # type: ignore[misc]


def test_errors_of_a_recipe_are_config_errors(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such recipe\n    did you mean .*one\.toml"):
        load_recipe(folder / "on.toml")
