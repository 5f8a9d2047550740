"""Rows from files and generators; each remembers its file and row number for errors."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from truing import plugins
from truing.config import Generator
from truing.errors import DataError, PluginError


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it was read: column values, and where it came from (rows count from 1)."""

    values: dict[str, Any]
    file: str
    number: int

    @property
    def where(self) -> str:
        """Return the file and row, for an error message."""
        return f"{self.file}, row {self.number}"


def read_rows(
    source: str | Generator, *, limit: int | None = None, folder: Path | None = None
) -> list[SourceRow]:
    """Return the rows of a .jsonl, .json, .parquet or .csv file, or of a generator.

    Args:
        source: a path, or a generator: the name of a module in `truing/data/`, a dotted path or a .py
            file, with a function `rows(count, seed, **options)` that yields dicts.
        limit: use only the first rows.
        folder: what a relative path is relative to; the working directory when None.

    Raises:
        DataError: the file is missing, empty or broken; the message names file and row.
        PluginError: there is no such generator.
    """
    if isinstance(source, Generator):
        name, values = source.generator, _generated(source, limit)
    else:
        path = (folder or Path()) / Path(source).expanduser()
        name, values = str(path), _from_file(path)
    rows = [SourceRow(_checked(v, name, n), name, n) for n, v in islice(values, limit)]
    if not rows:
        raise DataError(f"{name}: no rows")
    return rows


def _checked(value: Any, file: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{file}, row {number}: expected an object with columns, got {type(value).__name__}")
    return value


def _generated(source: Generator, limit: int | None) -> Iterator[tuple[int, Any]]:
    module = plugins.load("data", source.generator)
    if not callable(getattr(module, "rows", None)):
        raise PluginError(f"data: '{source.generator}' has no function rows(count, seed, **options)")
    count = min(source.count, limit or source.count)
    try:
        made = module.rows(count=count, seed=source.seed, **source.options)
    except TypeError as error:
        raise DataError(f"generator '{source.generator}': {error}; see its rows() for the options") from error
    return enumerate(made, 1)


def _from_file(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row number, value); a .jsonl row's number is its line."""
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: unknown kind of file '{path.suffix}'; known: {', '.join(readers)}")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        raise DataError(f"no such file: {path.absolute()}." + (f" Did you mean '{near[0]}'?" if near else ""))
    return readers[path.suffix.lower()](path)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(_decoded(lines, path), 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, row {number}: broken JSON at column {error.colno} ({error.msg}): {line[:80]!r}"
                ) from error


def _decoded(lines: Iterable[str], path: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            rows = json.loads("".join(_decoded(lines, path)))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: broken JSON at line {error.lineno} ({error.msg}); one object a line is .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects, got {type(rows).__name__}")
    return enumerate(rows, 1)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield number, value
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, value in enumerate(csv.DictReader(_decoded(file, path)), 1):
            if None in value or None in value.values():
                raise DataError(f"{path}, row {number}: has another number of columns than the header")
            yield number, value
