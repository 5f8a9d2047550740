"""Solutions in steps, each step labelled: the label is put on the step's last token."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from truing.config import Data, Steps
from truing.data import columns
from truing.data.fitting import Report, fit, rendered, report_of, with_uids
from truing.data.readers import SourceRow
from truing.data.step_labels import from_ratings, from_rollouts
from truing.errors import DataError
from truing.types import Message, Row

_LAYOUT = (
    "prompt + completions (a list of steps) + one of labels (true, false or a probability), ratings (-1, 0, "
    "1) or rollouts (for each step, 0 and 1 of its continuations); or PRM800K's question + label, or "
    "Math-Shepherd's input + label"
)
_TAG = "ки"  # ends each step of Math-Shepherd's `input`; its `label` has + or - in that place


@dataclass(frozen=True, slots=True)
class StepColumns:
    """A prompt, the steps of a solution, and how probably each is right; None where nobody said."""

    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]


def steps(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Row], Report]:
    """Return one Row with step_labels for each solution, and the report.

    The completion is the steps, joined by the separator, up to the end of the last one; each label is on
    the last token of its step, which is the separator's where one follows. Under "truncate" a solution
    that keeps no label is dropped as overlong.

    Raises:
        DataError: a row has the wrong columns, a step does not end where a token ends, a row is overlong
            under "error", or none is left.
    """
    kept, count, options = list[Row](), Counter[str](), data.steps or Steps()
    for source, uid in with_uids(rows):
        read = solution(source, options)
        row = _labelled(tokenizer, read, uid, options.separator, source.where)
        fitted = fit(row, data, source.where, count)
        if fitted is not None and all(x != x for x in fitted.step_labels or ()):
            count["dropped_overlong"] += 1
            fitted = None
        if fitted is None:
            continue
        count["truncated"] += fitted is not row
        kept.append(fitted)
    return kept, report_of(rows, kept, len(kept), count)


def _labelled(tokenizer: Any, read: StepColumns, uid: str, separator: str, where: str) -> Row:
    message = Message("assistant", separator.join(read.steps))
    row = rendered(tokenizer, (*read.prompt, message), uid, len(read.prompt), where)
    labels, end = [float("nan")] * len(row.tokens), 0
    for number, label in enumerate(read.labels, 1):
        more = separator if number < len(read.steps) else ""
        end = _end_of(tokenizer, row, separator.join(read.steps[:number]) + more, end)
        if end == 0:
            raise DataError(
                f"{where}: the tokenizer joins the end of step {number} with what follows, so no token is "
                f"its last; set data.steps.separator to text that ends a token (it is {separator!r})"
            )
        if label is not None:
            labels[end - 1] = label
    return replace(row, tokens=row.tokens[:end], mask=row.mask[:end], step_labels=tuple(labels[:end]))


def _end_of(tokenizer: Any, row: Row, text: str, start: int) -> int:
    """Return how many tokens of the row's completion say exactly this text; 0 where no number does."""

    def said(stop: int) -> str:
        return str(tokenizer.decode(row.tokens[:stop], clean_up_tokenization_spaces=False))

    near = bisect_left(range(len(row.tokens) + 1), len(text), lo=start + 1, key=lambda stop: len(said(stop)))
    # the pieces of one letter are shown as letters of their own, so the end may lie a little further
    return next((stop for stop in range(near, min(near + 9, len(row.tokens) + 1)) if said(stop) == text), 0)


