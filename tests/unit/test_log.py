from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import truing
from truing.errors import ConfigError, DataError
from truing.log import (
    METRICS,
    Progress,
    RunLog,
    help_of,
    open_trackers,
    read_jsonl,
    read_metrics,
    read_run,
)
from truing.log.jsonl import append
from truing.log.metric_help import AREAS, area_of
from truing.log.progress import duration


def new_run(tmp_path, name="toy"):
    return RunLog.create(
        tmp_path / name, name=name, recipe_toml=f'name = "{name}"\n', command="truing run toy.toml"
    )


def log_steps(stage, steps):
    for step in steps:
        stage.metrics(step, {"reward/mean": step / 10, "loss/policy": -0.001 * step})
        if step % 2 == 0:
            stage.sample(step, prompt="1+1?", completion=str(step), reward=float(step == 2))


def without_times(path):
    return [{k: v for k, v in row.items() if k != "time_s"} for row in read_jsonl(path)]


def test_the_run_folder_has_what_a_person_looks_for(tmp_path):
    log = new_run(tmp_path)
    stage = log.stage("grpo", "grpo", 0)
    stage.planned(4)
    log_steps(stage, range(4))
    stage.evaluation(
        {"when": "after", "step": 4, "num_prompts": 8, "passed": 2, "rate": 0.25, "outcomes": [1, 0]}
    )
    stage.finish("finished")
    log.finish("finished")
    record = json.loads((log.folder / "run.json").read_text())
    assert (record["status"], record["name"], record["pid"]) == ("finished", "toy", os.getpid())
    assert record["ended"] >= record["started"]
    assert record["machine"]["memory_bytes"] > 2**28 and record["machine"]["cpu_cores"] >= 1
    assert record["versions"]["torch"] == json.loads((log.folder / "versions.json").read_text())["torch"]
    entry = record["stages"][0]
    assert (entry["algorithm"], entry["status"], entry["step"], entry["num_steps"]) == (
        "grpo",
        "finished",
        4,
        4,
    )
    assert entry["metrics"]["reward/mean"] == pytest.approx(0.3)
    assert entry["evaluations"] == [{"when": "after", "step": 4, "num_prompts": 8, "passed": 2, "rate": 0.25}]
    assert tomllib.loads((log.folder / "recipe.toml").read_text()) == {"name": "toy"}
    assert (log.folder / "command.txt").read_text() == "truing run toy.toml\n"


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    new_run(tmp_path)
    with pytest.raises(ConfigError, match="holds a run already"):
        new_run(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no run\.json"):
        RunLog.open(tmp_path)


def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path):
    whole, cut = new_run(tmp_path, "whole"), new_run(tmp_path, "cut")
    log_steps(whole.stage("train", "grpo", 8), range(8))
    stage = cut.stage("train", "grpo", 8)
    log_steps(stage, range(6))
    stage.evaluation({"when": "step", "step": 4, "rate": 0.5})
    stage.evaluation({"when": "step", "step": 6, "rate": 0.7})
    with (cut.folder / "train" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')  # killed within a line
    again = RunLog.open(cut.folder)
    stage = again.stage("train", "grpo", 8)
    stage.rewind(4)
    assert again._record["stages"][0]["step"] == 4
    log_steps(stage, range(4, 8))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert without_times(cut.folder / "train" / name) == without_times(whole.folder / "train" / name)
    assert [e["step"] for e in read_jsonl(cut.folder / "train" / "evaluations.jsonl")] == [4]
    assert [e["step"] for e in read_run(cut.folder)["stages"][0]["evaluations"]] == [4]


def test_time_goes_on_after_a_resume(tmp_path):
    log = new_run(tmp_path)
    stage = log.stage("train", "sft", 3)
    append(log.folder / "train" / "metrics.jsonl", {"step": 0, "time_s": 120.0, "loss/nll": 2.0})
    stage = RunLog.open(log.folder).stage("train", "sft", 3)
    stage.metrics(1, {"loss/nll": 1.9})
    assert read_jsonl(log.folder / "train" / "metrics.jsonl")[-1]["time_s"] >= 120.0


def test_the_evaluation_at_a_checkpoint_outlives_a_resume_there(tmp_path):
    stage = new_run(tmp_path).stage("train", "grpo", 8)
    log_steps(stage, range(4))
    stage.sample(4, prompt="p", completion="c", split="evaluation")
    stage.evaluation({"when": "step", "step": 4, "rate": 0.5})
    stage.rewind(4)
    assert len(read_jsonl(stage.folder / "evaluations.jsonl")) == 1
    assert [s["step"] for s in read_jsonl(stage.folder / "samples.jsonl")] == [0, 2, 4]


def test_a_step_that_is_redone_without_a_checkpoint_is_logged_once(tmp_path):
    log = new_run(tmp_path)
    log_steps(log.stage("train", "sft", 8), range(5))
    log_steps(RunLog.open(log.folder).stage("train", "sft", 8), range(3))
    assert [r["step"] for r in read_jsonl(log.folder / "train" / "metrics.jsonl")] == [0, 1, 2]
    assert [r["step"] for r in read_jsonl(log.folder / "train" / "samples.jsonl")] == [0, 2]


def test_numbers_that_are_not_finite_stay_readable_by_strict_json(tmp_path):
    stage = new_run(tmp_path).stage("train", "sft", 2)
    stage.metrics(0, {"reward/mean": math.nan, "reward/std": -math.inf, "train/grad_norm": math.inf})

    def refuse(name):
        raise AssertionError(name)

    line = (stage.folder / "metrics.jsonl").read_text()
    record = json.loads(line, parse_constant=refuse)
    assert (record["reward/mean"], record["reward/std"]) == ("NaN", "-Infinity")
    row = read_metrics(stage.folder / "metrics.jsonl")[0]
    assert math.isnan(row["reward/mean"]) and row["train/grad_norm"] == math.inf
    json.loads((stage.folder.parent / "run.json").read_text(), parse_constant=refuse)


def test_any_text_comes_back_as_it_was(tmp_path):
    stage = new_run(tmp_path).stage("train", "grpo", 2)
    text = 'two\nlines\r\x00\x1f "quotes" \\ \u2028 \U0001f600 </script> \ud800'
    stage.sample(0, prompt=text, completion=text, reference={"answer": text})
    record = read_jsonl(stage.folder / "samples.jsonl")[0]
    assert (record["prompt"], record["completion"], record["reference"]) == (text, text, {"answer": text})


def test_a_torn_last_line_is_ignored_and_a_bad_one_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    assert read_jsonl(path) == [{"a": 1}]
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_jsonl(path)


def test_run_json_is_never_half_written(tmp_path):
    """A process that is killed while it logs leaves a run.json that reads, and no line lost."""
    code = (
        "import sys; from pathlib import Path; from truing.log import RunLog\n"
        f"log = RunLog.create(Path({str(tmp_path / 'killed')!r}), name='k', recipe_toml='', command='c')\n"
        "s = log.stage('train', 'sft', 10**9); print('ready', flush=True)\n"
        "for step in range(10**9): s.metrics(step, {'loss/nll': 1.0})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while len(read_jsonl(tmp_path / "killed" / "train" / "metrics.jsonl")) < 200:
            read_run(tmp_path / "killed")
        assert read_run(tmp_path / "killed")["status"] == "running"
        process.kill()
    record = read_run(tmp_path / "killed")
    assert record["status"] == record["stages"][0]["status"] == "interrupted"
    steps = [r["step"] for r in read_jsonl(tmp_path / "killed" / "train" / "metrics.jsonl")]
    assert steps == list(range(len(steps))) and abs(record["stages"][0]["step"] - len(steps)) <= 1


def test_a_failed_run_says_so_of_its_stage_too(tmp_path):
    log = new_run(tmp_path)
    log.stage("sft", "sft", 2).finish("finished")
    log.stage("grpo", "grpo", 2)
    log.event("error", "the loss is NaN", type="NonFiniteError")
    log.finish("failed")
    assert [log.stage_status(n) for n in ("sft", "grpo", "dpo")] == ["finished", "failed", None]
    assert read_jsonl(log.folder / "events.jsonl")[0]["type"] == "NonFiniteError"


def test_every_metric_that_the_code_names_has_its_line_of_help():
    folders = [Path(truing.__file__).parent / name for name in ("algorithms", "train")]
    sources = [path.read_text() for folder in folders for path in folder.glob("*.py")]
    names = {name for text in sources for name in re.findall(r'f?"([a-z]+/[a-z_{}]+)"', text)}
    assert len(names) > 40
    names = {re.sub("{[a-z_]*}", "x", name.replace("{prefix}", "critic_")) for name in names}
    missing = sorted(name for name in names if not help_of(name))
    assert not missing, f"add them to truing/log/metric_help.py: {missing}"
    assert {area_of(name) for name in names} <= set(AREAS)


def test_help_is_one_line_and_says_what_people_stumble_over():
    assert all("\n" not in text and text.endswith(".") for text in METRICS.values())
    assert "loss near 0 is normal" in help_of("loss/policy")
    assert help_of("mine/own_thing") == ""


# --- trackers


class Fake:
    """Stands for a tracker's module and its run: records every call."""

    def __init__(self, failing=()):
        self.calls, self._failing = [], failing

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            if name in self._failing:
                raise OSError("the service is down")
            return self

        return call


@pytest.mark.parametrize(
    ("name", "log_call"),
    [
        ("trackio", ("log", ({"reward/mean": 0.5},), {"step": 3})),
        ("wandb", ("log", ({"reward/mean": 0.5},), {"step": 3})),
        ("mlflow", ("log_metrics", ({"reward/mean": 0.5},), {"step": 3})),
        ("tensorboard", ("add_scalar", ("reward/mean", 0.5, 3), {})),
    ],
)
def test_each_tracker_gets_name_config_metrics_and_an_end(monkeypatch, name, log_call):
    fake = Fake()
    module = SimpleNamespace(SummaryWriter=fake.SummaryWriter) if name == "tensorboard" else fake
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = open_trackers([name], "toy-grpo", {"learner": {"learning_rate": 1e-5}})
    tracker.log(3, {"reward/mean": 0.5})
    tracker.close()
    assert log_call in fake.calls
    assert "toy-grpo" in repr(fake.calls) and "1e-05" in repr(fake.calls)
    assert fake.calls[-1][0] in ("finish", "end_run", "close")
    assert "WANDB_MODE" not in os.environ


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(monkeypatch):
    bad, good, said = Fake(failing=("log",)), Fake(), []
    monkeypatch.setitem(sys.modules, "wandb", bad)
    monkeypatch.setitem(sys.modules, "trackio", good)
    tracker = open_trackers(["wandb", "trackio"], "r", {}, warn=said.append)
    tracker.log(0, {"a/b": 1.0})
    tracker.log(1, {"a/b": 2.0})
    tracker.close()
    assert [c[0] for c in good.calls] == ["init", "log", "log", "finish"]
    assert said == ["tracker wandb failed and is left out: OSError: the service is down"]


def test_a_missing_tracker_gives_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'truing\[mlflow\]'"):
        open_trackers(["mlflow"], "r", {})


def test_a_tracker_that_cannot_start_stops_the_run_early(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Fake(failing=("init",)))
    with pytest.raises(ConfigError, match="wandb could not start: OSError: the service is down"):
        open_trackers(["wandb"], "r", {})


def test_no_tracker_is_the_default_and_does_nothing():
    tracker = open_trackers([], "r", {})
    tracker.log(0, {"a/b": 1.0})
    tracker.close()


# --- progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def show(*, terminal, quiet=False, num_steps=100, seconds=1.0):
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=140, color_system=None)
    with Progress(quiet=quiet, console=console, interval_s=10.0, clock=clock) as progress:
        progress.stage("rl", "grpo", num_steps)
        for step in range(num_steps):
            progress.phase("collect")
            clock.now += seconds
            progress.step(step, {"loss/policy": 0.0, "reward/mean": 0.25}, tokens=500)
        progress.note("after: 12 of 64 passed [19%]")
    return out.getvalue()


def test_plain_output_is_a_line_now_and_then():
    lines = show(terminal=False).splitlines()
    assert lines[0] == "rl: grpo, 100 steps"
    assert lines[2] == "rl: step 11/100  reward/mean 0.25  500 tokens/s  1 min 29 s left"
    assert lines[-2] == "rl: step 100/100  reward/mean 0.25  500 tokens/s"
    assert lines[-1] == "after: 12 of 64 passed [19%]"
    assert len(lines) == 13


def test_a_terminal_gets_a_bar():
    last = next(line for line in reversed(show(terminal=True).splitlines()) if "100/100" in line)
    assert "rl" in last and "100/100" in last and "reward/mean 0.25" in last and "500 tokens/s" in last


def test_quiet_shows_nothing():
    assert show(terminal=False, quiet=True) == show(terminal=True, quiet=True) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (273600, "3 d 04 h")],
)
def test_durations_read_like_speech(seconds, text):
    assert duration(seconds) == text
