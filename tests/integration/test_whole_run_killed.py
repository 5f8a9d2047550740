"""A run of the real command, killed with SIGKILL at random moments and resumed, equals one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

NUM_KILLS = 3


def recipe(folder: Path, model: Path) -> Path:
    rows = [{"prompt": f"say {i}", "chosen": f"the number {i}", "rejected": f"no {i}"} for i in range(12)]
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(
        f'name = "killed"\nalgorithm = "dpo"\nmodel = "{model}"\ndtype = "float32"\nsteps = 240\nbatch_size = 4\n'
        f'data.train = "{data}"\nlearner.learning_rate = 1e-3\ncheckpoint.every = 1\n',
        encoding="utf-8",
    )
    return path


def start(*arguments: str, cache: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRUING_CACHE": str(cache)}
    command = [sys.executable, "-m", "truing.cli", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(*arguments: str, cache: Path) -> None:
    process = start(*arguments, cache=cache)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def steps_done(run: Path) -> int:
    path = run / "train" / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def kill_after_some_steps(process: subprocess.Popen[bytes], run: Path, chance: random.Random) -> None:
    begun = steps_done(run)
    goal, deadline = begun + chance.randrange(5, 50), time.monotonic() + 120
    while steps_done(run) < goal:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run makes no steps"
        time.sleep(0.01)
    time.sleep(chance.random() * 0.05)  # inside whatever comes next: a step, a save, a rename
    process.send_signal(signal.SIGKILL)
    process.communicate()


def records(run: Path) -> list[dict[str, Any]]:
    lines = (run / "train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if not k.startswith("time")} for x in lines]


def test_peer_19_a_killed_run_resumes_to_the_same_metrics_and_weights(
    tmp_path: Path, tiny_model: Path
) -> None:
    path, cache, chance = recipe(tmp_path, tiny_model), tmp_path / "cache", random.Random(0)
    runs = tmp_path / "runs"
    finish("run", str(path), f"output={runs}", cache=cache)
    whole, killed = runs / "killed-001", runs / "killed-002"

    process = start("run", str(path), f"output={runs}", cache=cache)
    for _ in range(NUM_KILLS):
        kill_after_some_steps(process, killed, chance)
        process = start("resume", str(killed), cache=cache)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()

    assert records(killed) == records(whole)
    one, two = (load_file(run / "train" / "model" / "model.safetensors") for run in (whole, killed))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)
    events = (killed / "train" / "events.jsonl").read_text(encoding="utf-8")
    assert events.count('"resumed"') == NUM_KILLS
