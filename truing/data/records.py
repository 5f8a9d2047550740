"""Rows of a data set to tokenised records, with a report of everything that was dropped or cut."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truing.config import Data
from truing.data import columns
from truing.data.chat import added_text, render_conversation, render_prompt
from truing.data.readers import SourceRow
from truing.errors import DataError, ModelError
from truing.types import Message, Pair, Prompt, Row

_UID_KEYS = ("uid", "id")
_USED_KEYS = {"prompt", "messages", "conversations", "instruction", "input", "system", *_UID_KEYS}
_REFERENCE_KEYS = ("reference", "answer")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the rows.

    Args:
        rows: read.
        kept: in the returned records.
        dropped_overlong: left out because they were longer than a limit.
        truncated: kept with a completion that was cut at its end; a pair counts once.
        identical_pairs_dropped: left out because both sides have the same tokens.
        trained_tokens: of the kept rows.
        masked_fraction: share of the kept rows' tokens that is not trained, in (0, 1); 0 for prompts.
        template_text_rows: rows in which the template adds text to the assistant's that is trained,
            such as an empty think block.
    """

    rows: int = 0
    kept: int = 0
    dropped_overlong: int = 0
    truncated: int = 0
    identical_pairs_dropped: int = 0
    trained_tokens: int = 0
    masked_fraction: float = 0.0
    template_text_rows: int = 0


def demonstrations(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Row], Report]:
    """Return one Row for each demonstration, and the report.

    Raises:
        DataError: a row has the wrong columns, is overlong under "error", or none is left.
    """
    kept, count = list[Row](), Counter[str]()
    for source, uid in _with_uids(rows):
        messages, first = columns.demonstration(source)
        row = _rendered(tokenizer, messages, uid, first, source.where)
        fitted = _fit(row, data, source.where, count)
        if fitted is None:
            continue
        count["truncated"] += fitted is not row
        count["template_text_rows"] += fitted is row and added_text(tokenizer, row, messages, first)
        kept.append(fitted)
    return kept, _report(rows, kept, len(kept), count)


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
    for source, uid in _with_uids(rows):
        read = columns.pair(source)
        if read.preference != 1 and not soft_labels:
            raise DataError(
                f"{source.where}: 'preference' is {read.preference:g}, and this method takes every label for "
                "certain; use one that reads it (algorithm = 'dpo' with options = { use_labels = true }), or "
                "remove the column, and its ties with it"
            )
        sides = [
            _rendered(tokenizer, read.prompt + side, uid, len(read.prompt), source.where)
            for side in (read.chosen, read.rejected)
        ]
        if sides[0].prompt_tokens != sides[1].prompt_tokens:
            raise DataError(f"{source.where}: the template renders two prompts for 'chosen' and 'rejected'")
        fitted = _fit_both(sides, data, source.where, count)
        if fitted is None:
            continue
        if fitted[0].tokens == fitted[1].tokens:
            count["identical_pairs_dropped"] += 1
            continue
        count["truncated"] += fitted != sides
        kept.append(Pair(uid, fitted[0], fitted[1], read.margin, read.preference))
    return kept, _report(rows, [r for p in kept for r in (p.chosen, p.rejected)], len(kept), count)


def unpaired(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Row], Report]:
    """Return one Row with a label for each judged completion, and the report.

    Only the judged reply is trained: of a conversation its last turn.

    Raises:
        DataError: a row has the wrong columns or label, is overlong under "error", or none is left.
    """
    kept, count = list[Row](), Counter[str]()
    for source, uid in _with_uids(rows):
        messages, first, label = columns.unpaired(source)
        row = _rendered(tokenizer, messages, uid, first, source.where)
        fitted = _fit(row, data, source.where, count)
        if fitted is None:
            continue
        count["truncated"] += fitted is not row
        kept.append(replace(fitted, label=label))
    return kept, _report(rows, kept, len(kept), count)


def prompts(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Prompt], Report]:
    """Return one Prompt for each row, and the report; columns that are not used become metadata.

    Prompts are never cut: one past `max_prompt_tokens` is an error or, with "drop", left out.

    Raises:
        DataError: a row has the wrong columns, is overlong and may not be dropped, or none is left.
    """
    kept, count = list[Prompt](), Counter[str]()
    for source, uid in _with_uids(rows):
        messages = columns.prompt(source)
        reference = next((k for k in _REFERENCE_KEYS if source.values.get(k) is not None), None)
        used = {
            "prompt",
            "messages",
            "conversations",
            "instruction",
            "input",
            "system",
            *_UID_KEYS,
            reference,
        }
        metadata = {k: v for k, v in source.values.items() if k not in used}
        prompt = Prompt(uid, messages, source.values[reference] if reference else None, metadata)
        if _prompt_fits(len(prompt_tokens(tokenizer, prompt)), data, source.where, count):
            kept.append(prompt)
    return kept, _report(rows, [], len(kept), count)


