"""Rows of a data set to tokenised records, with a report of everything that was dropped or cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from truing.config import Data
from truing.data import columns
from truing.data.chat import added_text, render_prompt
from truing.data.fitting import (
    UID_KEYS,
    Report,
    fit,
    fit_together,
    prompt_fits,
    rendered,
    report_of,
    with_uids,
)
from truing.data.readers import SourceRow
from truing.errors import DataError
from truing.types import Pair, Prompt, Row

_USED_KEYS = {"prompt", "messages", "conversations", "instruction", "input", "system", *UID_KEYS}
_REFERENCE_KEYS = ("reference", "answer")


def demonstrations(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Row], Report]:
    """Return one Row for each demonstration, and the report.

    Raises:
        DataError: a row has the wrong columns, is overlong under "error", or none is left.
    """
    kept, count = list[Row](), Counter[str]()
    for source, uid in with_uids(rows):
        messages, first = columns.demonstration(source)
        row = rendered(tokenizer, messages, uid, first, source.where)
        fitted = fit(row, data, source.where, count)
        if fitted is None:
            continue
        count["truncated"] += fitted is not row
        count["template_text_rows"] += fitted is row and added_text(tokenizer, row, messages, first)
        kept.append(fitted)
    return kept, report_of(rows, kept, len(kept), count)


def pairs(
    rows: Sequence[SourceRow], tokenizer: Any, data: Data, *, soft_labels: bool = True
) -> tuple[list[Pair], Report]:
    """Return one Pair for each preference, and the report.

    Pairs whose sides are the same tokens, perhaps only after a cut, teach nothing (their DPO loss is
    ln 2 for ever) and are dropped and counted. Where soft_labels is False, what trains takes every label
    for certain, and a `preference` other than 1 is an error.

    Raises:
        DataError: a row has the wrong columns, is overlong under "error", or none is left.
    """
    kept, count = list[Pair](), Counter[str]()
    for source, uid in with_uids(rows):
        read = columns.pair(source)
        if read.preference != 1 and not soft_labels:
            raise DataError(
                f"{source.where}: 'preference' is {read.preference:g}, and this method takes every label for "
                "certain; use one that reads it (algorithm = 'dpo' with options = { use_labels = true }), or "
                "remove the column, and its ties with it"
            )
        sides = [
            rendered(tokenizer, read.prompt + side, uid, len(read.prompt), source.where)
            for side in (read.chosen, read.rejected)
        ]
        if sides[0].prompt_tokens != sides[1].prompt_tokens:
            raise DataError(f"{source.where}: the template renders two prompts for 'chosen' and 'rejected'")
        fitted = fit_together(sides, data, source.where, count)
        if fitted is None:
            continue
        if fitted[0].tokens == fitted[1].tokens:
            count["identical_pairs_dropped"] += 1
            continue
        count["truncated"] += fitted != sides
        kept.append(Pair(uid, fitted[0], fitted[1], read.margin, read.preference))
    return kept, report_of(rows, [r for p in kept for r in (p.chosen, p.rejected)], len(kept), count)


def unpaired(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Row], Report]:
    """Return one Row with a label for each judged completion, and the report.

    Only the judged reply is trained: of a conversation its last turn.

    Raises:
        DataError: a row has the wrong columns or label, is overlong under "error", or none is left.
    """
    kept, count = list[Row](), Counter[str]()
    for source, uid in with_uids(rows):
        messages, first, label = columns.unpaired(source)
        row = rendered(tokenizer, messages, uid, first, source.where)
        fitted = fit(row, data, source.where, count)
        if fitted is None:
            continue
        count["truncated"] += fitted is not row
        kept.append(replace(fitted, label=label))
    return kept, report_of(rows, kept, len(kept), count)


def prompts(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Prompt], Report]:
    """Return one Prompt for each row, and the report; columns that are not used become metadata.

    Prompts are never cut: one past `max_prompt_tokens` is an error or, with "drop", left out.

    Raises:
        DataError: a row has the wrong columns, is overlong and may not be dropped, or none is left.
    """
    kept, count = list[Prompt](), Counter[str]()
    for source, uid in with_uids(rows):
        messages = columns.prompt(source)
        reference = next((k for k in _REFERENCE_KEYS if source.values.get(k) is not None), None)
        used = {
            "prompt",
            "messages",
            "conversations",
            "instruction",
            "input",
            "system",
            *UID_KEYS,
            reference,
        }
        metadata = {k: v for k, v in source.values.items() if k not in used}
        prompt = Prompt(uid, messages, source.values[reference] if reference else None, metadata)
        if prompt_fits(len(prompt_tokens(tokenizer, prompt)), data, source.where, count):
            kept.append(prompt)
    return kept, report_of(rows, [], len(kept), count)


def prompt_tokens(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """Return the ids that a completion of the prompt continues, the assistant's header included."""
    return render_prompt(tokenizer, prompt.messages)
