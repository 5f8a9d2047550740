"""A comparison of searches as JSON, as text and as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from truing.errors import ConfigError
from truing.report.scatter import Series, scatter_chart, standalone
from truing.search._compare import Outcome, Point, SearchComparison


def record(found: SearchComparison) -> dict[str, Any]:
    """Return the comparison as JSON can write it; rates of nothing are null."""
    rows = [
        _row(one) | {"difference": None if d is None else asdict(d)}
        for one, d in zip(found.outcomes, found.differences, strict=True)
    ]
    return {
        "plan": found.plan.model_dump(mode="json"),
        "num_prompts": len(found.outcomes[0].outcomes),
        "budget": found.plan.budget,
        "sees_gold": sees_gold(found),
        "strategies": rows,
        "curve": [asdict(point) for point in found.curve],
    }


def text(found: SearchComparison) -> str:
    """Return the comparison as lines for people."""
    first, budget = found.outcomes[0], found.plan.budget
    limit = f"{budget:,} tokens a prompt" if budget else "one pass of each strategy, at unequal cost"
    lines = [f"{len(first.outcomes)} prompts, {limit}; 95% intervals; differences from {first.name}"]
    lines.append(_line("", "right", "interval", "difference", "generated", "scored", "found", "none chosen"))
    for one, difference in zip(found.outcomes, found.differences, strict=True):
        row, change = _row(one), ""
        if difference is not None:
            d = difference
            change = f"{100 * d.difference:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        rate = "-" if row["rate"] is None else f"{row['rate']:.1%}"
        lines.append(_line(
            one.name, rate, f"{row['low']:.1%} to {row['high']:.1%}", change,
            f"{row['generated']:,.0f}", f"{row['scored']:,.0f}", f"{row['found']:.1f}",
            str(row["none_chosen"]),
        ))  # fmt: skip
    if sees_gold(found):
        lines.append(
            "the scorer is the verifier that judges: what searches by it is an upper bound, not a result"
        )
    return "\n".join([*lines, *_curve(found.curve)])


def sees_gold(found: SearchComparison) -> bool:
    """Return whether the search may use the verdicts that it is judged by."""
    scorer = found.plan.scorer
    return scorer is not None and scorer.verifier == found.plan.verifier


def plot(found: SearchComparison) -> str:
    """Return gold and proxy of best-of-n against the bound of its KL as the text of an .svg file.

    Raises:
        ConfigError: the plan asked for no curve, or there were too few scored completions for one.
    """
    if not found.curve:
        raise ConfigError("there is no curve to draw: set curve_samples to 2 or more, with a scorer")
    x = [math.sqrt(p.kl_bound) for p in found.curve]
    gold = Series(
        "gold: the verifier", x, [p.gold for p in found.curve], [p.gold_low for p in found.curve],
        [p.gold_high for p in found.curve],
    )  # fmt: skip
    proxy = Series(
        "proxy: the scorer", x, [p.proxy for p in found.curve], [p.proxy_low for p in found.curve],
        [p.proxy_high for p in found.curve],
    )  # fmt: skip
    some = Series("some of n is right", x, [p.pass_at_n for p in found.curve])
    label = "sqrt(log n - (n - 1) / n) [nats^1/2]"
    return standalone(scatter_chart([gold, proxy, some], x_label=label, y_label="best of n"))


def _row(one: Outcome) -> dict[str, Any]:
    rate, low, high = one.rate()
    return {
        "name": one.name,
        "rate": None if math.isnan(rate) else rate,
        "low": low,
        "high": high,
        "num_scored": sum(o is not None for o in one.outcomes),
        "none_chosen": one.chosen.count(None),
        "generated": fmean(s.generated for s in one.spent),
        "scored": fmean(s.scored for s in one.spent),
        "read": fmean(s.read for s in one.spent),
        "total": fmean(s.total for s in one.spent),
        "found": fmean(one.num_found),
        "outcomes": list(one.outcomes),
    }


def _line(*cells: str) -> str:
    widths = (20, 7, 16, 22, 10, 9, 7, 11)
    return "  ".join(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True)).rstrip()


def _curve(curve: Sequence[Point]) -> list[str]:
    if not curve:
        return []
    lines = ["", "best of n by the scorer (estimates without bias; KL is a bound)"]
    for p in curve:
        lines.append(
            f"  n = {p.n:<5} KL <= {p.kl_bound:.2f}  "
            f"gold {p.gold:.3f} [{p.gold_low:.3f}, {p.gold_high:.3f}]  "
            f"proxy {p.proxy:.3f} [{p.proxy_low:.3f}, {p.proxy_high:.3f}]  "
            f"some right {p.pass_at_n:.3f}"
        )
    return lines
