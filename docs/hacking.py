"""Draw what docs/reward_hacking.md shows, from runs of recipes/hacking: curves side by side, and the table.

    python docs/hacking.py runs/naive-001 runs/defended-001

Words on the page are written by people and stay as they are; only what stands between the markers is made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
PAGE, FIGURE = ROOT / "docs" / "reward_hacking.md", ROOT / "docs" / "reward_hacking.svg"
MARKS = ("<!-- generated: runs -->", "<!-- end of runs -->")
WIDTH, HEIGHT, LEFT, BOTTOM, AIR = 250, 190, 40, 36, 26
COLOURS = ("#d55", "#48c")


@dataclass(frozen=True, slots=True)
class Curves:
    """What a run's last stage showed; of the evaluations (step, rate, low, high, mean tokens)."""

    name: str
    proxy: tuple[float, ...]  # brevity, 0 to 1
    tokens: tuple[float, ...]
    reward: tuple[float, ...]
    evaluations: tuple[tuple[float, float, float, float, float], ...]


def read(folder: Path) -> Curves:
    """Return the curves of a finished run."""
    from truing.report.read import read_folder

    record = read_folder(folder)
    stage = record.stages[-1]
    steps = sorted(stage.metrics, key=lambda m: m["step"])
    found = [e for e in ([stage.start] if stage.start else []) + list(stage.evaluations) if e]
    unique = {int(e["step"]): e for e in found}
    return Curves(
        str(record.run["name"]),
        tuple(m["reward/brief_mean"] for m in steps),
        tuple(m["rollout/mean_tokens"] for m in steps),
        tuple(m["reward/mean"] for m in steps),
        tuple((s, e["rate"], e["low"], e["high"], e["mean_tokens"]) for s, e in sorted(unique.items())),
    )


def figure(runs: Sequence[Curves]) -> ET.Element:
    """Return three panels: what the hack is paid for, what was wanted, and length."""
    svg = ET.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {3 * WIDTH} {HEIGHT}", width=str(3 * WIDTH)
    )
    style = "text{font:11px system-ui,sans-serif;fill:#777}line{stroke:#7774}path{fill:none;stroke-width:2}"
    ET.SubElement(svg, "style").text = style
    panels = (
        ("brevity, which is paid for", [list(enumerate(r.proxy)) for r in runs], None),
        ("held-out pass rate", [[(e[0], e[1]) for e in r.evaluations] for r in runs],
         [[(e[0], e[2], e[3]) for e in r.evaluations] for r in runs]),
        ("tokens of a completion", [list(enumerate(r.tokens)) for r in runs], None),
    )  # fmt: skip
    for place, (title, lines, bands) in enumerate(panels):
        group = ET.SubElement(svg, "g", transform=f"translate({place * WIDTH} 0)")
        panel(group, title, lines, bands)
    for i, run in enumerate(runs):
        at = {"x": str(LEFT + i * 80), "y": str(HEIGHT - 3), "style": f"fill:{COLOURS[i]}"}
        ET.SubElement(svg, "text", at).text = f"— {run.name}"
    return svg


def panel(
    group: ET.Element,
    title: str,
    lines: Sequence[Sequence[tuple[float, float]]],
    bands: Sequence[Sequence[tuple[float, float, float]]] | None,
) -> None:
    """Draw one panel: its axes, a line for each run, and intervals where there are any."""
    last = max(step for line in lines for step, _ in line) or 1
    highest = max(value for line in lines for _, value in line)
    top = 1.0 if bands else 1.1 * max(highest, 1e-9)

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 12) * step / last, 1)

    def y(value: float) -> float:
        return round(AIR + (HEIGHT - AIR - BOTTOM) * (1 - value / top), 1)

    ET.SubElement(group, "text", x=str(LEFT), y="14").text = title
    for tick in (0.0, top / 2, top):
        ET.SubElement(group, "line", x1=str(LEFT), x2=str(WIDTH - 12), y1=str(y(tick)), y2=str(y(tick)))
        at = {"x": str(LEFT - 5), "y": str(y(tick) + 4), "text-anchor": "end"}
        ET.SubElement(group, "text", at).text = f"{tick:.0%}" if bands else f"{tick:.3g}"
    for step in (0, last):
        at = {"x": str(x(step)), "y": str(HEIGHT - 22), "text-anchor": "middle"}
        ET.SubElement(group, "text", at).text = f"step {step:g}" if step else "0"
    for colour, line in zip(COLOURS, lines, strict=True):
        d = "M" + "L".join(f"{x(a)} {y(b)}" for a, b in line)
        ET.SubElement(group, "path", d=d, style=f"stroke:{colour}")
    for i, band in enumerate(bands or ()):
        for step, low, high in band:
            d = f"M{x(step) + 3 * i} {y(low)}L{x(step) + 3 * i} {y(high)}"
            ET.SubElement(group, "path", d=d, style=f"stroke:{COLOURS[i]};stroke-width:1")


def table(runs: Sequence[Curves]) -> str:
    """Return the first and last of what was measured, as a Markdown table."""
    head = "| run | steps | reward | brevity | tokens of a completion | held-out pass rate |"
    rows = [head, "|---|---|---|---|---|---|"]
    for r in runs:
        ends = (r.evaluations[0], r.evaluations[-1])
        rate = " → ".join(f"{e[1]:.0%} ({e[2]:.0%} to {e[3]:.0%})" for e in ends)
        paid = f"{r.reward[0]:.2f} → {r.reward[-1]:.2f}"
        drawn = f"{r.proxy[0]:.2f} → {r.proxy[-1]:.2f} | {r.tokens[0]:.0f} → {r.tokens[-1]:.0f}"
        rows.append(f"| `{r.name}` | {len(r.proxy)} | {paid} | {drawn} | {rate} |")
    return "\n".join(rows)


def main(folders: Sequence[str]) -> None:
    """Write the figure and the part of the page between the markers."""
    if len(folders) != 2:
        raise SystemExit("give two runs: python docs/hacking.py runs/naive-001 runs/defended-001")
    runs = [read(Path(f)) for f in folders]
    ET.ElementTree(figure(runs)).write(FIGURE, encoding="unicode")
    names = " and ".join(r.name for r in runs)
    made = f"![The runs {names} side by side]({FIGURE.name})\n\n{table(runs)}"
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"({re.escape(MARKS[0])}\n).*?(\n{re.escape(MARKS[1])})", re.DOTALL)
    text, count = pattern.subn(lambda m: m[1] + made + m[2], page)
    if count != 1:
        raise SystemExit(f"{PAGE}: the markers {MARKS[0]} and {MARKS[1]} stand there once each")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
