"""On which line of a TOML text each key stands; the standard parser does not tell."""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]

_QUOTED = r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_PART = rf"(?:[A-Za-z0-9_-]+|{_QUOTED})"
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_STRING = re.compile(rf'"""(?:\\[\s\S]|[^\\])*?"{{3,5}}|\'\'\'[\s\S]*?\'{{3,5}}|{_QUOTED}')
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, of every table, key and array element of a valid TOML text.

    A path holds the keys and, for elements of arrays, their numbers: ("stage", 0, "learner").
    A table that only its sub-tables mention stands where it is first mentioned.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


def split_key(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted TOML key, quotes resolved; raises ValueError where it is none."""
    if not _KEY.fullmatch(key.strip()):
        raise ValueError(f"'{key}' is no dotted key")
    parts, value = list[str](), tomllib.loads(f"{key} = 0")
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)


class _Scanner:
    """A walk over a text that tomllib accepts, so that it need not check anything."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[KeyPath, int] = {}
        self.line, self.counted = 1, 0
        self.arrays: dict[KeyPath, int] = {}  # how many tables each [[array]] has so far

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            table = self.header() if self.text[self.at] == "[" else self.pair(table)
            self.skip(_BLANK)
        return self.lines

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return found.group()

    def note(self, path: KeyPath) -> None:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        for size in range(1, len(path) + 1):
            self.lines.setdefault(path[:size], self.line)

    def key(self) -> tuple[str, ...]:
        self.skip(_BLANK)
        return split_key(self.skip(_KEY))

    def header(self) -> KeyPath:
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        path: KeyPath = ()
        parts = self.key()
        for number, part in enumerate(parts):
            path = (*path, part)
            if is_array and number == len(parts) - 1:
                self.arrays[path] = self.arrays.get(path, 0) + 1
            if path in self.arrays:
                path = (*path, self.arrays[path] - 1)
        self.note(path)
        self.skip(_BLANK)
        self.at += 2 if is_array else 1
        return path

    def pair(self, table: KeyPath) -> KeyPath:
        path = (*table, *self.key())
        self.note(path)
        self.skip(_BLANK)
        self.at += 1  # the equals sign
        self.value(path)
        return table

    def value(self, path: KeyPath) -> None:
        self.skip(_BLANK)
        start = self.text[self.at]
        if start in "\"'":
            self.skip(_STRING)
        elif start in "[{":
            self.members(path, "]" if start == "[" else "}")
        else:
            self.skip(_SCALAR)

    def members(self, path: KeyPath, end: str) -> None:
        self.at += 1
        self.skip(_BLANK)
        number = 0
        while self.text[self.at] != end:
            if end == "}":
                self.pair(path)
            else:
                self.note((*path, number))
                self.value((*path, number))
                number += 1
            self.skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self.skip(_BLANK)
        self.at += 1
