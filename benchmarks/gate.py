"""A worker's side of the protocol: one JSON line a command, one a reply, one step at a time."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import psutil
import torch

from benchmarks.counting import Counter
from benchmarks.work import Dimensions


class Stop(Exception):
    """The coordinator wants no more steps."""


class Gate:
    """Between the coordinator and whoever loops: `wait` before a step, `done` after it.

    Commands: {"do": "step"}, {"do": "count"} (a step whose matrix products are counted, untimed) and
    {"do": "stop"}. Libraries may print; the replies go through a copy of standard output that only
    the gate knows.
    """

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._process = psutil.Process()
        self._counter: Counter | None = None
        self._model: Dimensions | None = None
        self._started = self._cpu = 0.0
        self._rest = 0

    def ready(self, model: Dimensions) -> None:
        """Say that everything is loaded."""
        self._model = model
        self._reply({"dimensions": asdict(model), "versions": _versions()})

    def wait(self) -> None:
        """Block until the next step is wanted, then start its clock.

        Raises:
            Stop: there is none.
        """
        command = json.loads(sys.stdin.readline() or '{"do": "stop"}')["do"]
        if command == "stop":
            raise Stop
        self._rest = self._process.memory_info().rss
        _reset_peak()
        if command == "count":
            assert self._model is not None
            self._counter = Counter(self._model)
            self._counter.__enter__()
        self._cpu = sum(self._process.cpu_times()[:2])
        self._started = time.perf_counter()

    def done(self, **facts: Any) -> None:
        """Stop the clock and report the step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        facts["seconds"] = time.perf_counter() - self._started
        facts["cpu_seconds"] = sum(self._process.cpu_times()[:2]) - self._cpu
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            facts["flops"] = dict(self._counter.flops)
            self._counter = None
        facts["peak_bytes"], facts["rest_bytes"] = _peak(), self._rest
        self._reply(facts)

    def _reply(self, facts: dict[str, Any]) -> None:
        self._replies.write(json.dumps(facts) + "\n")
        self._replies.flush()


def _reset_peak() -> None:
    """Set the kernel's high-water mark of resident memory back to what is resident now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int:
    """Return the high-water mark since the last reset: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "trl", "truing")}