def solution(row: SourceRow, options: Steps) -> StepColumns:
    """Return the prompt, the steps and their labels.

    Raises:
        DataError: the columns are not those of steps, a step is empty, or no step is labelled.
    """
    values = row.values
    if isinstance(values.get("question"), dict) and isinstance(values.get("label"), dict):
        read = _prm800k(row, options)
    elif isinstance(values.get("input"), str) and isinstance(values.get("label"), str):
        read = _math_shepherd(row)
    elif values.get("prompt") is not None and values.get("completions") is not None:
        read = StepColumns(columns.prompt(row), tuple(_texts(row)), tuple(_labels(row, options)))
    else:
        found = [k for k, v in values.items() if v is not None]
        raise DataError(f"{row.where}: columns {found} are not those of steps: {_LAYOUT}")
    read = replace(read, steps=tuple(s.strip() for s in read.steps))
    for number, step in enumerate(read.steps, 1):
        if not step or options.separator in step:
            problem = "is empty" if not step else f"holds the separator {options.separator!r}"
            raise DataError(
                f"{row.where}: step {number} {problem}; drop or join steps, or set data.steps.separator"
            )
    if all(label is None for label in read.labels):
        raise DataError(f"{row.where}: none of {len(read.steps)} steps is labelled; drop the row")
    return read


def _texts(row: SourceRow) -> list[str]:
    texts = row.values["completions"]
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise DataError(f"{row.where}: 'completions' must be a list of steps, each of them text")
    return texts


def _labels(row: SourceRow, options: Steps) -> list[float | None]:
    given = [k for k in ("labels", "ratings", "rollouts") if row.values.get(k) is not None]
    if len(given) != 1:
        raise DataError(
            f"{row.where}: {' and '.join(given) or 'nothing'} labels the steps; right would be {_LAYOUT}"
        )
    values, number = row.values[given[0]], len(row.values["completions"])
    if not isinstance(values, list) or len(values) != number:
        raise DataError(f"{row.where}: '{given[0]}' must be a list of {number}, one for each step")
    try:
        if given[0] == "ratings":
            return from_ratings(values, neutral=options.neutral)
        if given[0] == "rollouts":
            return list(from_rollouts(values, how=options.rollouts))
    except (TypeError, ValueError) as error:
        raise DataError(f"{row.where}: '{given[0]}': {error}") from error
    for number, value in enumerate(values, 1):
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise DataError(
                f"{row.where}: the label of step {number} is {value!r}; right would be true, false or a "
                "number from 0 (wrong) to 1 (right)"
            )
    return [None if value is None else float(value) for value in values]


def _prm800k(row: SourceRow, options: Steps) -> StepColumns:
    """Return a solution of PRM800K: at each step what was chosen, or written by a person, which is right.

    Where a step was neither, its first completion ends the solution: it has the error that was found.
    """
    texts, ratings = list[str](), list[int | None]()
    try:
        for step in row.values["label"]["steps"]:
            chosen, written = step.get("chosen_completion"), step.get("human_completion")
            if chosen is None and written is not None:
                texts.append(written["text"])
                ratings.append(1)
                continue
            found = step["completions"][chosen or 0]
            texts.append(found["text"])
            ratings.append(found.get("rating"))
            if chosen is None:
                break
        prompt = (Message("user", str(row.values["question"]["problem"])),)
        return StepColumns(prompt, tuple(texts), tuple(from_ratings(ratings, neutral=options.neutral)))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{row.where}: 'question' and 'label' are not PRM800K's ({type(error).__name__}: {error})"
        ) from error


def _math_shepherd(row: SourceRow) -> StepColumns:
    pieces = [piece for piece in row.values["input"].split(_TAG) if piece.strip()]
    label, labels, at = row.values["label"], list[float | None](), 0
    for number, piece in enumerate(pieces, 1):
        at += len(piece)
        if label[at : at + 1] not in ("+", "-"):
            raise DataError(
                f"{row.where}: 'label' must be 'input' with + or - in place of each {_TAG}; it differs at "
                f"step {number}"
            )
        labels.append(float(label[at] == "+"))
        at += 1
    question, start, first = pieces[0].partition("Step 1:") if pieces else ("", "", "")
    if not start:
        raise DataError(f"{row.where}: 'input' has no 'Step 1:', where the question ends")
    prompt = (Message("user", question.strip()),)
    return StepColumns(prompt, (start + first, *pieces[1:]), tuple(labels))
