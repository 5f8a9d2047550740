"""How sound a judge is, from its own votes: nothing here needs a label of people.

A judge without bias for a place, a length or an author has 0.5 for first_slot and, where quality does not
go with them, for longer and own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from statistics import fmean
from typing import TypeVar

from truing.judges.calibration import Estimate, estimate_of, share
from truing.judges.judging import Item, Judged, Vote

T = TypeVar("T")

_FAILURES = ("unparsable", "refused", "timed_out", "failed")


def health(
    items: Sequence[Item],
    judged: Sequence[Judged],
    *,
    authors: Sequence[Sequence[str]] | None = None,
    own: str | None = None,
) -> dict[str, Estimate]:
    """Return what can be said of a judge, by name; what the votes cannot show is left out.

    consistency: pairs on whose winner both orders agree. first_slot: votes with a winner that the first slot
    wins, of pairs asked in both orders, where it is 0.5 whatever the completions are. longer: pairs with a
    winner that the longer completion wins. length_correlation: of score and length [characters], of single
    completions. own: pairs with a winner, of which one is by `own`, that this one wins. repeatability: pairs
    of votes on one request that take the same side. unparsable, refused, timed_out, failed: shares of votes.

    Args:
        items: what was judged.
        judged: what one judge said of each.
        authors: who wrote the completions of each item.
        own: the author that is the judge, or of its family.

    Raises:
        ValueError: the lengths differ, or only one of authors and own is given.
    """
    if len(items) != len(judged) or (authors is not None and len(authors) != len(items)):
        raise ValueError("items, judged and authors must have one length")
    if (authors is None) != (own is None):
        raise ValueError("self-preference needs both: who wrote what, and which author is the judge")
    votes = [v for j in judged for v in j.votes]
    statuses = Counter[str](v.verdict.status for v in votes)
    found = {name: share(statuses[name], len(votes)) for name in _FAILURES} if votes else {}
    same = [x for j in judged if (x := _repeats(j.votes)) is not None]
    found |= _estimated("repeatability", lambda rows: fmean(same[i] for i in rows), len(same))
    if any(len(item.completions) == 2 for item in items):
        found |= _order(judged) | _longer(items, judged)
        if authors is not None and own is not None:
            found |= _own(judged, authors, own)
    else:
        found |= _length(items, judged)
    return found


def _order(judged: Sequence[Judged]) -> dict[str, Estimate]:
    agreed, firsts = list[bool](), list[tuple[int, int]]()
    for j in judged:
        given, swapped = (
            [v for v in j.votes if v.swapped == s and v.verdict.value is not None] for s in (False, True)
        )
        if not given or not swapped:
            continue
        agreed.append(_side(fmean(_values(given))) == _side(1 - fmean(_values(swapped))))
        sides = [_side(x) for x in _values([*given, *swapped])]
        firsts.append((sides.count(1.0), len(sides) - sides.count(0.5)))
    found = {"consistency": share(sum(agreed), len(agreed))} if agreed else {}

    def first_share(rows: Sequence[int]) -> float:
        total = sum(firsts[i][1] for i in rows)
        return sum(firsts[i][0] for i in rows) / total if total else math.nan

    return found | _estimated("first_slot", first_share, len(firsts))


def _longer(items: Sequence[Item], judged: Sequence[Judged]) -> dict[str, Estimate]:
    wins = list[bool]()
    for item, side in _decided(items, judged):
        first, second = map(len, item.completions)
        if first != second:
            wins.append((first > second) == (side == 1))
    return {"longer": share(sum(wins), len(wins))} if wins else {}


def _own(judged: Sequence[Judged], authors: Sequence[Sequence[str]], own: str) -> dict[str, Estimate]:
    wins = [
        (first == own) == (side == 1)
        for (first, second), side in _decided(authors, judged)
        if (first == own) != (second == own)
    ]
    return {"own": share(sum(wins), len(wins))} if wins else {}


def _length(items: Sequence[Item], judged: Sequence[Judged]) -> dict[str, Estimate]:
    both = [
        (float(len(i.completions[0])), j.verdict.value)
        for i, j in zip(items, judged, strict=True)
        if j.verdict.value is not None
    ]
    return _estimated("length_correlation", lambda rows: _correlation([both[i] for i in rows]), len(both))


def _repeats(votes: Sequence[Vote]) -> float | None:
    """Return the share of pairs of votes in one order that take the same side; None without such pairs."""
    same = [
        _same(a, b)
        for swapped in (False, True)
        for a, b in combinations(
            [v for v in votes if v.swapped == swapped and v.verdict.value is not None], 2
        )
    ]
    return fmean(same) if same else None


def _same(first: Vote, second: Vote) -> bool:
    assert first.verdict.value is not None and second.verdict.value is not None
    return _side(first.verdict.value) == _side(second.verdict.value)


def _estimated(name: str, statistic: Callable[[Sequence[int]], float], count: int) -> dict[str, Estimate]:
    value = statistic(range(count)) if count > 1 else math.nan
    if math.isnan(value):
        return {}
    return {name: estimate_of(value, statistic, count, is_share=name != "length_correlation")}


def _decided(items: Sequence[T], judged: Sequence[Judged]) -> Iterator[tuple[T, float]]:
    for item, j in zip(items, judged, strict=True):
        if j.verdict.value is not None and j.verdict.value != 0.5:
            yield item, _side(j.verdict.value)


def _values(votes: Sequence[Vote]) -> list[float]:
    return [v.verdict.value for v in votes if v.verdict.value is not None]


def _side(value: float) -> float:
    return 0.5 if value == 0.5 else float(value > 0.5)


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Pearson's correlation; NaN where either side does not vary."""
    mean_x, mean_y = fmean(x for x, _ in pairs), fmean(y for _, y in pairs)
    xx = sum((x - mean_x) ** 2 for x, _ in pairs)
    yy = sum((y - mean_y) ** 2 for _, y in pairs)
    if xx == 0 or yy == 0:
        return math.nan
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / math.sqrt(xx * yy)
