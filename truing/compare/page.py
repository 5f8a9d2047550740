"""The comparison as files: JSON, Markdown with its charts, and a page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from truing.compare.comparison import Comparison, Method
from truing.compare.intervals import Interval
from truing.compare.trials import Unit, unit_text
from truing.log.jsonl import encode, replace_file
from truing.report.charts import rate_axis, rate_row
from truing.report.elements import el, html, number, percent, points
from truing.report.page import document
from truing.report.scatter import Series, scatter_chart, standalone

_SHORT: dict[Unit, str] = {"tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}


def write_pages(comparison: Comparison, folder: Path, command: str) -> Path:
    """Write comparison.json, .md, .html and the charts; return the path of the HTML page."""
    charts = _charts(comparison)
    for name, svg in charts.items():
        replace_file(folder / f"{name}.svg", standalone(svg).encode())
    replace_file(folder / "comparison.json", encode(comparison.record()).encode() + b"\n")
    replace_file(folder / "comparison.md", _markdown(comparison, list(charts), command).encode())
    path = folder / "comparison.html"
    replace_file(path, html(_page(comparison, charts, command)).encode())
    return path


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the titles and rows of the table that every form of the comparison shows."""
    head = ["method", "seeds", "pass rate at the end", "pass rate at equal compute"]
    head += [f"minus {comparison.methods[0].name}", "tokens", "FLOPs", "seconds", "KL"]
    return head, [_row(comparison, m) for m in comparison.methods]


def basis(comparison: Comparison) -> str:
    """Return in words what the methods are compared at."""
    common = f"{comparison.common:.4g} {unit_text(comparison.unit)}"
    if not comparison.equal:
        return "at the end of each run, which is not equal compute"
    budget = f", of a budget of {comparison.budget}" if comparison.budget is not None else ""
    return f"at the last evaluation within {common}, which every run reached{budget}"


def _row(comparison: Comparison, method: Method) -> list[str]:
    apart = comparison.differences.get(method.name)
    kl = "not measured" if method.kl is None else number(method.kl)
    return [
        f"{method.name} ({method.algorithm})" if method.name != method.algorithm else method.name,
        str(len(method.trials)), _rate(method.final), _rate(method.equal),
        "" if apart is None else f"{points(apart.value)} [{points(apart.low)}, {points(apart.high)}]",
        *(number(method.compute[u]) if u in method.compute else "not recorded" for u in _SHORT), kl,
    ]  # fmt: skip


def _rate(interval: Interval | None) -> str:
    if interval is None:
        return "no evaluation"
    return f"{percent(interval.value)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _notes(comparison: Comparison) -> list[str]:
    paired = "prompt by prompt, " if comparison.same_prompts else ""
    notes = [
        f"Rates and differences are {basis(comparison)}.",
        "Brackets are 95% intervals over seeds and prompts (two-way random effects, Satterthwaite); "
        f"differences are in points, {paired}each for one comparison: with several, expect one in twenty "
        "to leave out 0 by chance.",
        "Compute counts every stage of a run: sampling, annotation and updates, not evaluations. "
        "FLOPs are estimated from weights and tokens; tokens are completion tokens, drawn or read. "
        "Bars on the frontier against compute are the range of the seeds.",
    ]
    if any(m.kl is not None for m in comparison.methods):
        notes.append(
            "KL is from where the last stage began, of the policy's own completions, in nats per completion."
        )
    return notes


def _charts(comparison: Comparison) -> dict[str, Element]:
    """Return the frontiers: the pass rate against compute and, where it was measured, against KL."""
    unit = comparison.unit
    found = {
        "frontier-compute": scatter_chart(
            [s for m in comparison.methods for s in [_against_compute(m, unit)]],
            x_label=unit_text(unit), y_label="pass rate",
        )
    }  # fmt: skip
    measured = [_against_kl(m) for m in comparison.methods if m.kl is not None]
    if measured:
        found["frontier-kl"] = scatter_chart(
            measured, x_label="KL from the start of the last stage [nats per completion]", y_label="pass rate"
        )
    return found


def _against_compute(method: Method, unit: Unit) -> Series:
    """Return the mean over seeds at each evaluation that all seeds made, and the whole range of the seeds."""
    x, y, low, high = list[float](), list[float](), list[float](), list[float]()
    for at in zip(*(t.points for t in method.trials), strict=False):
        rates = [p.rate for p in at]
        x.append(sum(p.compute[unit] for p in at) / len(at))
        y.append(sum(rates) / len(rates))
        low.append(min(rates))
        high.append(max(rates))
    return Series(method.name, x, y, low, high)


def _against_kl(method: Method) -> Series:
    found = [(p.kl, p.rate) for t in method.trials for p in t.points if p.kl is not None]
    return Series(method.name, [kl for kl, _ in found], [rate for _, rate in found], joined=False)


def _markdown(comparison: Comparison, charts: Sequence[str], command: str) -> str:
    head, rows = table(comparison)
    lines = ["# Comparison", "", f"{', '.join(m.name for m in comparison.methods)}: {basis(comparison)}.", ""]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"- {note}" for note in _notes(comparison))]
    if comparison.warnings:
        lines += ["", "## What to doubt", "", *(f"- {w}" for w in comparison.warnings)]
    if comparison.failures:
        lines += ["", "## Runs that broke", ""]
        lines += [f"- {f.name}, seed {f.seed}, in `{f.folder}`: {f.message}" for f in comparison.failures]
    lines += ["", "## Frontiers", "", *(f"![{name}]({name}.svg)" for name in charts)]
    return "\n".join([*lines, "", "## How it was made", "", "```", command, "```", ""])


def _page(comparison: Comparison, charts: dict[str, Element], command: str) -> Element:
    head, rows = table(comparison)
    names = ", ".join(m.name for m in comparison.methods)
    header = el(
        "header",
        el(
            "div",
            el("h1", "Comparison"),
            el("button", "Light / dark", type="button", id="theme"),
            class_="title",
        ),
        el("p", names, class_="muted"),
        class_="top",
    )
    cells = [el("tr", *(el("td", text) for text in row)) for row in rows]
    main = el(
        "main",
        _doubts(comparison),
        el(
            "section",
            el("h2", f"Pass rate on held-out prompts, {basis(comparison)}"),
            el("div", *(_bar(m, comparison.equal) for m in comparison.methods), rate_axis(), class_="rates"),
            el("table", el("tr", *(el("th", title) for title in head)), *cells),
            *(el("p", note, class_="muted") for note in _notes(comparison)),
            id="result",
        ),
        el(
            "section",
            el("h2", "Frontiers"),
            el("div", *(el("div", svg, class_="rates") for svg in charts.values()), class_="headlines"),
        ),
        _origin(comparison, command),
    )
    return document(f"Comparison of {names} - Truing", header, main)


def _bar(method: Method, equal: bool) -> Element:
    shown = method.equal if equal and method.equal is not None else method.final
    return rate_row(method.name, "after", shown.value, shown.low, shown.high, _rate(shown))


def _doubts(comparison: Comparison) -> Element | None:
    lines = [*comparison.warnings, *(f"{f.name}, seed {f.seed}: {f.message}" for f in comparison.failures)]
    return el("div", *(el("p", line) for line in lines), class_="banner failed") if lines else None


def _origin(comparison: Comparison, command: str) -> Element:
    folders = "\n".join(str(t.folder) for m in comparison.methods for t in m.trials)
    return el(
        "section", el("h2", "How it was made"), el("h3", "Command"), el("pre", command),
        el("h3", "Runs"), el("pre", folders), id="recipe",
    )  # fmt: skip
