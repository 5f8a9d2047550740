"""Trying again: exponential waits with jitter, the server's own Retry-After, and a deadline over all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from truing.errors import JudgeError

T = TypeVar("T")

_FIRST_S, _LONGEST_S = 0.5, 30.0
_jitter = random.Random()  # never the seeded generator: waits must not change what is drawn


async def with_retries(
    attempt: Callable[[], Awaitable[T]],
    *,
    max_tries: int,
    deadline_s: float,
    on_retry: Callable[[], None],
) -> T:
    """Return what an attempt returns; after an error that may pass, wait and try again.

    Args:
        attempt: raises a JudgeError whose `retry` says whether another try may help.
        max_tries: in all.
        deadline_s: from the first try to the end of the last [s].
        on_retry: is called before each try after the first.

    Raises:
        JudgeError: the last one; its status is "timed_out" where the deadline ended the tries.
    """
    end = time.monotonic() + deadline_s
    for number in range(1, max_tries + 1):
        try:
            async with asyncio.timeout(end - time.monotonic()):
                return await attempt()
        except TimeoutError as error:
            raise JudgeError(f"no reply within {deadline_s:g} s and {number} tries", "timed_out") from error
        except JudgeError as error:
            if not error.retry or number == max_tries:
                tries = f" ({number} tries)" if number > 1 else ""
                raise JudgeError(f"{error}{tries}", error.status) from error
            wait = max(
                error.retry_after_s, _jitter.uniform(0.5, 1) * min(_FIRST_S * 2 ** (number - 1), _LONGEST_S)
            )
            if time.monotonic() + wait >= end:
                raise JudgeError(
                    f"no reply within {deadline_s:g} s and {number} tries; the last said: {error}",
                    "timed_out",
                ) from error
            await asyncio.sleep(wait)
            on_retry()
    raise AssertionError("unreachable: the last try returns or raises")
