"""A scripted endpoint on loopback that speaks OpenAI's protocol, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from truing.judges.client import Client, judge_from


@dataclass
class Endpoint:
    """What the server says, and what it was asked.

    Args:
        answer: text, a number (an HTTP status), bytes (a broken body), a dict (a whole choice), a float
            (seconds to hang before "late"), or a function from the request to one of those.
        script: answers that come before `answer`, one a request.
    """

    url: str = ""
    answer: Any = "<verdict>A</verdict>"
    script: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    retry_after: str | None = None
    delay_s: float = 0.0
    busy: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def choice(text: str | None, **extra: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **extra}


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.requests.append(request)
                endpoint.headers.append(dict(self.headers))
                said = endpoint.script.pop(0) if endpoint.script else endpoint.answer
                endpoint.busy += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint.busy)
            time.sleep(endpoint.delay_s)
            said = said(request) if callable(said) else said
            if isinstance(said, float):
                time.sleep(said)
                said = "late"
            with endpoint.lock:
                endpoint.busy -= 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has given up
                self._reply(said)

        def _reply(self, said: Any) -> None:
            status = said if isinstance(said, int) else 200
            if isinstance(said, bytes):
                body = said
            elif isinstance(said, int):
                body = json.dumps({"error": {"message": f"scripted {said}", "type": "scripted"}}).encode()
            else:
                chosen = choice(said) if isinstance(said, str) else said
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                record = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
                body = json.dumps({**record, "choices": [chosen], "usage": usage}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if endpoint.retry_after is not None:
                self.send_header("Retry-After", endpoint.retry_after)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    monkeypatch.setattr("truing.judges._retry._FIRST_S", 0.01)
    made = list[Client]()

    def make(**options: Any) -> Client:
        made.append(judge_from({"model": "m", "url": endpoint.url, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()
