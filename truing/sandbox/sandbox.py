"""Slots for untrusted code: each has a user of its own, and at most `slots` run at one time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from truing.errors import SandboxError
from truing.sandbox import wire
from truing.sandbox.limits import Limits
from truing.sandbox.process import Process, SubmissionError

_FIRST_UID, _UIDS = 61_000, 4_000  # above the users and system accounts of the usual distributions


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception that untrusted code raised, by the name of its type."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" if self.text else self.kind


class Submission:
    """Untrusted code that was loaded in a process of its own."""

    def __init__(self, process: Process) -> None:
        """Talk to this process."""
        self._process, self._number = process, 0

    def load(self, source: str) -> Raised | None:
        """Run the code as a module; return what it raised.

        Raises:
            SubmissionError: it ended, hung, spoke unasked or broke a limit.
        """
        found = self._ask({"do": "load", "source": source})
        return found if isinstance(found, Raised) else None

    def call(self, name: str, arguments: Sequence[Any], named: Mapping[str, Any] | None = None) -> Any:
        """Return the value of a call, or `Raised`.

        Raises:
            SubmissionError: it ended, hung, spoke unasked, broke a limit, or its value is of no
                exact built-in type.
        """
        sent = wire.dumps((list(arguments), dict(named or {})))
        return self._ask({"do": "call", "name": name, "arguments": sent})

    def check(
        self, source: str, name: str, candidate: Submission, *, setup: str = ""
    ) -> tuple[Raised | None, int]:
        """Run a test's code here, with `candidate`'s function as `name`.

        Args:
            source: asserts, or a function `check(candidate)` with asserts in it.
            name: of the function that is tested.
            candidate: where it lives.
            setup: code that the test's own code needs before.

        Returns:
            What the test raised, and how often it called the candidate.

        Raises:
            SubmissionError: the candidate or the test ended, hung or broke a limit.
        """
        self._send({"do": "check", "source": source, "name": name, "setup": setup})
        calls = 0
        while "ask" in (reply := self._receive()):
            calls += 1
            arguments, named = _value(reply["ask"])
            found = candidate.call(name, arguments, named)
            if isinstance(found, Raised):
                self._process.send({"error": [found.kind, found.text]})
            else:
                self._process.send({"value": wire.dumps(found)})
        found = _answer(reply)
        return (found if isinstance(found, Raised) else None), calls

    def _ask(self, request: dict[str, Any]) -> Any:
        self._send(request)
        return _answer(self._receive())

    def _send(self, request: dict[str, Any]) -> None:
        self._number += 1
        self._process.send({"number": self._number, **request})

    def _receive(self) -> dict[str, Any]:
        reply = self._process.receive()
        if reply.get("number") != self._number:
            raise SubmissionError("it answered what it was not asked")
        return reply


def _answer(reply: dict[str, Any]) -> Any:
    error = reply.get("error")
    if error is not None:
        if not isinstance(error, list) or len(error) != 2 or not all(isinstance(e, str) for e in error):
            raise SubmissionError("its reply is no message")
        return Raised(error[0][:60], error[1][:200])
    return _value(reply.get("value"))


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        raise SubmissionError("its reply is no message")
    try:
        return wire.loads(text)
    except wire.WireError as error:
        raise SubmissionError(f"its value is {error}") from None


class Sandbox:
    """Up to `slots` sandboxed processes at a time, from any number of threads."""

    def __init__(self, limits: Limits | None = None, *, slots: int | None = None) -> None:
        """Start nothing yet; `slots` is twice the processors, at least 4, when left out."""
        self.limits = limits or Limits()
        self.slots = slots or max(4, 2 * (os.cpu_count() or 1))
        self._free = list(range(self.slots))
        self._changed = threading.Condition()

    @contextmanager
    def submission(self, limits: Limits | None = None) -> Iterator[Submission]:
        """Yield an empty submission in a fresh process, which is gone afterwards.

        Raises:
            SandboxError: no sandbox can be started on this machine; nothing untrusted has run.
        """
        with self.submissions(1, limits) as (one,):
            yield one

    @contextmanager
    def submissions(self, count: int, limits: Limits | None = None) -> Iterator[list[Submission]]:
        """Yield several at once. Who needs two asks for both together, or two such could wait for ever.

        Raises:
            SandboxError: there are fewer slots, or no sandbox can be started on this machine.
        """
        if count > self.slots:
            raise SandboxError(f"{count} sandboxes are asked for at once, and there are {self.slots} slots")
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            taken = [self._free.pop() for _ in range(count)]
        processes = list[Process]()
        try:
            for slot in taken:
                processes.append(Process(limits or self.limits, _uid(slot)))
            yield [Submission(process) for process in processes]
        finally:
            for process in processes:
                process.kill()
            with self._changed:
                self._free += taken
                self._changed.notify_all()

    def probe(self) -> None:
        """Show that code runs here and is confined: no network, no writing, no other user's files.

        Raises:
            SandboxError: it does not, or is not; the message says what to install or to allow.
        """
        with self.submission() as code:
            raised = code.load(_PROBE)
            found = raised or code.call("probe", ())
        if found != []:
            raise SandboxError(f"the sandbox of this machine does not confine: {found}")


_shared: list[Sandbox] = []
_shared_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """Return this process's sandbox; the first call shows that it confines.

    Raises:
        SandboxError: it does not, or cannot be started.
    """
    with _shared_lock:
        if not _shared:
            made = Sandbox()
            made.probe()
            _shared.append(made)
        return _shared[0]


def _uid(slot: int) -> int | None:
    """Return the slot's own user, where this process may choose one."""
    if os.geteuid() != 0:
        return None
    return _FIRST_UID + (os.getpid() * 16 + slot) % _UIDS


_PROBE = """
import os, resource, socket

def probe():
    found = []
    for path in ("/tmp/../file", "/usr/file", "/dev/file", "/sandbox/file"):
        try:
            open(path, "w").close()
            found.append("writes " + path)
        except OSError:
            pass
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=0.2)
        found.append("has a network")
    except OSError as error:
        pass
    names = [name for _, name in socket.if_nameindex()]
    if names not in (["lo"], []):
        found.append("has network interfaces " + str(names))
    if len([p for p in os.listdir("/proc") if p.isdigit()]) > 4:
        found.append("sees other processes")
    if resource.getrlimit(resource.RLIMIT_NPROC)[1] > 4096:
        found.append("has no limit of processes")
    return found
"""
