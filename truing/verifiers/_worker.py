"""Comparisons of untrusted text in killable processes: a pathological sample costs at most its deadline.

A thread cannot be stopped, and `signal.alarm` works only in the main thread, so each slot has one
persistent child process (`_grader.py`). The parent keeps the clock: a child that is late is killed,
and the next request starts another. A pool serves any number of threads.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from truing.errors import VerifierError
from truing.types import Verdict

STARTUP_DEADLINE_S = 120.0
MAX_SLOTS = 8
_GRADER = Path(__file__).with_name("_grader.py")


class Worker:
    """One child process, for one thread at a time."""

    def __init__(self, task: str, *, startup_deadline_s: float = STARTUP_DEADLINE_S) -> None:
        """Start the child and wait until its libraries are loaded.

        Raises:
            VerifierError: it did not start in time; the message ends with what it wrote to stderr.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_GRADER), task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._task, self._unread = task, b""
        problem = "was killed while it started"
        try:
            self._read_line(startup_deadline_s)
            problem = ""
        except TimeoutError:
            problem = f"was not ready in {startup_deadline_s} s"
        except EOFError as error:
            problem = str(error)
        finally:  # also when the wait is interrupted
            if problem:
                said = self._last_words()
                self.kill()
        if problem:
            raise VerifierError(f"the {task} worker {problem}; it said: {said or 'nothing'}")

    @property
    def pid(self) -> int:
        """Return the child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the child can take a request."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], deadline_s: float) -> Verdict:
        """Return the child's verdict; "timed_out" or "failed" when it gave none, and it is then killed."""
        line = json.dumps(request | {"task": self._task, "deadline_s": deadline_s}).encode() + b"\n"
        answered = False
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()
            reply = json.loads(self._read_line(deadline_s))
            answered = True
            return Verdict(reply["status"], reply["value"], reply["evidence"])
        except TimeoutError:
            return Verdict("timed_out", evidence=f"no verdict in {deadline_s} s; the worker was killed")
        except (EOFError, BrokenPipeError) as error:
            return Verdict("failed", evidence=f"the worker died: {error}")
        finally:
            if not answered:  # also when the wait is interrupted: a late reply must not answer the next
                self.kill()

    def kill(self) -> None:
        """End the child now, reap it and close its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except BrokenPipeError:  # an unsent request of a dead child
            return

    def _read_line(self, deadline_s: float) -> bytes:
        """Return the child's next line.

        Raises:
            TimeoutError: the clock ran out.
            EOFError: the child ended.
        """
        assert self._process.stdout is not None
        end = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise EOFError(f"ended with exit status {self._process.wait()}")
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-500:].decode(errors="replace").strip()


class Pool:
    """Up to `slots` workers of one task, started when they are needed and kept."""

    def __init__(self, task: str, slots: int) -> None:
        """Start nothing yet."""
        self.task, self.slots = task, slots
        self._lock = threading.Lock()
        self._room = threading.Semaphore(slots)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    def ask(self, request: dict[str, Any], deadline_s: float) -> Verdict:
        """Return the verdict of a free worker; waits for one, and starts one where there is room."""
        with self._room:
            worker = self._take()
            try:
                return worker.ask(request, deadline_s)
            finally:
                self._give(worker)

    def close(self) -> None:
        """Kill every worker."""
        with self._lock:
            workers, self._idle, self._all = self._all, [], set()
        for worker in workers:
            worker.kill()

    def pids(self) -> list[int]:
        """Return the process ids of the workers that are running."""
        with self._lock:
            return [w.pid for w in self._all if w.alive]

    def _take(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.kill()  # it died while idle: reaps it
                self._all.discard(worker)
        worker = Worker(self.task)
        with self._lock:
            self._all.add(worker)
        return worker

    def _give(self, worker: Worker) -> None:
        with self._lock:
            if worker.alive and worker in self._all:
                self._idle.append(worker)
            else:
                self._all.discard(worker)


_pools: dict[str, Pool] = {}
_pools_lock = threading.Lock()


def pool(task: str) -> Pool:
    """Return this process's pool for "math" or "regex"."""
    with _pools_lock:
        if task not in _pools:
            _pools[task] = Pool(task, min(os.cpu_count() or 1, MAX_SLOTS))
        return _pools[task]


def close_pools() -> None:
    """Kill every worker of this process; runs at exit."""
    with _pools_lock:
        pools = list(_pools.values())
        _pools.clear()
    for each in pools:
        each.close()


def _after_fork() -> None:
    """A forked child shares no worker with its parent: it forgets them and makes its own."""
    global _pools, _pools_lock
    _pools, _pools_lock = {}, threading.Lock()


atexit.register(close_pools)
os.register_at_fork(after_in_child=_after_fork)
