"""One sandboxed process: started, asked under a deadline, and gone afterwards without a trace."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from truing.errors import SandboxError
from truing.sandbox.limits import Limits, command, find_bwrap, find_python

START_DEADLINE_S = 20.0
_WATCH_S = 0.1  # how often the memory of the whole sandbox is looked at
_PROGRAMS = tuple(Path(__file__).with_name(name) for name in ("child.py", "wire.py"))
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


class SubmissionError(Exception):
    """The untrusted code did something that ends its evaluation; the text says what."""


class Process:
    """A child in a sandbox of its own. Whatever happens after it says hello is the untrusted code's doing."""

    def __init__(self, limits: Limits, uid: int | None) -> None:
        """Start the child and wait for its hello.

        Raises:
            SandboxError: the sandbox itself does not start; the message has what it said.
        """
        self.limits = limits
        self._fds, self._pid, self._unread = list[int](), 0, b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        self._popen: subprocess.Popen[bytes] | None = None
        started = False
        try:
            self._start(uid)
            started = True
        finally:
            if not started:  # also when the wait is interrupted
                self.kill()
        self._end = time.monotonic() + limits.total_s

    def _start(self, uid: int | None) -> None:
        theirs = list[int]()
        try:
            requests, self._requests = self._pipe(theirs, read=True)
            replies, self._replies = self._pipe(theirs, read=False)
            status, self._status = self._pipe(theirs, read=False)
            programs = {path.name: _text_fd(path, theirs) for path in _PROGRAMS}
            argv = command(
                self.limits, uid=uid, bwrap=find_bwrap(), python=find_python(), status_fd=status,
                requests_fd=requests, replies_fd=replies, programs=programs,
                rlimits=json.dumps(self.limits.rlimits()),
            )  # fmt: skip
            self._popen = subprocess.Popen(
                argv,
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
            )
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self._requests, False)
        try:
            hello = self._read_frame(time.monotonic() + START_DEADLINE_S)
        except SubmissionError as error:
            raise SandboxError(f"the sandbox did not start ({error}); it said: {self._said()}") from None
        if hello != {"hello": True}:
            raise SandboxError(f"the sandbox began with {hello!r:.80}")

    def _pipe(self, theirs: list[int], *, read: bool) -> tuple[int, int]:
        """Return (the child's end, ours) of a new pipe; `read` is about the child's end."""
        reader, writer = os.pipe()
        child, own = (reader, writer) if read else (writer, reader)
        theirs.append(child)
        self._fds.append(own)
        return child, own

    def send(self, message: dict[str, Any]) -> None:
        """Send a request.

        Raises:
            SubmissionError: it spoke before it was asked, ended, or does not read.
        """
        if self._unread or select.select([self._replies], [], [], 0)[0]:
            raise SubmissionError(
                "it ended" if not self._peek() else "it wrote a reply that nobody asked for"
            )
        data = json.dumps(message).encode()
        data, end = struct.pack(">I", len(data)) + data, self._deadline()
        while data:
            left = end - time.monotonic()
            if left <= 0 or not select.select([], [self._requests], [], left)[1]:
                raise SubmissionError("it does not read what it is asked")
            try:
                data = data[os.write(self._requests, data) :]
            except BrokenPipeError:
                raise SubmissionError("it ended") from None

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            SubmissionError: none came in time, it ended, or what came is no message.
        """
        message = self._read_frame(self._deadline())
        if not isinstance(message, dict):
            raise SubmissionError("its reply is no message")
        return message

    def _deadline(self) -> float:
        return min(time.monotonic() + self.limits.call_s, self._end)

    def _peek(self) -> bytes:
        if not self._unread:
            self._unread = os.read(self._replies, 1)
        return self._unread

    def _read_frame(self, end: float) -> Any:
        size = struct.unpack(">I", self._read(4, end))[0]
        if size > self.limits.reply_bytes:
            raise SubmissionError(f"its reply has {size} bytes, more than {self.limits.reply_bytes}")
        try:
            return json.loads(self._read(size, end))
        except (ValueError, RecursionError):
            raise SubmissionError("its reply is no message") from None

    def _read(self, size: int, end: float) -> bytes:
        data, self._unread = self._unread, b""
        while len(data) < size:
            left = end - time.monotonic()
            if left <= 0:
                raise SubmissionError("it took too long")
            if not select.select([self._replies], [], [], min(left, _WATCH_S))[0]:
                self._watch_memory()
                continue
            chunk = os.read(self._replies, min(size - len(data), 1 << 16))
            if not chunk:
                raise SubmissionError("it ended without an answer")
            data += chunk
        return data

    def _watch_memory(self) -> None:
        used = _tree_mb(self.child_pid())
        if used > self.limits.memory_mb:
            raise SubmissionError(f"its processes hold {used:.0f} MiB, more than {self.limits.memory_mb}")

    def child_pid(self) -> int:
        """Return the process id of the sandbox's first process; 0 when it never had one."""
        if not self._pid and select.select([self._status], [], [], 0)[0]:
            text = os.read(self._status, 4096).split(b"\n")[0]
            self._pid = int(json.loads(text)["child-pid"]) if text else 0
        return self._pid

    def kill(self) -> None:
        """End everything inside, reap it, close the pipes.

        The sandbox's first process is killed, and the kernel then kills the rest; killing bubblewrap
        instead would leave the first process to somebody else's reaping.
        """
        if self._popen is not None:
            pid = self.child_pid() if self._popen.poll() is None else 0
            if pid:
                _end(pid)
            try:
                self._popen.wait(2.0 if pid else 0.05)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._stderr.close()

    def _said(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-500:].decode(errors="replace").strip() or "nothing"


def _text_fd(path: Path, theirs: list[int]) -> int:
    """Return a descriptor from which a file's text is read; the child's user may not see the file itself."""
    fd = os.memfd_create(path.name)
    theirs.append(fd)
    os.write(fd, path.read_bytes())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _tree_mb(root: int) -> float:
    """Return the resident memory of a process and its descendants [MiB]."""
    if not root:
        return 0.0
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(name)):
            children.setdefault(parent, []).append(int(name))
    found, queue = 0.0, [root]
    while queue:
        pid = queue.pop()
        queue += children.get(pid, [])
        found += _resident_mb(pid)
    return found


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended while we looked


def _resident_mb(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * _PAGE_MB
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
