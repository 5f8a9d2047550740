"""One stage of a run: cost, curves and sample completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from truing.log.metric_help import AREAS, area_of, help_of
from truing.log.progress import duration
from truing.report.charts import Curve, curve_chart, label
from truing.report.elements import el, number
from truing.report.read import StageRecord
from truing.report.samples import samples_section

_FOLDED = {"train", "time"}  # areas whose curves are read only when something is wrong


def stage_section(stage: StageRecord) -> Element:
    """Return a stage: what it cost, its curves by area, and its sample completions."""
    entry = stage.entry
    done, seconds = f"{entry['step']} of {entry['num_steps']} steps", duration(entry["seconds"])
    facts = [f"{done} in {seconds}", _tokens(stage.metrics), _time_shares(stage.metrics)]
    curves = _by_area(stage)
    open_areas = {area: group for area, group in curves.items() if area not in _FOLDED}
    smooth = el("label", el("input", type="checkbox", class_="smoothing", checked="checked"), " smooth")
    status = el("span", entry["status"], class_=f"chip {entry['status']}")
    title = el("h2", stage.name, el("span", entry["algorithm"], class_="chip"), status)
    empty = el("p", "No step was logged.", class_="muted") if not curves else None
    samples = samples_section(stage.samples, int(entry.get("num_steps", 0)))
    return el(
        "section",
        el("div", title, smooth if curves else None, class_="stage-title"),
        el("p", "  ·  ".join(fact for fact in facts if fact), class_="muted"),
        empty,
        el(
            "div",
            _evaluation_curve(stage),
            *(_area(area, group) for area, group in open_areas.items()),
            class_="areas",
        ),
        *(_folded(area, curves[area]) for area in curves if area in _FOLDED),
        el("h3", "Sample completions") if samples is not None else None,
        samples,
        class_="stage",
        id=f"stage-{entry['name']}",
    )


def _evaluation_curve(stage: StageRecord) -> Element | None:
    found = [e for e in stage.evaluations if e.get("rate") is not None]
    if stage.start is not None and stage.start not in found and stage.start.get("rate") is not None:
        found = [{**stage.start, "step": 0}, *found]
    if len(found) < 3:
        return None
    columns = {key: [float(e[key]) for e in found] for key in ("step", "rate", "low", "high")}
    text = "Share [0-1] of held-out prompts passed after so many steps, with its 95% interval."
    curve = Curve("pass rate", columns["step"], columns["rate"], text, columns["low"], columns["high"])
    return _grid("evaluation", "held-out prompts", [curve_chart(curve)], None)


def _by_area(stage: StageRecord) -> dict[str, list[Curve]]:
    """Return the curves of each area, known areas first and in their order."""
    names = list(dict.fromkeys(n for row in stage.metrics for n in row if n not in ("step", "time_s")))
    found: dict[str, list[Curve]] = {}
    for name in names:
        rows = [row for row in stage.metrics if name in row]
        curve = Curve(name, [row["step"] for row in rows], [row[name] for row in rows], help_of(name))
        found.setdefault(area_of(name), []).append(curve)
    return {area: found[area] for area in dict.fromkeys([*AREAS, *found]) if area in found}


def _area(area: str, curves: Sequence[Curve]) -> Element:
    return _grid(area, AREAS.get(area, ""), *_charts(curves))


def _folded(area: str, curves: Sequence[Curve]) -> Element:
    summary = el("summary", area, el("span", f" {AREAS[area]}", class_="muted"))
    return el("details", summary, _grid("", "", *_charts(curves)))


def _charts(curves: Sequence[Curve]) -> tuple[list[Element], Element | None]:
    """Return a chart of each curve that moves, and one line for those that never do."""
    flat = [c for c in curves if len(c.values) > 1 and len(set(c.values)) == 1]
    chips = [el("li", label(c.name, c.help), f" {number(c.values[0])}") for c in flat]
    constant = el("ul", el("li", "constant:"), *chips, class_="constants") if flat else None
    return [curve_chart(c) for c in curves if c not in flat], constant


def _grid(title: str, about: str, charts: Sequence[Element], below: Element | None) -> Element:
    heading = el("h3", title, el("span", f" {about}", class_="muted")) if title else None
    span = f"area span-{min(len(charts), 3) if title else 3}"
    return el("div", heading, el("div", *charts, class_="curves") if charts else None, below, class_=span)


def _tokens(metrics: Sequence[Mapping[str, float]]) -> str:
    total = sum(row.get("train/completion_tokens", 0.0) for row in metrics)
    return f"{total:,.0f} completion tokens" if total else ""


def _time_shares(metrics: Sequence[Mapping[str, float]]) -> str:
    whole = sum(row.get("time/step_s", 0.0) for row in metrics)
    if not whole:
        return ""
    parts = {"collecting": "time/collect_s", "annotating": "time/annotate_s"}
    shares = {word: sum(row.get(name, 0.0) for row in metrics) / whole for word, name in parts.items()}
    if max(shares.values()) < 0.005:
        return ""
    shares["updating and the rest"] = max(0.0, 1 - sum(shares.values()))
    return "time: " + ", ".join(
        f"{100 * share:.0f}% {word}" for word, share in shares.items() if share >= 0.005
    )
