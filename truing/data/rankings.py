"""Rankings: several completions of one prompt, and which are better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing.config import Data
from truing.data import columns
from truing.data.fitting import Report, fit_together, rendered, report_of, with_uids
from truing.data.readers import SourceRow
from truing.errors import DataError
from truing.types import Message, Ranking

_LAYOUT = "prompt + completions + ranks (1 is best, equal ranks are ties), or prompt + ranked (best first)"


@dataclass(frozen=True, slots=True)
class RankedColumns:
    """A prompt, its completions, and the rank of each: 1 + how many are better."""

    prompt: tuple[Message, ...]
    completions: tuple[tuple[Message, ...], ...]
    ranks: tuple[int, ...]


def rankings(rows: Sequence[SourceRow], tokenizer: Any, data: Data) -> tuple[list[Ranking], Report]:
    """Return one Ranking for each prompt, and the report.

    A ranking in which all completions tie teaches nothing and is dropped and counted. One with a
    completion past the limits is dropped whole under "drop": what is left would be another ranking.

    Raises:
        DataError: a row has the wrong columns, is overlong under "error", or none is left.
    """
    kept, count = list[Ranking](), Counter[str]()
    for source, uid in with_uids(rows):
        read = ranking(source)
        if len(set(read.ranks)) == 1:
            count["tied_rankings_dropped"] += 1
            continue
        first = len(read.prompt)
        made = [rendered(tokenizer, read.prompt + c, uid, first, source.where) for c in read.completions]
        if len({row.prompt_tokens for row in made}) > 1:
            raise DataError(f"{source.where}: the template renders the prompt in more than one way")
        fitted = fit_together(made, data, source.where, count)
        if fitted is None:
            continue
        count["truncated"] += fitted != made
        kept.append(Ranking(uid, tuple(fitted), read.ranks))
    return kept, report_of(rows, [row for r in kept for row in r.rows], len(kept), count)


def ranking(row: SourceRow) -> RankedColumns:
    """Return the prompt, the completions and their ranks.

    Raises:
        DataError: the columns are not those of a ranking, or say too little.
    """
    key = "ranked" if row.values.get("ranked") is not None else "completions"
    values = row.values.get(key)
    if row.values.get("prompt") is None or values is None:
        found = [k for k, v in row.values.items() if v is not None]
        raise DataError(f"{row.where}: columns {found} are not those of rankings: {_LAYOUT}")
    if key == "ranked" and (row.values.get("ranks") is not None or row.values.get("completions") is not None):
        raise DataError(
            f"{row.where}: 'ranked' holds the completions, best first; remove 'completions' and 'ranks'"
        )
    if not isinstance(values, list) or len(values) < 2:
        raise DataError(
            f"{row.where}: '{key}' must be a list of two completions or more, got {_brief(values)}"
        )
    completions = tuple(_completion(row, key, number, value) for number, value in enumerate(values, 1))
    ranks = list(range(len(values))) if key == "ranked" else _ranks(row, len(values))
    better = tuple(1 + sum(other < own for other in ranks) for own in ranks)
    return RankedColumns(columns.prompt(row), completions, better)


def _ranks(row: SourceRow, number: int) -> list[float]:
    ranks = row.values.get("ranks")
    if not isinstance(ranks, list) or len(ranks) != number:
        raise DataError(
            f"{row.where}: 'ranks' must be a list of {number} numbers, one a completion, got {_brief(ranks)}"
        )
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != rank:
            raise DataError(f"{row.where}: 'ranks' holds {rank!r}; a rank is a number, 1 for the best")
    return ranks


def _completion(row: SourceRow, key: str, number: int, value: Any) -> tuple[Message, ...]:
    place = f"{key}[{number}]"
    return columns.reply(SourceRow({place: value}, row.file, row.number), place)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
