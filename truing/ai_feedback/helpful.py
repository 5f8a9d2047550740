"""Demonstrations of helpful answers beside revisions, so that a model does not learn to evade."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from truing.data.columns import demonstration
from truing.data.readers import SourceRow
from truing.errors import DataError


def mixed(
    revisions: Sequence[Mapping[str, Any]], helpful: Sequence[SourceRow], *, share: float, seed: int
) -> list[dict[str, Any]]:
    """Return the revisions with helpful demonstrations at this share of all rows, shuffled by the seed.

    Raises:
        DataError: a demonstration cannot be read, or there are too few for the share.
    """
    wanted = round(len(revisions) * share / (1 - share))
    if len(helpful) < wanted:
        possible = len(helpful) / (len(helpful) + len(revisions))
        raise DataError(
            f"{helpful[0].file}: {len(helpful)} rows, and a share of {share:g} beside {len(revisions)} "
            f"revisions needs {wanted}; give more rows, or a share of at most {possible:.2f}"
        )
    order = random.Random(seed)
    rows = [dict(r) for r in revisions] + [_row(s) for s in order.sample(list(helpful), wanted)]
    order.shuffle(rows)
    return rows


def _row(source: SourceRow) -> dict[str, Any]:
    messages, first = demonstration(source)
    start = first or len(messages) - 1
    if start != len(messages) - 1:
        raise DataError(f"{source.where}: a helpful demonstration must end with one assistant turn")
    return {
        "prompt": [{"role": m.role, "content": m.content} for m in messages[:start]],
        "completion": messages[start].content,
        "provenance": {"by": "helpful", "row": source.where},
    }
