"""What is wrong with a recipe is said at once, with file, line, key and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from truing.config import Stage
from truing.errors import ConfigError, Problem
from truing.recipe import load_recipe, recipe_from_dict
from truing.recipe.suggest import ALIASES, stage_keys

OFFLINE = {"algorithm": "dpo", "model": "a/b", "steps": 1, "data": {"train": "rows.jsonl"}}
ONLINE = {
    "algorithm": "grpo",
    "model": "a/b",
    "steps": 1,
    "data": {"train": "rows.jsonl"},
    "sampler": {"group_size": 4},
    "rewards": {"answer": {"verifier": "math_answer"}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return {k: v for k, v in out.items() if v is not None}


def problems(recipe: dict[str, Any] | Path, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides) if isinstance(recipe, Path) else recipe_from_dict(
            recipe, "r", overrides
        )
    assert caught.value.problems
    return list(caught.value.problems)


def test_peer_30_unknown_keys_are_errors_with_line_and_suggestion(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_text(
        'algorithm = "dpo"\nmodel = "a/b"\nsteps = 1\ndata.train = "rows.jsonl"\n\n'
        "[learner]\n# the rate\nlearning_rte = 1e-5\n"
    )
    (problem,) = problems(path)
    assert problem == Problem(
        f"{path}:8", "learner.learning_rte", "unknown key", "did you mean learner.learning_rate?"
    )


def test_everything_wrong_is_reported_at_once_in_the_order_of_the_file(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_text(
        'algorithm = "grpo"\nbeta = 0.1\nseed = "three"\nlr = 1e-5\n[data]\ntrain = "row.jsonl"\n'
        "max_completion_tokens = 5\n[sampler]\ntop_p = 0.9\nmax_tokens = 0\n[learner]\nbetas = [0.9, 1.5]\n"
        "[options]\nclip_low = -1\nepsilon = 0.2\n"
    )
    found = problems(path, "nope=1")
    assert [(p.where.removeprefix(str(path)), p.key) for p in found[:10]] == [
        (":2", "beta"),
        (":3", "seed"),
        (":4", "lr"),
        (":6", "data.train"),
        (":7", "data.max_completion_tokens"),
        (":9", "sampler.top_p"),
        (":10", "sampler.max_tokens"),
        (":12", "learner.betas[1]"),
        (":14", "options.clip_low"),
        (":15", "options.epsilon"),
    ]
    rest = {(p.where, p.key) for p in found[10:]}
    assert (str(path), "model") in rest and ("override #1 (nope=1)", "nope") in rest
    assert any("how long to train" in p.what for p in found)
    assert any("maximises a reward" in p.what for p in found)


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("beta", "options.beta"),
        ("label_smoothing", "options.label_smoothing"),
        ("lr", "learner.learning_rate"),
        ("per_device_train_batch_size", "batch_size"),
        ("gradient_accumulation_steps", "learner.micro_batch_tokens"),
        ("num_train_epochs", "epochs"),
        ("max_steps", "steps"),
        ("max_seq_length", "data.max_completion_tokens"),
        ("lora_r", "learner.lora.rank"),
        ("num_generations", "sampler.group_size"),
        ("kl_beta", "options.beta"),
        ("weight_decy", "learner.weight_decay"),
        ("temperature", "sampler.temperature"),
        ("modle", "model"),
        ("stages", "stage"),
        ("data.max_prompt_token", "data.max_prompt_tokens"),
        ("learner.rank", "learner.lora.rank"),
        ("learner.lora.r", "learner.lora.rank"),
        ("options.betta", "options.beta"),
        ("data.train_file", "data.train"),
    ],
)
def test_did_you_mean(folder: Path, key: str, right: str) -> None:
    (problem,) = [p for p in problems(dict(OFFLINE), f"{key}=1") if p.key == key]
    assert problem.right.startswith(f"did you mean {right}")
    assert problem.where == f"override #1 ({key}=1)"


def test_a_suggestion_depends_on_what_the_algorithm_has(folder: Path) -> None:
    (problem,) = problems(ONLINE, "beta=0.1")
    assert problem.right == "did you mean options.kl_coef?"
    (problem,) = problems(ONLINE, "epsilon=0.1")
    assert "options.clip_low" in problem.right


def test_a_key_left_out_on_purpose_says_why(folder: Path) -> None:
    assert "log-probs" in problems(ONLINE, "sampler.top_p=0.9")[0].right


def test_every_alias_leads_to_a_key_that_exists() -> None:
    known = {*stage_keys(), "name", "output", "stage"}
    wrong = {
        k for targets in ALIASES.values() for k in targets if not k.startswith("options.") and k not in known
    }
    assert not wrong
    assert not set(ALIASES) & set(Stage.model_fields), "an alias hides a key of ours"


def test_peer_02_an_option_that_the_method_ignores_is_an_error(folder: Path) -> None:
    (problem,) = problems(merged(ONLINE, {"options": {"label_smoothing": 0.1}}))
    assert (problem.key, problem.what) == ("options.label_smoothing", "unknown key")


@pytest.mark.parametrize(
    ("base", "change", "key", "says"),
    [
        (OFFLINE, {"sampler": {"group_size": 2}}, "sampler", "samples nothing"),
        (OFFLINE, {"rewards": {"a": {"verifier": "math_answer"}}}, "rewards", "samples nothing"),
        (OFFLINE, {"reward_model": "x/y"}, "reward_model", "samples nothing"),
        (OFFLINE, {"epochs": 1}, "epochs", "both set"),
        (OFFLINE, {"steps": None}, "", "how long"),
        (OFFLINE, {"reference": "base"}, "reference", "no LoRA"),
        (OFFLINE, {"learner": {"critic_learning_rate": 1e-5}}, "learner.critic_learning_rate", "no value network"),
        (OFFLINE, {"learner": {"schedule": "constant", "min_lr_ratio": 0.1}}, "learner.min_lr_ratio", "constant"),
        (OFFLINE, {"learner": {"num_minibatches": 99}}, "learner.num_minibatches", "empty"),
        ({**OFFLINE, "algorithm": "sft"}, {"reference": "copy"}, "reference", "no reference"),
        (
            {**OFFLINE, "algorithm": "reward_model"},
            {"evaluation": {"data": "rows.jsonl", "verifier": "math_answer"}},
            "evaluation",
            "writes nothing",
        ),
        (ONLINE, {"sampler": None}, "sampler", "no [sampler]"),
        (ONLINE, {"rewards": None}, "rewards", "there is none"),
        (ONLINE, {"rewards": {"answer": {"weight": 0.0}}}, "rewards", "every weight is 0"),
        (ONLINE, {"reward_model": "x/y", "rewards": {"reward_model": {"verifier": "math_answer"}}},
         "rewards.reward_model", "very name"),
        (ONLINE, {"epochs": 1}, "epochs", "counts steps"),
        (ONLINE, {"options": {"kl_coef": 0.1}, "reference": "cache"}, "reference", "every rollout is new"),
        (ONLINE, {"options": {"kl_coef": 0.0}, "reference": "copy"}, "reference", "no reference"),
        (ONLINE, {"data": {"max_completion_tokens": 9}}, "data.max_completion_tokens", "no completions to read"),
        (ONLINE, {"rewards": {"answer": {"verifier": "math_anser"}}}, "rewards.answer.verifier", "math_anser"),
        (ONLINE, {"rewards": {"answer": {"options": {"zz": 1}}}}, "rewards.answer.options.zz", "unknown key"),
        (ONLINE, {"rewards": {"no good": {"verifier": "math_answer"}}}, "rewards.no good", "not right"),
        (ONLINE, {"sampler": {"engine": "vlm"}}, "sampler.engine", "unknown name"),
        (ONLINE, {"data": {"train": {"generator": "word_problem", "count": 1}}}, "data.train.generator", "unknown"),
        (ONLINE, {"data": {"train": {"generator": "word_problems", "count": 1, "options": {"zz": 1}}}},
         "data.train.options.zz", "no option"),
        (ONLINE, {"data": {"train": {"generator": "word_problems"}}}, "data.train.count", "missing"),
        (ONLINE, {"data": {"train": 3}}, "data.train", "3"),
        (OFFLINE, {"algorithm": "dpoo"}, "algorithm", "Did you mean 'dpo'"),
        (OFFLINE, {"algorithm": "missing.py"}, "algorithm", "no such file"),
        (OFFLINE, {"algorithm": "truing.errors"}, "algorithm", "Config"),
        (OFFLINE, {"model": "./nowhere"}, "model", "no such folder"),
        (OFFLINE, {"model": "stage:sft"}, "model", "stage 'sft' is unknown"),
        (OFFLINE, {"model": None}, "model", "missing"),
        (OFFLINE, {"data": {"train": "."}}, "data.train", "is a folder"),
        (OFFLINE, {"device": "gpu"}, "device", "'gpu'"),
        (OFFLINE, {"dtype": "float16"}, "dtype", "'float16'"),
        (OFFLINE, {"steps": 1.5}, "steps", "1.5"),
        (OFFLINE, {"steps": True}, "steps", "true"),
        (OFFLINE, {"seed": "3"}, "seed", "'3' (text)"),
        (OFFLINE, {"options": {"beta": -1.0}}, "options.beta", "-1.0"),
        (OFFLINE, {"name": "../x"}, "name", "'../x'"),
        (OFFLINE, {"stage": []}, "stage", "one table or more"),
        (OFFLINE, {"stage": {"name": "x"}}, "stage", "one table or more"),
        (OFFLINE, {"stage": [{}]}, "name", "no name"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    folder: Path, base: dict[str, Any], change: dict[str, Any], key: str, says: str
) -> None:
    found = problems(merged(base, change))
    assert any(p.key == key and says in f"{p.what} {p.right}" for p in found), found
    assert all(p.right for p in found), "every problem says what would be right"


def test_the_bases_of_these_tests_are_sound(folder: Path) -> None:
    assert recipe_from_dict(OFFLINE).stages and recipe_from_dict(ONLINE).stages


def test_group_methods_need_groups(folder: Path) -> None:
    (folder / "grouped.py").write_text(
        "from typing import ClassVar\nfrom truing.config import DataKind, Options\n"
        "class Config(Options):\n    data: ClassVar[DataKind] = 'prompts'\n"
        "    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)\n"
        "    min_group_size: ClassVar[int] = 2\n"
    )
    recipe = merged(ONLINE, {"algorithm": "grouped.py", "sampler": {"group_size": 1}})
    (problem,) = problems(recipe)
    assert problem.key == "sampler.group_size" and "at least 2" in problem.right
    assert recipe_from_dict(merged(recipe, {"sampler": {"group_size": 2}}))


def test_a_literal_suggests_the_nearest(folder: Path) -> None:
    assert "did you mean 'cosine'?" in problems(OFFLINE, "learner.schedule=cosin")[0].right


def test_a_missing_data_file_suggests_the_nearest(folder: Path) -> None:
    assert problems(OFFLINE, "data.train=row.jsonl")[0].right == "did you mean rows.jsonl?"


PIPELINE = {
    "data": {"train": "rows.jsonl"},
    "steps": 1,
    "stage": [
        {"name": "sft", "algorithm": "sft", "model": "a/b"},
        {"name": "rm", "algorithm": "reward_model", "model": "stage:sft"},
        {"name": "ppo", "algorithm": "ppo", "model": "stage:sft", "reward_model": "stage:rm", "sampler": {}},
    ],
}


def changed(index: int, **change: Any) -> dict[str, Any]:
    stages = [dict(s) for s in PIPELINE["stage"]]  # type: ignore[attr-defined]
    stages[index] = merged(stages[index], change)
    return {**PIPELINE, "stage": stages}


@pytest.mark.parametrize(
    ("recipe", "key", "says"),
    [
        (changed(1, model=None), "stages.rm.model", 'set model = "stage:sft"'),
        (changed(1, model="stage:ppo"), "stages.rm.model", "comes later"),
        (changed(1, model="stage:rm"), "stages.rm.model", "this stage itself"),
        (changed(0, model="stage:x"), "stages.sft.model", "this is the first stage"),
        (changed(2, model="stage:sfd"), "stages.ppo.model", "an earlier stage: stage:sft, stage:rm"),
        (changed(2, model="stage:rm"), "stages.ppo.model", "writes no text"),
        (changed(2, reward_model="stage:sft"), "stages.ppo.reward_model", "gives no scores"),
        (changed(1, name="sft"), "stages.sft.name", "choose another"),
        ({**PIPELINE, "epochs": 1, "reward_model": "x/y", "learner": {"critic_learning_rate": 2.0}},
         "learner.critic_learning_rate", "less than 1"),
    ],
)  # fmt: skip
def test_links_between_stages(folder: Path, recipe: dict[str, Any], key: str, says: str) -> None:
    found = problems(recipe)
    assert any(p.key == key and says in f"{p.what} {p.right}" for p in found), found


def test_a_later_stage_without_a_model_is_one_problem_not_two(folder: Path) -> None:
    assert [p.key for p in problems(changed(1, model=None))] == ["stages.rm.model"]


def test_a_default_that_no_stage_uses_is_an_error(folder: Path) -> None:
    stages = [PIPELINE["stage"][0]]  # type: ignore[index]
    (problem,) = problems({**PIPELINE, "stage": stages, "sampler": {"max_tokens": 4}})
    assert problem.key == "sampler" and "samples nothing" in problem.what


def test_a_wrong_default_is_one_problem_however_many_stages(folder: Path) -> None:
    assert [p.key for p in problems({**PIPELINE, "sead": 1})] == ["sead"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "has no '='"),
        ("=3", "no dotted key"),
        ("a b=3", "no dotted key"),
        ("stages.sfd.seed=1", "did you mean stages.sft?"),
        ("stages.sft=1", "as a whole"),
        ("stages.sft.model.x=1", "'model' is no table"),
        ("checkpoint=", "cannot remove"),
        ("stages.sft.seed=", "cannot remove"),
        ("algorithm=dpo", "stage 'sft' sets its own"),
        ("stages.sft.lr=1", "learner.learning_rate"),
        ("data.train=none.jsonl", "no such file"),
    ],
)
def test_what_is_wrong_with_an_override_names_it(folder: Path, override: str, says: str) -> None:
    found = problems(PIPELINE, "batch_size=4", override)
    assert all(p.where == f"override #2 ({override})" for p in found)
    assert any(says in f"{p.what} {p.right}" for p in found), found


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        (b"a = 1\nb = \n", ":2", "TOML"),
        (b"a = 1\na = 2\n", ":2", "TOML"),
        (b"name = dpo\n", ":1", "TOML"),
        (b"a = '\xff'", "", "UTF-8"),
        (b"a = " + b"[" * 5000, "", "too deep"),
        (b"a = " + b"9" * 5000, "", "TOML"),
    ],
)
def test_what_is_no_toml(folder: Path, text: bytes, where: str, says: str) -> None:
    path = folder / "bad.toml"
    path.write_bytes(text)
    (problem,) = problems(path)
    assert problem.where == f"{path}{where}" and says in problem.what


def test_a_folder_is_no_recipe(folder: Path) -> None:
    assert "cannot be read" in problems(folder)[0].what


def test_keys_that_are_no_text(folder: Path) -> None:
    assert "3 is no text" in problems({**OFFLINE, "options": {3: 1}})[0].what


near_keys = st.sampled_from(
    [
        *Stage.model_fields,
        "name",
        "output",
        "stage",
        "train",
        "generator",
        "count",
        "lora",
        "verifier",
        "every",
        "options",
    ]
)
near_values = st.sampled_from(
    [
        "dpo",
        "grpo",
        "sft",
        "rows.jsonl",
        "stage:a",
        "stage:",
        "base",
        "cache",
        "math_answer",
        "word_problems",
        "",
        ".",
    ]
)
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | near_values | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(near_keys | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)
bases = st.sampled_from([{}, OFFLINE, ONLINE, PIPELINE])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=bases, over=st.dictionaries(near_keys, garbage, max_size=5), override=st.text(max_size=12))
@example(base=OFFLINE, over={"algorithm": "."}, override="")
@example(base=OFFLINE, over={"algorithm": "\x00"}, override="a=1")
@example(base=OFFLINE, over={"model": "~nobody/x"}, override="model=\x00")
@example(base=PIPELINE, over={"stage": [{"name": "a", "stage": []}]}, override="stages.a.stage=1")
def test_garbage_raises_config_errors_and_nothing_else(
    folder: Path, base: dict[str, Any], over: dict[str, Any], override: str
) -> None:
    for overrides in ([], [override], [f"stages.{override}"]):
        try:
            recipe_from_dict({**base, **over}, overrides=overrides)
        except ConfigError as error:
            assert error.problems and str(error)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40) | st.text("abc.=[]{}\"'\n#\\ ,1", max_size=40))
def test_garbage_files_raise_config_errors_and_nothing_else(folder: Path, text: str) -> None:
    path = folder / "fuzz.toml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(ConfigError):
        load_recipe(path)
