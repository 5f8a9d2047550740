"""What every reader of rows does: ids, rendering, limits, and the report of what was dropped or cut."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from truing.config import Data
from truing.data.chat import render_conversation
from truing.data.readers import SourceRow
from truing.errors import DataError, ModelError
from truing.types import Message, Row

UID_KEYS = ("uid", "id")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the rows.

    Args:
        rows: read.
        kept: in the returned records.
        dropped_overlong: left out because they were longer than a limit.
        truncated: kept with a completion that was cut at its end; a pair counts once.
        identical_pairs_dropped: left out because both sides have the same tokens.
        tied_rankings_dropped: left out because every completion has the same rank.
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
    tied_rankings_dropped: int = 0
    trained_tokens: int = 0
    masked_fraction: float = 0.0
    template_text_rows: int = 0


def rendered(tokenizer: Any, messages: Sequence[Message], uid: str, first: int, where: str) -> Row:
    """Return the row of a conversation; errors name the file and row."""
    try:
        return render_conversation(tokenizer, messages, uid, first=first, where=where)
    except (DataError, ModelError) as error:
        if where in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error


def prompt_fits(num_tokens: int, data: Data, where: str, count: Counter[str]) -> bool:
    """Return whether a prompt of this length is kept; a prompt is never cut."""
    if num_tokens <= data.max_prompt_tokens:
        return True
    if data.overlong == "drop":
        count["dropped_overlong"] += 1
        return False
    raise DataError(
        f"{where}: the prompt has {num_tokens} tokens, more than max_prompt_tokens = "
        f"{data.max_prompt_tokens}; raise the limit, or set overlong = 'drop' (a prompt is never cut)"
    )


def fit(row: Row, data: Data, where: str, count: Counter[str]) -> Row | None:
    """Return the row within the limits, cut if that was chosen; None when it is dropped."""
    if not prompt_fits(len(row.prompt_tokens), data, where, count):
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


def fit_together(sides: list[Row], data: Data, where: str, count: Counter[str]) -> list[Row] | None:
    """Return rows that belong together within the limits; None, counted once, when any is dropped."""
    drops = Counter[str]()
    fitted = [fit(side, data, where, drops) for side in sides]
    if None in fitted:
        count["dropped_overlong"] += 1
        return None
    return [side for side in fitted if side is not None]


def _cut(row: Row, max_tokens: int) -> Row:
    """Return the row's first tokens up to its last trained one; the first token is always trained."""
    stop = max(i for i in range(max_tokens) if row.mask[i]) + 1
    labels = None if row.step_labels is None else row.step_labels[:stop]
    return replace(row, tokens=row.tokens[:stop], mask=row.mask[:stop], step_labels=labels)


def with_uids(rows: Sequence[SourceRow]) -> Iterator[tuple[SourceRow, str]]:
    """Yield each row with its id: its own, or the hash of its content and how often that was seen."""
    own, seen = dict[str, str](), Counter[str]()
    for row in rows:
        explicit = next((row.values[k] for k in UID_KEYS if row.values.get(k) is not None), None)
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


def report_of(rows: Sequence[SourceRow], trained: Sequence[Row], kept: int, count: Counter[str]) -> Report:
    """Return the report of the rows, of which `kept` records are left.

    Raises:
        DataError: none is left.
    """
    if not kept:
        raise DataError(
            f"{rows[0].file if rows else 'data'}: none of {len(rows)} rows is left "
            f"({count['dropped_overlong']} overlong, {count['identical_pairs_dropped']} identical pairs, "
            f"{count['tied_rankings_dropped']} rankings that are all ties)"
        )
    num_trained = sum(sum(r.mask) for r in trained)
    total = sum(len(r.prompt_tokens) + len(r.tokens) for r in trained)
    return Report(
        rows=len(rows),
        kept=kept,
        dropped_overlong=count["dropped_overlong"],
        truncated=count["truncated"],
        identical_pairs_dropped=count["identical_pairs_dropped"],
        tied_rankings_dropped=count["tied_rankings_dropped"],
        trained_tokens=num_trained,
        masked_fraction=1 - num_trained / total if total else 0.0,
        template_text_rows=count["template_text_rows"],
    )
