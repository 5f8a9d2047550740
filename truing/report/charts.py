"""Charts: rates with their intervals as dots on a track, metrics as curves in inline SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from truing.report.elements import el, number

_WIDTH, _HEIGHT = 340, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 20
_MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the steps; values may be NaN or infinite, `low` and `high` draw a band."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    help: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def curve_chart(curve: Curve) -> Element:
    """Return a figure: name with its help, the value under the pointer, and the curve."""
    scale = _Scale.of(curve)
    smooth = _smooth(curve.values)
    marks = [
        *_axes(scale),
        _band(curve, scale),
        _path(curve.steps, curve.values, scale, "raw" if smooth else "raw only"),
        _path(curve.steps, smooth, scale, "smooth") if smooth else None,
        *_dots(curve, scale),
    ]
    svg = el("svg", *marks, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=_spoken(curve))
    steps, values = _thinned(curve.steps, curve.values)
    places = [scale.x(s) for s in steps], [scale.y(v) if math.isfinite(v) else None for v in values]
    svg.set("data-points", json.dumps([steps, [number(v) for v in values], *places]))
    bad = sum(not math.isfinite(v) for v in curve.values)
    value = el("output", number(curve.values[-1]), class_="value", data_last=number(curve.values[-1]))
    note = el("small", f"{bad} of {len(curve.values)} values are not finite", class_="bad") if bad else None
    return el("figure", el("figcaption", label(curve.name, curve.help), value), svg, note, class_="curve")


def label(name: str, tip: str) -> Element:
    """Return a metric's name; what it means shows on hover and on focus."""
    return el("span", name, class_="tip", tabindex="0", data_tip=tip) if tip else el("span", name)


def rate_row(title: str, kind: str, rate: float, low: float, high: float, figures: str) -> Element:
    """Return a row of the dot-and-interval chart; kind is before or after."""
    bar = el("i", class_="bar", style=f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%")
    dot = el("i", class_="dot", style=f"left:{100 * rate:.2f}%")
    track = el("div", bar, dot, class_="track", role="img", aria_label=f"{title}: {figures}")
    return el("div", el("span", title, class_="what"), track, el("span", figures, class_="figures"),
              class_=f"rate {kind}")  # fmt: skip


def rate_axis() -> Element:
    """Return the axis below the rows: 0% to 100%."""
    ticks = [el("span", f"{t}%", style=f"left:{t}%") for t in (0, 25, 50, 75, 100)]
    return el("div", el("span"), el("div", *ticks, class_="ticks"), el("span"), class_="rate axis")


@dataclass(frozen=True, slots=True)
class _Scale:
    first: float
    last: float
    bottom: float
    top: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, curve: Curve) -> _Scale:
        """Return the scale that shows every finite value with a little air, ticks on round numbers."""
        seen = [v for v in (*curve.values, *curve.low, *curve.high) if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(seen), max(seen)
        if high - low < 1e-12 * max(abs(high), 1e-12):
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        step, air = round_step((high - low) / 4), (high - low) * 0.05
        ticks = range(math.ceil((low - air) / step), math.floor((high + air) / step) + 1)
        return cls(min(curve.steps), max(curve.steps), low - air, high + air, tuple(i * step for i in ticks))

    def x(self, step: float) -> float:
        span = self.last - self.first
        share = (step - self.first) / span if span else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def round_step(least: float) -> float:
    """Return the least of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    magnitude = 10.0 ** math.floor(math.log10(least))
    return next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= least * (1 - 1e-9))


def _axes(scale: _Scale) -> list[Element]:
    marks = list[Element]()
    for tick in scale.ticks:
        y = scale.y(tick)
        marks.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        marks.append(el("text", number(round(tick, 12)), x=_LEFT - 6, y=y + 3.5, text_anchor="end"))
    middle = float(round((scale.first + scale.last) / 2))
    for step, anchor in ((scale.first, "start"), (middle, "middle"), (scale.last, "end")):
        if anchor == "middle" and scale.last - scale.first < 4:
            continue
        marks.append(el("text", f"{step:,.0f}", x=scale.x(step), y=_HEIGHT - 5, text_anchor=anchor))
    return marks[:-1] if scale.first == scale.last else marks


def _path(steps: Sequence[float], values: Sequence[float], scale: _Scale, kind: str) -> Element:
    parts, pen = list[str](), "M"
    for step, value in zip(*_extremes(steps, values), strict=True):
        if math.isfinite(value):
            parts.append(f"{pen}{scale.x(step)} {scale.y(value)}")
        pen = "L" if math.isfinite(value) else "M"
    return el("path", d="".join(parts), class_=f"line {kind}")


def _dots(curve: Curve, scale: _Scale) -> list[Element]:
    if len(curve.values) > 12:
        return []
    places = [
        (scale.x(s), scale.y(v)) for s, v in zip(curve.steps, curve.values, strict=True) if math.isfinite(v)
    ]
    return [el("circle", cx=x, cy=y, r=2.6, class_="point") for x, y in places]


def _band(curve: Curve, scale: _Scale) -> Element | None:
    if not curve.low:
        return None
    there = [(s, v) for s, v in zip(curve.steps, curve.high, strict=True)]
    back = [(s, v) for s, v in zip(curve.steps, curve.low, strict=True)][::-1]
    return el(
        "path", d="M" + "L".join(f"{scale.x(s)} {scale.y(v)}" for s, v in there + back) + "Z", class_="band"
    )


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the centred moving average over about a twelfth of the run; [] where there is too little."""
    if len(values) < 20 or not all(math.isfinite(v) for v in values):
        return []
    half = max(1, len(values) // 24)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    windows = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in windows]


def _extremes(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most about 2 * _MAX_POINTS points that keep every peak: least and greatest of each bucket."""
    size = math.ceil(len(values) / _MAX_POINTS)
    if size <= 2:
        return list(steps), list(values)
    kept = list[int]()
    for start in range(0, len(values), size):
        bucket = range(start, min(start + size, len(values)))
        finite = [i for i in bucket if math.isfinite(values[i])] or [start]
        kept += sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)})
    return [steps[i] for i in kept], [values[i] for i in kept]


def _thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = math.ceil(len(values) / _MAX_POINTS)
    return list(steps[::size]), list(values[::size])


def _spoken(curve: Curve) -> str:
    first, last = curve.values[0], curve.values[-1]
    return f"{curve.name} from {number(first)} to {number(last)} over {len(curve.values)} points"