def prompt_tokens(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """Return the ids that a completion of the prompt continues, the assistant's header included."""
    return render_prompt(tokenizer, prompt.messages)


def _rendered(tokenizer: Any, messages: Sequence[Message], uid: str, first: int, where: str) -> Row:
    try:
        return render_conversation(tokenizer, messages, uid, first=first, where=where)
    except (DataError, ModelError) as error:
        if where in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error


def _prompt_fits(num_tokens: int, data: Data, where: str, count: Counter[str]) -> bool:
    if num_tokens <= data.max_prompt_tokens:
        return True
    if data.overlong == "drop":
        count["dropped_overlong"] += 1
        return False
    raise DataError(
        f"{where}: the prompt has {num_tokens} tokens, more than max_prompt_tokens = "
        f"{data.max_prompt_tokens}; raise the limit, or set overlong = 'drop' (a prompt is never cut)"
    )


def _fit(row: Row, data: Data, where: str, count: Counter[str]) -> Row | None:
    """Return the row within the limits, cut if that was chosen; None when it is dropped."""
    if not _prompt_fits(len(row.prompt_tokens), data, where, count):
        return None
    if len(row.tokens) <= data.max_completion_tokens:
        return row
    if data.overlong == "drop":
        count["dropped_overlong"] += 1
        return None
    if data.overlong == "truncate":
        return _cut(row, data.max_completion_tokens)
    raise DataError(
        f"{where}: the completion has {len(row.tokens)} tokens, more than max_completion_tokens = "
        f"{data.max_completion_tokens}; raise the limit, or set overlong = 'drop' or 'truncate'"
    )


def _fit_both(sides: list[Row], data: Data, where: str, count: Counter[str]) -> list[Row] | None:
    """Return both sides within the limits; None, counted once, when either is dropped."""
    drops = Counter[str]()
    fitted = [_fit(side, data, where, drops) for side in sides]
    if None in fitted:
        count["dropped_overlong"] += 1
        return None
    return [side for side in fitted if side is not None]


def _cut(row: Row, max_tokens: int) -> Row:
    """Return the row's first tokens up to its last trained one; the first token is always trained."""
    stop = max(i for i in range(max_tokens) if row.mask[i]) + 1
    return replace(row, tokens=row.tokens[:stop], mask=row.mask[:stop])


def _with_uids(rows: Sequence[SourceRow]) -> Iterator[tuple[SourceRow, str]]:
    """Yield each row with its id: its own, or the hash of its content and how often that was seen."""
    own, seen = dict[str, str](), Counter[str]()
    for row in rows:
        explicit = next((row.values[k] for k in _UID_KEYS if row.values.get(k) is not None), None)
        if explicit is not None:
            uid = str(explicit)
            if uid in own:
                raise DataError(f"{row.where}: id '{uid}' was used before, in {own[uid]}; ids name one row")
            own[uid] = row.where
            yield row, uid
            continue
        content = json.dumps(row.values, sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        seen[digest] += 1
        yield row, f"{digest}-{seen[digest]}"


def _report(rows: Sequence[SourceRow], trained: Sequence[Row], kept: int, count: Counter[str]) -> Report:
    if not kept:
        raise DataError(
            f"{rows[0].file if rows else 'data'}: none of {len(rows)} rows is left "
            f"({count['dropped_overlong']} overlong, {count['identical_pairs_dropped']} identical pairs)"
        )
    num_trained = sum(sum(r.mask) for r in trained)
    total = sum(len(r.prompt_tokens) + len(r.tokens) for r in trained)
    return Report(
        rows=len(rows),
        kept=kept,
        dropped_overlong=count["dropped_overlong"],
        truncated=count["truncated"],
        identical_pairs_dropped=count["identical_pairs_dropped"],
        trained_tokens=num_trained,
        masked_fraction=1 - num_trained / total if total else 0.0,
        template_text_rows=count["template_text_rows"],
    )
