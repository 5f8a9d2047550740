"""How far raters agree: raw shares, and what is left of them once chance is taken off.

Labels are any hashable values; None is a rating that is missing. Intervals come from `bootstrap_interval`,
which resamples items, never single ratings.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

Label = Hashable
Level = Literal["nominal", "ordinal", "interval"]


def agreement(first: Sequence[Label], second: Sequence[Label], *, without: Label | None = None) -> float:
    """Return the share of items on which two raters say the same.

    Args:
        first: labels of one rater.
        second: of the other, of the same items.
        without: a label, such as the tie; items to which either rater gave it are left out.

    Raises:
        ValueError: the lengths differ, or no item is left.
    """
    pairs = [(a, b) for a, b in _both(first, second) if without is None or without not in (a, b)]
    if not pairs:
        raise ValueError("no item has a label of both raters")
    return sum(a == b for a, b in pairs) / len(pairs)


def cohen_kappa(
    first: Sequence[Label],
    second: Sequence[Label],
    *,
    weights: Literal["none", "linear", "quadratic"] = "none",
) -> float:
    """Return 1 - sum w_ij o_ij / sum w_ij e_ij for two raters; NaN where chance alone agrees always.

    Source: Cohen (1960), Educational and Psychological Measurement 20:37-46; weighted: Cohen (1968).

    Args:
        first: labels of one rater.
        second: of the other, of the same items.
        weights: none counts every disagreement as 1; linear and quadratic by the distance of the labels,
            which are then numbers.
    """
    pairs = _both(first, second)
    if not pairs:
        raise ValueError("no item has a label of both raters")
    rows, columns = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    places = _places(set(rows) | set(columns), weights)
    observed = sum(_weight(a, b, places, weights) for a, b in pairs) / len(pairs)
    expected = (
        sum(n * m * _weight(a, b, places, weights) for a, n in rows.items() for b, m in columns.items())
        / len(pairs) ** 2
    )
    return math.nan if expected == 0 else 1 - observed / expected


def fleiss_kappa(items: Sequence[Sequence[Label]]) -> float:
    """Return Fleiss' kappa of items that the same number of raters labelled; NaN where all labels are one.

    Source: Fleiss (1971), Psychological Bulletin 76:378-382.

    Args:
        items: the labels of each item, by whatever raters.

    Raises:
        ValueError: items differ in their number of labels, or have fewer than two.
    """
    sizes = {len(labels) for labels in items}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"every item needs the same number of labels, two or more; got {sorted(sizes)}")
    size = sizes.pop()
    counts = [Counter(labels) for labels in items]
    observed = sum(sum(n * (n - 1) for n in c.values()) for c in counts) / (len(items) * size * (size - 1))
    total = sum(counts, Counter[Label]())
    chance = sum((n / (len(items) * size)) ** 2 for n in total.values())
    return math.nan if chance == 1 else (observed - chance) / (1 - chance)


def krippendorff_alpha(items: Sequence[Sequence[Label | None]], *, level: Level = "nominal") -> float:
    """Return 1 - D_observed / D_expected; copes with any number of raters and with missing ratings.

    NaN where all ratings are one. Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability.

    Args:
        items: the ratings of each item; None is missing, items with fewer than two ratings tell nothing.
        level: whether labels only differ, have an order (numbers), or have distances (numbers).

    Raises:
        ValueError: no item has two ratings.
    """
    units = [[x for x in labels if x is not None] for labels in items]
    units = [labels for labels in units if len(labels) > 1]
    if not units:
        raise ValueError("no item has two ratings")
    totals = Counter(x for labels in units for x in labels)
    distance = _distance(totals, level)
    size = totals.total()
    observed = 0.0
    for labels in units:
        counts = Counter(labels)
        within = sum(n * m * distance(a, b) for a, n in counts.items() for b, m in counts.items())
        observed += within / (len(labels) - 1)
    expected = sum(n * m * distance(a, b) for a, n in totals.items() for b, m in totals.items()) / (size - 1)
    return math.nan if expected == 0 else 1 - observed / expected


def bootstrap_interval(
    statistic: Callable[[Sequence[int]], float],
    num_items: int,
    *,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return (low, high) of a statistic by the percentile bootstrap over items.

    Resamples for which it is NaN (kappa where all labels are one) tell nothing and are left out.

    Args:
        statistic: from the numbers of the items, some drawn several times.
        num_items: how many there are.

    Raises:
        ValueError: there are fewer than two items, or the statistic is NaN in half of the resamples.
    """
    if num_items < 2:
        raise ValueError(f"an interval needs at least two items, got {num_items}")
    generator = random.Random(seed)
    drawn = [statistic(generator.choices(range(num_items), k=num_items)) for _ in range(num_resamples)]
    found = sorted(x for x in drawn if not math.isnan(x))
    if 2 * len(found) < num_resamples:
        raise ValueError(
            f"the statistic is undefined in {num_resamples - len(found)} of {num_resamples} resamples"
        )
    tail = (1 - confidence) / 2
    last = len(found) - 1
    return found[round(tail * last)], found[round((1 - tail) * last)]


def _both(first: Sequence[Label], second: Sequence[Label]) -> list[tuple[Label, Label]]:
    if len(first) != len(second):
        raise ValueError(f"two raters need labels of the same items, got {len(first)} and {len(second)}")
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]


def _places(labels: set[Label], weights: str) -> Mapping[Label, int]:
    """Return the place of each label in their order; empty where it does not matter."""
    if weights == "none":
        return {}
    return {label: place for place, label in enumerate(sorted(labels, key=_number))}


def _weight(a: Label, b: Label, places: Mapping[Label, int], weights: str) -> float:
    if weights == "none":
        return float(a != b)
    apart = abs(places[a] - places[b])
    return float(apart if weights == "linear" else apart * apart)


def _distance(totals: Counter[Label], level: Level) -> Callable[[Label, Label], float]:
    if level == "nominal":
        return lambda a, b: float(a != b)
    if level == "interval":
        return lambda a, b: (_number(a) - _number(b)) ** 2
    ordered = sorted(totals, key=_number)
    before, below = dict[Label, float](), 0.0
    for label in ordered:  # how many ratings lie below the middle of this label's
        before[label] = below + totals[label] / 2
        below += totals[label]
    return lambda a, b: (before[a] - before[b]) ** 2


def _number(label: Label) -> float:
    if not isinstance(label, int | float):
        raise ValueError(f"labels with an order must be numbers, got {label!r}")
    return float(label)
