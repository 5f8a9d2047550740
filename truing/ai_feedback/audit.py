"""The audit trail: who said what about which completion under which principle, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from truing.errors import DataError
from truing.types import Message


def digest(value: Any) -> str:
    """Return the first 16 hex digits of the sha256 of a value as JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_from(*key: Any) -> int:
    """Return a seed that is a function of the key, so that no two prompts share their random numbers."""
    return int(digest(key)[:8], 16) >> 1


def prompt_hash(messages: Sequence[Message]) -> str:
    """Return what an audit calls a prompt: the digest of its turns."""
    return digest([[m.role, m.content] for m in messages])


class Audit:
    """Appends records to a file; one that is there already, from before an interruption, is not doubled.

    A record's `id` is the digest of everything in it but its time, so the same call of a continued run,
    answered from the cache, is the same record. Use it as a context manager.
    """

    def __init__(self, path: Path) -> None:
        """Open the trail at this path, or continue it."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seen = {record["id"] for record in _sound(path)}
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, action: str, **about: Any) -> str:
        """Add a record and return its id; `action` is sample, critique, revise, compare, score or check."""
        record = {"action": action, **about}
        record = {"id": digest(record), "time": datetime.now(UTC).isoformat(timespec="seconds"), **record}
        with self._lock:
            if record["id"] not in self._seen:
                self._seen.add(record["id"])
                self._file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
                self._file.flush()
        return str(record["id"])

    def __enter__(self) -> Audit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _sound(path: Path) -> list[dict[str, Any]]:
    """Return the records of a trail; a last line that an interruption cut is taken off.

    Raises:
        DataError: another line is broken, or the file is no audit trail.
    """
    if not path.is_file():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = []
    for number, line in enumerate(whole.decode("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, row {number}: broken JSON ({error.msg}); is this an audit trail?"
            ) from error
        if not isinstance(record, dict) or "id" not in record:
            raise DataError(
                f"{path}, row {number}: no 'id'; this is no audit trail, give --audit another path"
            )
        records.append(record)
    return records
