"""Train each method on the toy task and draw how it learned: mean and range of five seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
LEARNING = ROOT / "tests" / "learning"
CURVES = ROOT / "docs" / "methods" / "curves"
SEEDS = range(5)
WIDTH, HEIGHT, LEFT, BOTTOM, AIR = 420, 200, 46, 34, 12


def draw(wanted: Sequence[str]) -> None:
    """Write docs/methods/curves/NAME.svg of the wanted methods, of all where none is named.

    The case of a method is the one that its learning test trains: `METHODS` of the test's module.
    """
    sys.path.insert(0, str(LEARNING))
    CURVES.mkdir(exist_ok=True)
    for name, case in cases():
        if not wanted or name in wanted:
            curves = [case.train(seed=seed, watch=case.measure).curve for seed in SEEDS]
            steps = [step for step, _ in curves[0]]
            values = [[value for _, value in curve] for curve in curves]
            ET.ElementTree(chart(case, steps, values)).write(CURVES / f"{name}.svg", encoding="unicode")


def cases() -> Iterator[tuple[str, Any]]:
    """Yield the first case of each method, the one of its own name where there is one."""
    import importlib

    toy = importlib.import_module("toy")
    found = dict[str, Any]()
    for path in sorted(LEARNING.glob("test_*.py")):
        for name, case in getattr(importlib.import_module(path.stem), "METHODS", {}).items():
            if isinstance(case, toy.Case) and (name == case.method or case.method not in found):
                found[case.method] = case
    yield from found.items()


MEASURED = {
    "mean_reward": "mean reward",
    "second_attempt": "reward of the second attempt",
    "order_recovered": "Kendall's tau with the known order",
    "imitation": "teacher's entropy / held-out loss",
    "by_scores": "held-out pairs ranked right",
    "by_logprobs": "held-out pairs ranked right",
    "by_log_ratio": "held-out pairs ranked right",
}


def chart(case: Any, steps: list[int], values: list[list[float]]) -> ET.Element:
    """Return the chart as SVG, in colours that are read on white and on black."""
    top = max(1.0, *(max(v) for v in values))
    bottom = min(0.0, *(min(v) for v in values))

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - AIR) * step / steps[-1], 1)

    def y(value: float) -> float:
        return round(AIR + (HEIGHT - AIR - BOTTOM) * (top - value) / (top - bottom), 1)

    svg = ET.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=str(WIDTH)
    )
    style = "text{font:11px system-ui,sans-serif;fill:#777}line{stroke:#7774}path{fill:none}"
    ET.SubElement(svg, "style").text = style
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        ET.SubElement(svg, "line", x1=str(LEFT), x2=str(WIDTH - AIR), y1=str(y(tick)), y2=str(y(tick)))
        ET.SubElement(
            svg, "text", {"x": str(LEFT - 6), "y": str(y(tick) + 4), "text-anchor": "end"}
        ).text = f"{tick:g}"
    ET.SubElement(svg, "line", {"x1": str(LEFT), "x2": str(WIDTH - AIR), "y1": str(y(case.enough)),
                  "y2": str(y(case.enough)), "style": "stroke:#2a7;stroke-dasharray:4 3"})  # fmt: skip
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        ET.SubElement(
            svg, "text", {"x": str(x(step)), "y": str(HEIGHT - 18), "text-anchor": "middle"}
        ).text = str(step)
    label = f"steps · {MEASURED[case.measure.__name__]} (dashed: its test's bar)"
    ET.SubElement(
        svg, "text", {"x": str((LEFT + WIDTH) / 2), "y": str(HEIGHT - 4), "text-anchor": "middle"}
    ).text = label
    columns = list(zip(*values, strict=True))
    high = [(x(s), y(max(c))) for s, c in zip(steps, columns, strict=True)]
    low = [(x(s), y(min(c))) for s, c in zip(steps, columns, strict=True)][::-1]
    mean = [(x(s), y(sum(c) / len(c))) for s, c in zip(steps, columns, strict=True)]
    ET.SubElement(svg, "path", d=path_of(high + low) + "Z", style="fill:#48c3")
    ET.SubElement(svg, "path", d=path_of(mean), style="stroke:#48c;stroke-width:2")
    return svg


def path_of(points: list[tuple[float, float]]) -> str:
    """Return the points as an SVG path."""
    return "M" + "L".join(f"{a} {b}" for a, b in points)
