"""A running server: until it is interrupted, or for as long as a `with` block lasts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from truing.errors import ConfigError
from truing.serve.address import check_address
from truing.serve.app import create_app
from truing.serve.engine import Engine

TOKEN_VARIABLE = "TRUING_SERVE_TOKEN"
_START_S = 30.0


def serve(engine: Engine, *, host: str, port: int, token: str | None, ready: Callable[[str], None]) -> None:
    """Answer requests until interrupted.

    Args:
        engine: what answers; it is closed at the end.
        host: a loopback address, or any other with a token.
        port: 0 takes a free one.
        token: what requests must bear.
        ready: told the URL of the API once it listens.

    Raises:
        ConfigError: the address is open to others without a token, or cannot be listened on.
    """
    try:
        with _listening(host, port, token) as listener:
            ready(_url(host, listener))
            _server(engine, token).run(sockets=[listener])
    finally:
        engine.close()


@contextmanager
def serving(
    engine: Engine, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> Iterator[str]:
    """Answer requests in a thread while the block runs; gives the URL of the API."""
    with _listening(host, port, token) as listener:
        server = _server(engine, token)
        thread = threading.Thread(target=server.run, args=([listener],), name="truing-serve", daemon=True)
        thread.start()
        try:
            _wait(server, thread)
            yield _url(host, listener)
        finally:
            server.should_exit = True
            thread.join()
            engine.close()


@contextmanager
def _listening(host: str, port: int, token: str | None) -> Iterator[socket.socket]:
    check_address(host, token, variable=TOKEN_VARIABLE)
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    with listener:
        yield listener


def _server(engine: Engine, token: str | None) -> uvicorn.Server:
    app = create_app(engine, token=token)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_S
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise ConfigError(f"the server did not start within {_START_S:g} s")
        time.sleep(0.01)


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
