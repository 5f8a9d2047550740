"""A command of AI feedback is killed while a judge answers; the next call asks only for what is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PATH = Path(__file__).parents[1] / "unit" / "ai_feedback" / "scripted.py"
_SPEC = importlib.util.spec_from_file_location("scripted_judge", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules["scripted_judge"] = _MODULE
_SPEC.loader.exec_module(_MODULE)

NUM_PAIRS, AT_ONCE = 8, 2


def test_a_killed_command_loses_only_what_was_under_way(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "completions": ["yes", "no"]} for i in range(NUM_PAIRS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def slow(body: dict[str, Any]) -> dict[str, float]:
        time.sleep(0.3)
        return {"A": 0.7, "B": 0.3}

    with _MODULE.scripted(slow) as server:
        command = [
            sys.executable, "-m", "truing.cli", "label", "rows.jsonl", "--judge-model", "j", "--judge-endpoint",
            server.url, "--at-once", str(AT_ONCE), "--json",
        ]  # fmt: skip
        trail = tmp_path / "pairs.audit.jsonl"
        first = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (trail.is_file() and trail.read_text().count("\n") >= 3):
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not (tmp_path / "pairs.jsonl").exists()
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == NUM_PAIRS
    records = [json.loads(line) for line in trail.read_text().splitlines()]
    assert len(records) == len({r["id"] for r in records}) == NUM_PAIRS
    assert 2 * NUM_PAIRS <= asked <= 2 * (NUM_PAIRS + AT_ONCE), "only what was under way is asked again"
