"""Several series in one chart: points with their intervals, joined where they are a path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

from truing.report.charts import round_step
from truing.report.elements import el, number

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a929a", "#b8a000")
_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
_INK = "#667079"


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name and colour; `low` and `high` draw an interval on each.

    Args:
        joined: whether a line joins the points in their order.
        curve: further places (x, y) that a thin line goes through: a fitted law.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    joined: bool = True
    curve: Sequence[tuple[float, float]] = ()


def scatter_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> Element:
    """Return the chart as an SVG element; its legend names every series."""
    xs = [x for s in series for x in (*s.x, *(p[0] for p in s.curve))]
    ys = [y for s in series for y in (*s.y, *s.low, *s.high, *(p[1] for p in s.curve))]
    across = _Axis.of(xs, _LEFT, _WIDTH - _RIGHT)
    up = _Axis.of(ys, _HEIGHT - _BOTTOM, _TOP)
    marks = [*_grid(across, up, x_label, y_label)]
    for index, one in enumerate(series):
        marks.append(_drawn(one, COLOURS[index % len(COLOURS)], across, up))
    legend = [_legend(one.name, index) for index, one in enumerate(series)]
    height = _HEIGHT + 18 * len(series)
    spoken = f"{y_label} against {x_label}: {', '.join(s.name for s in series)}"
    return el("svg", *marks, *legend, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=spoken)


def standalone(svg: Element) -> str:
    """Return the chart as the text of an .svg file."""
    style = f"text{{font:11px system-ui,sans-serif;fill:{_INK}}}"
    copied = el("svg", el("style", style), **{"xmlns": "http://www.w3.org/2000/svg", **svg.attrib})
    copied.extend(list(svg))
    return tostring(copied, encoding="unicode") + "\n"


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """Return the axis that shows every finite value with a little air, ticks on round numbers."""
        seen = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(seen), max(seen)
        if high - low < 1e-12 * max(abs(high), 1e-12):
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        air, step = (high - low) * 0.04, round_step((high - low) / 5)
        ticks = range(math.ceil((low - air) / step), math.floor((high + air) / step) + 1)
        return cls(low - air, high + air, start, end, tuple(i * step for i in ticks))

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _grid(across: _Axis, up: _Axis, x_label: str, y_label: str) -> list[Element]:
    marks = list[Element]()
    line: dict[str, str | float] = {"stroke": "#8a929a", "stroke_opacity": 0.25}
    for tick in up.ticks:
        y = up.at(tick)
        marks.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, **line))
        marks.append(el("text", number(round(tick, 12)), x=_LEFT - 6, y=y + 3.5, text_anchor="end"))
    for tick in across.ticks:
        x = across.at(tick)
        marks.append(el("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, **line))
        marks.append(el("text", number(round(tick, 12)), x=x, y=_HEIGHT - _BOTTOM + 15, text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    marks.append(el("text", x_label, x=middle, y=_HEIGHT - 10, text_anchor="middle"))
    turned = f"translate(12 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)"
    return [*marks, el("text", y_label, transform=turned, text_anchor="middle")]


def _drawn(one: Series, colour: str, across: _Axis, up: _Axis) -> Element:
    group = el("g", stroke=colour, fill="none")
    points = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    for line, width in ((one.curve, 1.4), (points if one.joined else (), 1.8)):
        if len(line) > 1:
            path = "M" + "L".join(f"{across.at(x)} {up.at(y)}" for x, y in line)
            group.append(el("path", d=path, stroke_width=width, stroke_linejoin="round"))
    for x, low, high in zip(one.x if one.low else (), one.low, one.high, strict=True):
        place = across.at(x)
        group.append(el("line", x1=place, x2=place, y1=up.at(low), y2=up.at(high), stroke_opacity=0.6))
    for x, y in points:
        dot = el("circle", el("title", f"{one.name}: {number(x)}, {number(y)}"), cx=across.at(x), cy=up.at(y))
        dot.attrib |= {"r": "3.6" if one.low else "2.4", "fill": colour, "stroke": "none"}
        group.append(dot)
    return group


def _legend(name: str, index: int) -> Element:
    y = _HEIGHT + 18 * index + 4
    dot = el("circle", cx=_LEFT + 5, cy=y - 4, r=4, fill=COLOURS[index % len(COLOURS)])
    return el("g", dot, el("text", name, x=_LEFT + 16, y=y))
