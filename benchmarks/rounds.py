"""Runs one work through both sides, a step of each in turn, and turns the replies into figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.work import Dimensions, Floor, Work, floor, median, works

TOLERANCE = 1e-3  # relative, of losses and gradient norms in float32
# What `import truing` sets for itself: TRL gets it too, so that no side waits longer at a barrier
# when another program is busy.
_SPIN = "10000"


class Worker:
    """A process of one side that makes a step when told to.

    Attributes:
        counted: what the first step reported: its FLOPs, loss and gradient norm, before any update.
        steps: what the others did; None where the worker was not there yet.
    """

    def __init__(self, side: str, work: str, dtype: str, variant: str, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", side, work, dtype, variant]
        environment = {"GOMP_SPINCOUNT": _SPIN, **os.environ}
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.side, self.variant = side, variant
        self.counted: dict[str, Any] = {}
        self.steps: list[dict[str, Any] | None] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.hello = self._reply()

    def do(self, what: str) -> dict[str, Any]:
        """Send "step", "count" or "stop" and return the reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what}) + "\n")
        self._process.stdin.flush()
        return self._reply() if what != "stop" else {}

    def close(self) -> None:
        """Let the process end."""
        if self._process.poll() is None:
            self.do("stop")
        self._process.wait()
        self._errors.close()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            tail = self._errors.read()[-3000:]
            raise RuntimeError(f"the {self.side} {self.variant} worker ended early:\n{tail}")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass(frozen=True, slots=True)
class Result:
    """One work in one dtype: what each worker reported, the machine's matmul rates, and the floor."""

    work: Work
    dtype: str
    model: Dimensions
    ours: Worker
    peers: dict[str, Worker] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    @property
    def floor(self) -> Floor:
        """The least work of it."""
        return floor(self.work, self.model)

    def seconds(self, worker: Worker) -> float:
        """Return the median time of a step."""
        return median([step["seconds"] for step in worker.steps if step])

    def cpu_seconds(self, worker: Worker) -> float:
        """Return the median processor time of a step, which other programs disturb less than its time."""
        return median([step["cpu_seconds"] for step in worker.steps if step])

    def peak_bytes(self, worker: Worker) -> float:
        """Return the most memory that a step reached, of the whole process."""
        return max(step["peak_bytes"] for step in worker.steps if step)

    def step_bytes(self, worker: Worker) -> float:
        """Return the most memory that a step reached over what the process held before it."""
        return max(step["peak_bytes"] - step["rest_bytes"] for step in worker.steps if step)

    def speedup(self, variant: str) -> float:
        """Return TRL's time over ours: the median over the rounds in which both made a step."""
        pairs = zip(self.peers[variant].steps, self.ours.steps, strict=False)
        return median([theirs["seconds"] / ours["seconds"] for theirs, ours in pairs if theirs and ours])

    def fraction_of_floor(self, worker: Worker) -> float:
        """Return the floor's time at the measured matmul rate over the time taken."""
        return self.floor.flops / median(self.rates) / self.seconds(worker)

    def disagreements(self) -> list[str]:
        """Return what differs between the sides before the first update; only float32 is held to it."""
        if self.dtype != "float32" or self.work.kind in {"iteration", "sampling"}:
            return []
        ours, found = self.ours.counted, []
        for name, peer in self.peers.items():
            for key in ("loss", "grad_norm"):
                gap = abs(ours[key] - peer.counted[key]) / max(abs(peer.counted[key]), 1e-2)
                if gap > TOLERANCE:
                    values = f"{ours[key]:.6g} against {peer.counted[key]:.6g}"
                    found.append(f"{self.work.name}, TRL {name}: {key} {values}")
        return found


def measure(
    work: Work, dtype: str, *, peers: tuple[str, ...], num_rounds: int, num_default_rounds: int, threads: int
) -> Result:
    """Count one step of each side, then time rounds of one step each; the order turns every round.

    Args:
        peers: variants of TRL, one after the other; "default" takes part in `num_default_rounds` rounds.
        threads: of each worker; the others wait while one works.

    Raises:
        RuntimeError: a worker ended early; the message holds the end of what it wrote.
    """
    with (
        _worker("machine", work, dtype, "", threads) as machine,
        _worker("truing", work, dtype, "", threads) as ours,
    ):
        result = Result(work, dtype, Dimensions(**ours.hello["dimensions"]), ours)
        ours.counted = ours.do("count")
        for variant in peers:  # one at a time: together they would need twice the memory
            with _worker("trl", work, dtype, variant, threads) as peer:
                peer.counted = peer.do("count")
                peer.steps = [None] * len(ours.steps)
                for turn in range(num_default_rounds if variant == "default" else num_rounds):
                    result.rates.append(machine.do("step")["rate"])
                    for worker in (ours, peer) if turn % 2 == 0 else (peer, ours):
                        worker.steps.append(worker.do("step"))
            result.peers[variant] = peer
    return result


@dataclass(frozen=True, slots=True)
class Growth:
    """Truing's training step at group size 8 and 32 [s], a pair a round."""

    dtype: str
    small: list[float]
    large: list[float]
    floor_ratio: float  # of the FLOPs

    @property
    def ratio(self) -> float:
        """Return the time of the large group over that of the small one."""
        return median([b / a for a, b in zip(self.small, self.large, strict=True)])


def measure_growth(dtype: str, *, num_rounds: int, threads: int) -> Growth:
    """Time rounds of one step of each group size, after one that is not timed."""
    small, large = works()["long8"], works()["long32"]
    with (
        _worker("truing", small, dtype, "", threads) as few,
        _worker("truing", large, dtype, "", threads) as many,
    ):
        for worker in (few, many):
            worker.do("step")
        times = [(few.do("step")["seconds"], many.do("step")["seconds"]) for _ in range(num_rounds)]
        model = Dimensions(**few.hello["dimensions"])
    ratio = floor(large, model).flops / floor(small, model).flops
    return Growth(dtype, [a for a, _ in times], [b for _, b in times], ratio)


@contextmanager
def _worker(side: str, work: Work, dtype: str, variant: str, threads: int) -> Iterator[Worker]:
    worker = Worker(side, work.name, dtype, variant, threads)
    try:
        yield worker
    finally:
        worker.close()
