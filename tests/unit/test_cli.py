"""The command: what it prints where, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from truing import doctor
from truing.cli import app
from truing.config import Recipe
from truing.errors import ConfigError, NonFiniteError, TruingError
from truing.recipe import load_recipe

RECIPE = 'algorithm = "dpo"\nmodel = "a/b"\nsteps = 2\ndata.train = "rows.jsonl"\n'


class FakePipeline(ModuleType):
    """Stands in for truing.train.pipeline, which would import torch and train."""

    def __init__(self) -> None:
        super().__init__("truing.train.pipeline")
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.error: BaseException | None = None

    def _done(self, what: Any, folder: Path, **keys: Any) -> SimpleNamespace:
        self.calls.append((what, {"folder": folder, **keys}))
        if isinstance(what, Recipe):
            (folder / "recipe.toml").write_text("")
        if self.error is not None:
            raise self.error
        metrics = [{"stage": "train", "step": i, "loss/total": 1.0 - i} for i in range(2)]
        return SimpleNamespace(folder=folder, metrics=metrics, evaluations=[], policy=object())

    def run(self, recipe: Recipe, *, folder: Path, **keys: Any) -> SimpleNamespace:
        return self._done(recipe, folder, **keys)

    def resume(self, folder: Path, **keys: Any) -> SimpleNamespace:
        return self._done("resume", folder, **keys)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUING_DEBUG", raising=False)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePipeline]:
    import truing.train

    fake = FakePipeline()
    monkeypatch.setitem(sys.modules, "truing.train.pipeline", fake)
    monkeypatch.setattr(truing.train, "pipeline", fake, raising=False)
    yield fake


def truing(*args: str, **keys: Any) -> Result:
    return CliRunner().invoke(app, list(args), **keys)


def test_run_checks_starts_and_says_where(pipeline: FakePipeline) -> None:
    done = truing("run", "r.toml", "seed=3", "options.beta=0.5")
    assert done.exit_code == 0, done.output
    ((recipe, keys),) = pipeline.calls
    assert (recipe.stages[0].seed, recipe.stages[0].options["beta"]) == (3, 0.5)
    assert keys["folder"] == Path("runs/r-001") and keys["quiet"] is False
    assert "runs/r-001" in done.stdout and "truing chat runs/r-001" in done.stdout


def test_run_with_json_prints_one_record(pipeline: FakePipeline) -> None:
    done = truing("run", "r.toml", "--json")
    record = json.loads(done.stdout)
    assert record["folder"] == "runs/r-001" and record["metrics"] == {
        "stage": "train",
        "step": 1,
        "loss/total": 0.0,
    }
    assert pipeline.calls[0][1]["quiet"] is True


def test_dry_run_prints_the_resolved_recipe_and_stops(pipeline: FakePipeline, here: Path) -> None:
    done = truing("run", "r.toml", "seed=3", "--dry-run")
    (here / "again.toml").write_text(done.stdout)
    again = load_recipe(here / "again.toml")
    assert done.exit_code == 0 and again == load_recipe(here / "r.toml", ["seed=3"])
    assert not pipeline.calls and not Path("runs").exists()


def test_dry_run_imports_nothing_heavy(here: Path) -> None:
    script = (
        "import sys\nfrom truing.cli import app\n"
        "app(['run', 'r.toml', '--dry-run'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0 and 'algorithm = "dpo"' in done.stdout, done.stderr


def test_help_is_light_and_quick() -> None:
    script = (
        "import sys, time\nfrom truing.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'truing.recipe', 'truing.log'} & set(sys.modules)\n"
        "assert time.process_time() < 1, time.process_time()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "resume" in done.stdout, done.stderr


def test_train_without_a_recipe_file(pipeline: FakePipeline) -> None:
    done = truing("train", "dpo", "--model", "a/b", "--data", "rows.jsonl", "epochs=1", "options.beta=0.2")
    assert done.exit_code == 0, done.output
    recipe, keys = pipeline.calls[0]
    assert (recipe.name, recipe.stages[0].epochs) == ("dpo", 1.0) and keys["folder"] == Path("runs/dpo-001")


def test_train_says_what_is_missing() -> None:
    done = truing("train", "dpo", "--json")
    found = {p["key"]: p for p in json.loads(done.stderr)["problems"]}
    assert done.exit_code == 2 and {"model", "data", ""} <= set(found)
    assert found["model"]["where"] == "the command line"


def test_a_wrong_recipe_is_what_where_and_right_on_stderr() -> None:
    done = truing("run", "r.toml", "lr=1e-6")
    assert done.exit_code == 2 and done.stdout == ""
    expected = (
        "ConfigError: override #1 (lr=1e-6): lr: unknown key\n    did you mean learner.learning_rate?\n"
    )
    assert done.stderr == expected


@pytest.mark.parametrize(
    ("error", "code"),
    [(NonFiniteError("the loss is NaN at row 3"), 1), (ConfigError("in use"), 2), (TruingError("x"), 1)],
)
def test_exit_codes_and_the_way_to_continue(pipeline: FakePipeline, error: TruingError, code: int) -> None:
    pipeline.error = error
    done = truing("run", "r.toml")
    assert done.exit_code == code and f"{type(error).__name__}: {error}" in done.stderr
    assert "truing resume runs/r-001" in done.stderr and "Traceback" not in done.stderr
    as_json = truing("run", "r.toml", "--json")
    record = json.loads(as_json.stderr)
    assert record["error"] == type(error).__name__ and record["resume"] == "truing resume runs/r-002"


@pytest.mark.parametrize(("args", "env"), [(["--debug"], {}), ([], {"TRUING_DEBUG": "1"})])
def test_debug_keeps_the_traceback(args: list[str], env: dict[str, str]) -> None:
    done = truing(*args, "run", "missing.toml", env=env)
    assert isinstance(done.exception, ConfigError)


def test_an_unexpected_error_is_not_hidden(pipeline: FakePipeline) -> None:
    pipeline.error = ZeroDivisionError("a bug")
    assert isinstance(truing("run", "r.toml").exception, ZeroDivisionError)


def test_an_interrupt_says_how_to_continue(pipeline: FakePipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    done = truing("run", "r.toml")
    assert done.exit_code == 130 and done.stderr == "interrupted; continue with: truing resume runs/r-001\n"
    done = truing("run", "r.toml", "--json")
    assert json.loads(done.stderr) == {"error": "interrupted", "resume": "truing resume runs/r-002"}


def test_resume_hands_the_folder_over(pipeline: FakePipeline) -> None:
    Path("runs/x").mkdir(parents=True)
    assert truing("resume", "runs/x").exit_code == 0
    assert pipeline.calls == [("resume", {"folder": Path("runs/x"), "quiet": False})]


def test_runs_lists_them_and_survives_broken_ones() -> None:
    assert "no runs" in truing("runs").stdout and json.loads(truing("runs", "--json").stdout) == []
    evaluations = [{"when": "before", "rate": 0.1}, {"when": "after", "rate": 0.5}]
    stage = {"name": "grpo", "algorithm": "grpo", "status": "finished", "step": 40, "num_steps": 40}
    record = {"name": "a", "status": "finished", "started": "2026-01-02T03:04:05+00:00"}
    for name, text in (
        ("a-001", json.dumps({**record, "stages": [{**stage, "metrics": {}, "evaluations": evaluations}]})),
        ("b-001", "{"),
        ("c-001", json.dumps({**record, "started": "odd", "stages": []})),
    ):
        (Path("runs") / name).mkdir(parents=True)
        (Path("runs") / name / "run.json").write_text(text)
    done = truing("runs", env={"COLUMNS": "200"})
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.exit_code == 0 and "10.0% to 50.0%" in lines["runs/a-001"] and "40/40" in lines["runs/a-001"]
    assert "broken" in lines["runs/b-001"] and "odd" in lines["runs/c-001"]
    assert {r["status"] for r in json.loads(truing("runs", "--json").stdout)} == {"finished", "broken"}


class FakePolicy:
    """Says back what it was asked, and how."""

    def __init__(self, name: str) -> None:
        self.name = name

    def complete(self, messages: list[Any], *, max_tokens: int, temperature: float, seed: int) -> Any:
        said = " | ".join(f"{m.role}: {m.content}" for m in messages)
        reason = "length" if max_tokens == 1 else "stop"
        return SimpleNamespace(text=f"[{said}]", tokens=(1, 2), finish_reason=reason)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("truing.train.policy")
    module.Policy = FakePolicy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "truing.train.policy", module)


@pytest.mark.usefixtures("policy")
def test_chat_answers_one_prompt() -> None:
    assert (
        truing("chat", "a/b", "--prompt", "hi", "--system", "be brief").stdout
        == "[system: be brief | user: hi]\n"
    )
    record = json.loads(truing("chat", "a/b", "-p", "hi", "--json", "--temperature", "0.5").stdout)
    assert (record["model"], record["completion"], record["finish_reason"]) == ("a/b", "[user: hi]", "stop")
    assert (record["num_tokens"], record["temperature"]) == (2, 0.5)


@pytest.mark.usefixtures("policy")
def test_chat_is_a_conversation_until_it_is_reset_or_left() -> None:
    done = truing("chat", "a/b", "--max-tokens", "1", input="one\ntwo\n\n/what\n/reset\nthree\n/exit\nfour\n")
    assert done.exit_code == 0
    assert "[user: one] [cut at --max-tokens]" in done.stdout
    assert "[user: one | assistant: [user: one] | user: two]" in done.stdout
    assert "[user: three]" in done.stdout and "four" not in done.stdout
    assert truing("chat", "a/b", input="").exit_code == 0  # end of input


@pytest.mark.usefixtures("policy")
def test_chat_with_a_run_is_with_its_last_model() -> None:
    Path("runs/x/sft/model").mkdir(parents=True)
    Path("runs/x/run.json").write_text('{"status": "finished", "stages": [{"name": "sft"}]}')
    assert json.loads(truing("chat", "runs/x", "-p", "hi", "--json").stdout)["model"] == "runs/x/sft/model"
    Path("runs/x/sft/model").rmdir()
    done = truing("chat", "runs/x", "-p", "hi")
    assert done.exit_code == 1 and "truing resume runs/x" in done.stderr


def test_chat_in_json_needs_a_prompt() -> None:
    done = truing("chat", "a/b", "--json")
    assert done.exit_code == 2 and "--prompt" in json.loads(done.stderr)["message"]


@pytest.mark.parametrize("state", ["ok", "warn", "fail"])
def test_doctor_fails_when_a_check_does(monkeypatch: pytest.MonkeyPatch, state: doctor.State) -> None:
    checks = [doctor.Check("one", "ok", "good"), doctor.Check("two", state, "found", "mend it")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    done = truing("doctor")
    assert done.exit_code == (1 if state == "fail" else 0)
    assert f"{state:4}  two: found\n      fix: mend it" in done.stdout
    assert json.loads(truing("doctor", "--json").stdout)[1]["state"] == state


@pytest.mark.parametrize("kind", ["algorithms", "verifiers", "environments", "generators"])
def test_list_names_plugins_with_summaries(kind: str) -> None:
    found = json.loads(truing("list", kind, "--json").stdout)
    assert found and all(r["name"] and r["summary"] and Path(r["file"]).is_file() for r in found)
    text = truing("list", kind)
    assert text.exit_code == 0 and all(f"{r['name']}" in text.stdout for r in found)


def test_list_shows_options_with_defaults() -> None:
    found = {r["name"]: r for r in json.loads(truing("list", "algorithms", "--json").stdout)}
    assert found["dpo"]["data"] == "pairs" and found["dpo"]["options"]["beta"]["default"] == 0.1


def test_usage_errors_and_the_version() -> None:
    assert truing("train").exit_code == 2 and truing("nope").exit_code == 2
    assert truing("--version").stdout.strip()
