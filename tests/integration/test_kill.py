"""SIGKILL at random instants, and an exit at every file operation, of a process that trains and saves.

One server process imports torch once and forks a worker for each life, so a life costs milliseconds.
A worker resumes, acknowledges each save through a pipe, and dies at an instant it does not choose.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from contextlib import contextmanager

import torch

from truing.train.checkpoint import load_latest, verify

LIVES = 50  # at least; on a busy machine more, until some saves were made and one was hit
SIZE = 100_000  # floats of one tensor; a checkpoint holds three

SERVER = """
import os, sys, warnings
import torch
torch.set_num_threads(1)
from pathlib import Path
from truing.train import checkpoint

folder, size = Path(sys.argv[1]), int(sys.argv[2])

def advance(state, step):
    noise = torch.rand(size, generator=torch.Generator().manual_seed(step))
    return {"w": state["w"] * 0.5 + noise, "m": noise, "v": state["v"] + step}

def die_at(operation):
    left = [operation]
    def counted(call):
        def wrapper(*args, **kwargs):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return call(*args, **kwargs)
        return wrapper
    for name in ("rename", "fsync", "open", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    checkpoint.save_file = counted(checkpoint.save_file)
    checkpoint.shutil.rmtree = counted(checkpoint.shutil.rmtree)

def live(operation, acknowledge):
    found = checkpoint.load_latest(folder)
    step = found.step if found else 0
    state = found.tensors if found else {n: torch.zeros(size) for n in "wmv"}
    if operation >= 0:
        die_at(operation)
    while True:
        step += 1
        state = advance(state, step)
        checkpoint.save(folder, step, state, {"step": step}, keep=2)
        os.write(acknowledge, b"%d\\n" % step)

print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        live(int(line), 1)
    os.write(1, b"pid %d\\n" % pid)
    os.waitpid(pid, 0)
    os.write(1, b"dead\\n")
"""


class Server:
    """Starts lives and kills them; `acknowledged` is the last step a worker said was saved."""

    def __init__(self, folder, size):
        command = [sys.executable, "-c", SERVER, str(folder), str(size)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=env
        )
        self.acknowledged, self._buffer = 0, b""
        assert self._line(60) == "ready"

    def life(self, delay_s=None, operation=-1):
        """Run one worker until it is killed after `delay_s`, or exits at that operation; return its saves."""
        self.process.stdin.write(b"%d\n" % operation)
        pid, saves = None, 0
        kill_at = None if delay_s is None else time.monotonic() + delay_s
        while True:
            if kill_at is not None and pid is not None and time.monotonic() >= kill_at:
                os.kill(pid, 9)
                kill_at = None
            line = self._line(30 if kill_at is None or pid is None else max(kill_at - time.monotonic(), 0))
            if line == "dead":
                return saves
            if line.startswith("pid"):
                pid = int(line.split()[1])
            elif line:
                self.acknowledged, saves = int(line), saves + 1

    def _line(self, timeout_s):
        while b"\n" not in self._buffer:
            if not select.select([self.process.stdout], [], [], timeout_s)[0]:
                return ""
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, "the server died"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


@contextmanager
def serving(folder, size):
    server = Server(folder, size)
    try:
        yield server
    finally:
        server.process.stdin.close()
        server.process.wait(30)
        server.process.stdout.close()


class Expected:
    """The uninterrupted run, replayed as far as it is asked for."""

    def __init__(self, size):
        self.step, self.w, self.v = 0, torch.zeros(size), torch.zeros(size)
        self.m = self.v

    def check(self, found):
        assert found.state == {"step": found.step}
        while self.step < found.step:
            self.step += 1
            self.m = torch.rand(len(self.w), generator=torch.Generator().manual_seed(self.step))
            self.w, self.v = self.w * 0.5 + self.m, self.v + self.step
        for name in "wmv":
            assert torch.equal(found.tensors[name], getattr(self, name)), f"{name} at step {found.step}"


def check_after_death(folder, server, expected, before):
    for path in folder.glob("step_*"):
        verify(path)  # the older ones too: none is half written or half removed under its name
    found = load_latest(folder)
    if found is None:
        assert server.acknowledged == 0
        return 0
    assert found.skipped == (), "a checkpoint was visible before it was whole"
    assert found.step >= before, "a later state was lost"
    assert found.step in (server.acknowledged, server.acknowledged + 1), "an acknowledged save was lost"
    expected.check(found)
    server.acknowledged = found.step  # the next life goes on from here
    return found.step


def test_peer_21_sigkill_at_random_instants_never_loses_a_saved_step(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    draw, expected, at, unfinished, start = random.Random(seed), Expected(SIZE), 0, 0, time.monotonic()
    with serving(tmp_path, SIZE) as server:
        for life in range(8 * LIVES):
            if life >= LIVES and at >= 5 and unfinished:
                break
            server.life(delay_s=draw.uniform(0.0, 0.25))
            at = check_after_death(tmp_path, server, expected, at)
            unfinished += any(tmp_path.glob(".partial_*"))
    assert at >= 5, f"only {at} steps in {time.monotonic() - start:.0f} s: the kills hit nothing, seed {seed}"
    assert unfinished >= 1, f"no kill fell into a save, seed {seed}"


def test_peer_21_death_at_every_file_operation_of_a_save(tmp_path):
    with serving(tmp_path, 100) as server:
        expected, at, operation, saves = Expected(100), 0, 0, 0
        while saves < 2:  # each life gets one operation further: through a first save, then a rotating one
            saves = server.life(operation=operation)
            at = check_after_death(tmp_path, server, expected, at)
            operation += 1
    assert operation > 15
