"""Rows of a file as items to judge, with what people and files say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.data import columns
from truing.data.readers import SourceRow
from truing.errors import DataError
from truing.judges.judging import Item
from truing.types import Message, Prompt

_SIDES = {"first": 1.0, "a": 1.0, "second": 0.0, "b": 0.0, "tie": 0.5, "both": 0.5, "true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row as an item.

    Args:
        item: its prompt and the one or two completions.
        human: what a person says, in [0, 1]; of a pair, how good the first is. None without a label.
        authors: who wrote the completions; () where the file does not say.
    """

    item: Item
    human: float | None = None
    authors: tuple[str, ...] = ()


def judged_row(
    row: SourceRow, num_completions: int, *, human: str | None = None, authors: str | None = None
) -> JudgedRow:
    """Return a row for a judge that looks at one completion, or at two.

    One: `prompt` and `completion`. Two: `prompt` and a list `completions`, or `chosen` and `rejected`, of
    which chosen is the first. `reference` or `answer` is the reference.

    Args:
        human: column of people's labels: a number from 0 to 1, true or false; of a pair how good the first
            is, or first, second or tie. Where it is empty the row has none.
        authors: column that says who wrote the completion, or a list of the two.

    Raises:
        DataError: a column is missing or of another form; the message names file, row and column.
    """
    prompt, completions = _pair(row) if num_completions == 2 else _single(row)
    reference = next((row.values[k] for k in ("reference", "answer") if row.values.get(k) is not None), None)
    item = Item(Prompt(str(row.number), prompt, reference=reference), completions)
    return JudgedRow(item, _human(row, human), _authors(row, authors, num_completions))


def _single(row: SourceRow) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    if row.values.get("completion") is None:
        wanted = "this judge looks at one completion: the row needs prompt and completion"
        raise DataError(f"{row.where}: {wanted}; its columns are {sorted(row.values)}")
    return columns.prompt(row), (_text(row, "completion", columns.reply(row, "completion")),)


def _pair(row: SourceRow) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    given = row.values.get("completions")
    if given is not None:
        if not isinstance(given, list) or len(given) != 2 or not all(isinstance(c, str) for c in given):
            raise DataError(
                f"{row.where}: 'completions' must be a list of two texts, got {str(given)[:60]!r}"
            )
        return columns.prompt(row), tuple(given)
    if row.values.get("chosen") is None:
        wanted = "this judge compares two: the row needs prompt and completions (a list of two), or a pair"
        raise DataError(f"{row.where}: {wanted} (chosen, rejected); its columns are {sorted(row.values)}")
    pair = columns.pair(row)
    return pair.prompt, (_text(row, "chosen", pair.chosen), _text(row, "rejected", pair.rejected))


def _text(row: SourceRow, key: str, turns: Sequence[Message]) -> str:
    if len(turns) != 1:
        raise DataError(f"{row.where}: '{key}' has {len(turns)} turns; a judge looks at one reply")
    return turns[0].content


def _human(row: SourceRow, column: str | None) -> float | None:
    value = None if column is None else row.values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().casefold() in _SIDES:
        return _SIDES[value.strip().casefold()]
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    right = "a number from 0 to 1, or one of " + ", ".join(_SIDES)
    raise DataError(f"{row.where}: '{column}' is {value!r}; right would be {right}")


def _authors(row: SourceRow, column: str | None, num_completions: int) -> tuple[str, ...]:
    if column is None:
        return ()
    value = row.values.get(column)
    listed = [value] if isinstance(value, str) else value
    if (
        isinstance(listed, list)
        and len(listed) == num_completions
        and all(isinstance(a, str) for a in listed)
    ):
        return tuple(listed)
    wanted = "a name" if num_completions == 1 else "a list of two names, in the order of the completions"
    raise DataError(f"{row.where}: '{column}' must be {wanted}, got {value!r}")
