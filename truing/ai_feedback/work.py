"""Many items at once, each result kept as it comes, and files that appear whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from truing.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def work(
    items: Sequence[Item],
    one: Callable[[Item], Awaitable[Result]],
    *,
    at_once: int,
    say: Callable[[str], None] | None = None,
) -> list[Result]:
    """Return what `one` makes of each item, in order, with at most so many under way.

    An error ends the rest; whatever a model had said by then is in the client's cache and in the trail.

    Args:
        items: what to work on.
        one: makes a result of an item.
        at_once: items under way.
        say: is told how far it is, at about every tenth.
    """
    done, every = 0, max(1, len(items) // 10)

    async def guarded(item: Item, slots: asyncio.Semaphore) -> Result:
        nonlocal done
        async with slots:
            result = await one(item)
        done += 1
        if say is not None and (done % every == 0 or done == len(items)):
            say(f"{done} of {len(items)}")
        return result

    async def run() -> list[Result]:
        slots = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(guarded(item, slots)) for item in items]
        return [t.result() for t in tasks]

    try:
        return asyncio.run(run())
    except ExceptionGroup as several:  # one error says more than a group of them
        raise several.exceptions[0] from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, what: str) -> int:
    """Write rows as JSONL, the whole file at once, and return how many there are.

    Raises:
        DataError: there are none, so whatever reads the file would fail later.
    """
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    if not lines:
        raise DataError(f"{path}: not one {what} to write; the audit trail says why")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(path)
    return len(lines)
