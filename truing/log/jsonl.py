"""JSON lines that survive a crash: one object a line, strict JSON, a torn last line ignored."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from truing.errors import DataError

_NAN, _INF = "NaN", "Infinity"


def encode(value: Any) -> str:
    """Return one line of strict JSON; a NaN or infinity becomes the string "NaN" or "Infinity".

    Objects that JSON does not know, such as a prompt's reference, are written as their text.
    """
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line to a file. A lone surrogate in a text is written as its JSON escape."""
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(encode(record) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file, [] where there is none yet.

    A last line without a newline is what a crash leaves, and is ignored.

    Raises:
        DataError: another line is not a JSON object; the message names file and line.
    """
    if not path.is_file():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl with every value a number: "NaN" is NaN again."""
    return [{name: float(value) for name, value in row.items()} for row in read_jsonl(path)]


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines that `keep` refuses, and a torn last line; the file is replaced at once."""
    if not path.is_file():
        return
    *lines, torn = path.read_bytes().split(b"\n")
    kept = [line for n, line in enumerate(lines, start=1) if line.strip() and keep(_parsed(path, n, line))]
    if torn or len(kept) < len(lines):
        replace_file(path, b"".join(line + b"\n" for line in kept))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never half."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _NAN if math.isnan(value) else _INF if value > 0 else f"-{_INF}"
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {number}: a JSON object is expected, not {type(record).__name__}")
    return record
