"""Killable workers: deadlines hold, nothing outlives its parent, and no thread waits for another's sample."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from truing.errors import VerifierError
from truing.verifiers import _worker, math_answer
from truing.verifiers._worker import Pool, Worker

SLOW = {"pattern": "(a+)+", "text": "a" * 60 + "!", "whole": True}
FAST = {"pattern": "a+", "text": "aaa", "whole": True}


def running(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(running(p) for p in pids):
        time.sleep(0.05)
    return not any(running(p) for p in pids)


def test_peer_17_a_pathological_sample_costs_its_deadline_and_the_next_is_served() -> None:
    pool = Pool("regex", 1)
    try:
        pool.ask(FAST, 10)
        (pid,) = pool.pids()
        start = time.perf_counter()
        verdict = pool.ask(SLOW, 0.3)
        assert time.perf_counter() - start < 3.0
        assert (verdict.status, verdict.value) == ("timed_out", None)
        assert not running(pid)
        assert pool.ask(FAST, 10).value == 1.0
        assert pool.pids() != [pid]
    finally:
        pool.close()


def test_peer_17_workers_serve_threads() -> None:
    pool = Pool("regex", 2)
    try:
        with ThreadPoolExecutor(8) as threads:
            requests = [{**FAST, "text": "a" * (n % 2)} for n in range(100)]
            verdicts = list(threads.map(lambda r: pool.ask(r, 10), requests))
        assert [v.value for v in verdicts] == [float(n % 2) for n in range(100)]
        assert 1 <= len(pool.pids()) <= 2
    finally:
        pool.close()


def test_peer_17_math_works_off_the_main_thread_and_leaves_alarms_alone() -> None:
    found = []
    signal.setitimer(signal.ITIMER_REAL, 500)
    thread = threading.Thread(
        target=lambda: found.append(
            math_answer.verify("\\boxed{2\\sqrt{3}}", "\\sqrt{12}", math_answer.Config())
        )
    )
    thread.start()
    thread.join()
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    assert found[0].value == 1.0
    assert left > 300


def test_peer_16_a_dead_worker_is_a_failure_not_a_zero_and_is_replaced() -> None:
    pool = Pool("regex", 1)
    try:
        pool.ask(FAST, 10)
        (pid,) = pool.pids()
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        verdict = pool.ask(SLOW, 20)
        assert (verdict.status, verdict.value) == ("failed", None)
        assert "died" in verdict.evidence
        assert pool.ask(FAST, 10).value == 1.0
        os.kill(pool.pids()[0], signal.SIGKILL)  # while it is idle
        time.sleep(0.2)
        assert pool.ask(FAST, 10).value == 1.0
    finally:
        pool.close()


def test_peer_16_an_exception_in_the_worker_is_a_failure_and_it_lives_on() -> None:
    worker = Worker("regex")
    try:
        verdict = worker.ask({"pattern": "(", "text": "", "whole": True}, 10)
        assert verdict.status == "failed"
        assert "error" in verdict.evidence
        assert worker.ask(FAST, 10).value == 1.0
    finally:
        worker.kill()


def test_the_worker_imports_no_torch_and_prints_cannot_pass_for_replies() -> None:
    code = (
        "import sys; sys.argv = ['_grader.py', 'math']; sys.stdin = iter(()); "
        f"sys.path.insert(0, {str(_worker._GRADER.parent)!r}); import _grader; _grader.main(); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; print('noise')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == '{"ready": true}\n'
    assert done.stderr == "noise\n"


def test_a_worker_that_cannot_start_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "grader.py"
    broken.write_text("raise ImportError('no sympy here')")
    monkeypatch.setattr(_worker, "_GRADER", broken)
    with pytest.raises(VerifierError, match=r"ended with exit status 1.*(?s:.)*no sympy here"):
        Worker("math")
    broken.write_text("import time\ntime.sleep(60)")
    with pytest.raises(VerifierError, match=r"was not ready in 0.3 s"):
        Worker("math", startup_deadline_s=0.3)


PARENT = """
import os, signal, sys, threading
from truing.verifiers._worker import pool
p = pool("regex")
fast = {"pattern": "a", "text": "a", "whole": True}
slow = {"pattern": "(a+)+", "text": "a" * 60 + "!", "whole": True}
p.ask(fast, 60)
print(*p.pids(), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "killed while busy":
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    p.ask(slow, 1.0)
"""


@pytest.mark.parametrize("how", ["ends", "killed", "killed while busy"])
def test_no_worker_outlives_its_parent(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", PARENT, how], capture_output=True, text=True, timeout=120)
    pids = [int(p) for p in done.stdout.split()]
    assert pids
    assert done.stderr == ""
    assert wait_until_gone(pids, 0.5 if how == "ends" else 8.0)
