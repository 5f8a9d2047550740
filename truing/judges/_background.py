"""One event loop in a thread of its own, so that code which is not async can ask many at once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a fork inherits no threads


def loop() -> asyncio.AbstractEventLoop:
    """Return this process's background loop; the first call starts it."""
    with _lock:
        found = _loops.get(os.getpid())
        if found is None:
            found = asyncio.new_event_loop()
            _loops[os.getpid()] = found
            threading.Thread(target=found.run_forever, name="truing-judges", daemon=True).start()
        return found


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, run on the background loop; the calling thread waits.

    Raises:
        RuntimeError: the caller is on that loop itself, and would wait for ever.
    """
    home = loop()
    if _running() is home:
        work.close()
        raise RuntimeError("a judge's synchronous call was made on the judges' own loop: await it instead")
    future = asyncio.run_coroutine_threadsafe(work, home)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


async def on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, run on the background loop whichever loop awaits it."""
    home = loop()
    if _running() is home:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, home))


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
