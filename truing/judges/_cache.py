"""Replies on disk, by the hash of all that was asked; one SQLite file, safe for several processes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.errors import ConfigError
from truing.types import Message

_TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"
_WAIT_S = 30.0


def key_of(identity: Mapping[str, Any], messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of who is asked, every message and every option."""
    asked = {
        "identity": dict(identity),
        "messages": [[m.role, m.content] for m in messages],
        "options": dict(options),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """A file of replies. A row is written whole or not at all, also when the process dies."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            ConfigError: it cannot be opened, or is no SQLite file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ConfigError(f"cache {path}: {error}; give a path of a new file") from error

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the reply's record, or None where the request is new."""
        with self._lock:
            row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        found: dict[str, Any] | None = None if row is None else json.loads(row[0])
        return found

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a reply; the first one of a request stays."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, json.dumps(record)))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
