"""The headline: pass rate before and after each stage, with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from truing.report.charts import rate_axis, rate_row
from truing.report.elements import el, percent, points
from truing.report.read import Record, StageRecord


def result_section(stages: Sequence[StageRecord]) -> Element:
    """Return what changed in each stage, as figures and as dots with their intervals."""
    shown = [s for s in stages if s.end is not None or s.start is not None]
    if not shown:
        text = "No evaluation was made: add an evaluation to the recipe to know whether the run helped."
        return el("section", el("h2", "Result"), el("p", text, class_="muted"), id="result")
    groups = [el("div", *_rate_rows(stage), class_="group") for stage in shown]
    note = (
        "Bars are 95% intervals (Wilson for a rate; Newcombe for a difference, paired where both were "
        "measured on the same prompts). An interval that includes 0 is no evidence of a change. "
        "Completions that could not be scored are left out of the rate."
    )
    return el(
        "section",
        el("h2", "Result: pass rate on held-out prompts"),
        el("div", *(_card(stage) for stage in shown), class_="headlines"),
        el("div", *groups, rate_axis(), class_="rates"),
        el("p", note, class_="muted"),
        id="result",
    )


def _card(stage: StageRecord) -> Element:
    found, title = stage.difference, f"{stage.name} ({stage.entry.get('algorithm', '')})"
    if found is None:
        end = stage.end if stage.end is not None else stage.start
        rate = end.get("rate") if end else None
        figure = "not scored" if rate is None else percent(rate)
        return el("div", el("h3", title), el("p", figure, class_="big"),
                  el("p", "nothing to compare it with", class_="muted"), class_="headline")  # fmt: skip
    kind = "better" if found.low > 0 else "worse" if found.high < 0 else "unclear"
    word = {"better": "better", "worse": "worse", "unclear": "no clear change"}[kind]
    interval = f"{points(found.difference)} points (95% {points(found.low)} to {points(found.high)})"
    changed = "different prompts"
    if found.gained is not None:
        changed = f"same {found.num_prompts} prompts: {found.gained} gained, {found.lost} lost"
    return el(
        "div",
        el("h3", title, el("span", word, class_=f"chip {kind}")),
        el("p", percent(found.before), el("span", " → ", class_="muted"), percent(found.after), class_="big"),
        el("p", interval),
        el("p", changed, class_="muted"),
        class_="headline",
    )


def _rate_rows(stage: StageRecord) -> list[Element]:
    rows = [el("h4", stage.name)]
    for kind, evaluation in (("before", stage.start), ("after", stage.end)):
        if evaluation is None or evaluation.get("rate") is None:
            continue
        title = (
            f"after {evaluation['step']} steps"
            if evaluation.get("when") == "step" and kind == "after"
            else kind
        )
        low, high = evaluation["low"], evaluation["high"]
        figures = f"{percent(evaluation['rate'])}  [{100 * low:.1f}, {100 * high:.1f}]  {_counts(evaluation)}"
        rows.append(rate_row(title, kind, evaluation["rate"], low, high, figures))
    return rows


def _counts(evaluation: Record) -> str:
    scored = evaluation.get("num_scored", evaluation["num_prompts"])
    lost = {k: v for k, v in evaluation.get("statuses", {}).items() if k != "scored"}
    left_out = "\nleft out: " + ", ".join(f"{num} {name}" for name, num in lost.items()) if lost else ""
    return f"{evaluation['passed']}/{scored}{left_out}"
