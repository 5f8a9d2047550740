"""What runs inside the sandbox: it loads untrusted code, calls it, and writes what it returned.

Whatever stands here can be read and changed by the code it loads. That gains nothing: the process
holds no expected value and no verdict, and the other side believes only values. Started as
`python -I child.py REQUESTS REPLIES LIMITS` with two file descriptors and the limits as JSON.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import struct
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire


def main() -> None:
    """Set the limits, say hello, then serve requests until the other side closes."""
    requests, replies, limits = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    server = _Server(requests, replies)
    server.send({"hello": True})
    while True:
        request = server.receive()
        if request is None:
            return
        server.send(server.answer(request))


class _Server:
    """One namespace of untrusted code, and the two pipes."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._namespace: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        data = struct.pack(">I", len(data)) + data
        while data:
            data = data[os.write(self._replies, data) :]

    def receive(self) -> dict[str, Any] | None:
        header = self._read(4)
        if header is None:
            return None
        body = self._read(struct.unpack(">I", header)[0])
        return None if body is None else json.loads(body)

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            chunk = os.read(self._requests, size - len(data))
            if not chunk:
                return None
            data += chunk
        return data

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a request, with its number; an exception of the code is a reply too."""
        number = request["number"]
        try:
            return {"number": number, "value": wire.dumps(self._do(request))}
        except BaseException as error:  # SystemExit too: what the code raises is its answer
            return {"number": number, "error": _describe(error)}

    def _do(self, request: dict[str, Any]) -> Any:
        if request["do"] == "load":
            self._namespace = {"__name__": "submission", "__builtins__": builtins}
            exec(compile(request["source"], "submission.py", "exec"), self._namespace)
            return None
        if request["do"] == "call":
            function = self._namespace[request["name"]]
            arguments, named = wire.loads(request["arguments"])
            return function(*arguments, **named)
        return self._check(request)

    def _check(self, request: dict[str, Any]) -> None:
        """Run a test's function on a stand-in that asks the other side for each value."""
        number = request["number"]

        def candidate(*arguments: Any, **named: Any) -> Any:
            self.send({"number": number, "ask": wire.dumps((list(arguments), named))})
            reply = self.receive()
            if reply is None:
                os._exit(3)
            if "error" in reply:
                kind = getattr(builtins, reply["error"][0], None)
                known = isinstance(kind, type) and issubclass(kind, Exception)
                raise (kind if known else RuntimeError)(reply["error"][1])
            return wire.loads(reply["value"])

        self._namespace = {"__name__": "tests", "__builtins__": builtins}
        exec(compile(request["setup"], "setup.py", "exec"), self._namespace)
        self._namespace |= {request["name"]: candidate, "candidate": candidate}
        exec(compile(request["source"], "tests.py", "exec"), self._namespace)
        check = self._namespace.get("check")
        if callable(check):
            check(candidate)


def _describe(error: BaseException) -> list[str]:
    try:
        return [type(error).__name__[:60], str(error)[:200]]
    except BaseException:  # a __str__ that raises is part of the untrusted code
        return ["Exception", "its text cannot be read"]


if __name__ == "__main__":
    main()
