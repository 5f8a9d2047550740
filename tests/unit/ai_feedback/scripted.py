"""A scripted judge behind real HTTP: it says what a function of the conversation's last turn tells it to."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[dict[str, Any]], "str | dict[str, float] | int"]


@dataclass
class Scripted:
    """Its address, and every request that it got."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    """Answer with a text, with label probabilities (a dict), or with an HTTP status (an int)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            said = script(body)
            if isinstance(said, int):
                self._send(said, {"error": {"message": "scripted", "type": "x", "param": None, "code": None}})
                return
            self._send(200, _completion(body, said))

        def _send(self, status: int, record: dict[str, Any]) -> None:
            raw = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = Scripted(f"http://127.0.0.1:{listener.server_address[1]}/v1")
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _completion(body: dict[str, Any], said: str | dict[str, float]) -> dict[str, Any]:
    text, logprobs = said if isinstance(said, str) else max(said, key=lambda t: said[t]), None
    if isinstance(said, dict):
        top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in said.items()]
        top.sort(key=lambda t: -t["logprob"])
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "logprobs": logprobs,
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def replies(body: dict[str, Any]) -> tuple[str, str]:
    """Return replies A and B as the judge was shown them."""
    shown = body["messages"][0]["content"]
    parts = shown.split("[reply ")[1:]
    return tuple(p.split("]\n", 1)[1].split("\n[end of reply", 1)[0] for p in parts[:2])  # type: ignore[return-value]
