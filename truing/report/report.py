"""report.html from a run folder: one file that opens offline and needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element

from truing.log.jsonl import replace_file
from truing.log.progress import duration
from truing.report.elements import Child, el, html
from truing.report.page import document
from truing.report.read import Record, RunRecord, read_folder
from truing.report.result import result_section
from truing.report.stage import stage_section


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, whatever state the run is in, and return its path.

    Raises:
        ConfigError: the folder holds no run.
        DataError: its run.json is damaged.
    """
    page = html(_page(read_folder(run_folder)))
    path = run_folder / "report.html"
    replace_file(path, page.encode("utf-8", errors="replace"))
    return path


def _page(record: RunRecord) -> Element:
    stages = [stage_section(stage) for stage in record.stages]
    main = el(
        "main", _problems(record), result_section(record.stages), *stages, _events(record), _origin(record)
    )
    return document(f"{record.run.get('name', record.folder.name)} - Truing", _header(record), main)


def _header(record: RunRecord) -> Element:
    run = record.run
    status = str(run.get("status", "unknown"))
    facts = [f"started {_clock(run.get('started'))}", _took(run), _machine(run.get("machine", {}))]
    links = [el("a", "Result", href="#result")]
    links += [el("a", s.name, href=f"#stage-{s.name}") for s in record.stages]
    links += [el("a", "Events", href="#events"), el("a", "Recipe", href="#recipe")]
    return el(
        "header",
        el("div", el("h1", str(run.get("name", ""))), el("span", status, class_=f"chip {status}"),
           el("button", "Light / dark", type="button", id="theme"), class_="title"),
        el("p", "  ·  ".join(fact for fact in facts if fact), class_="muted"),
        el("nav", *links),
        class_="top",
    )  # fmt: skip


def _problems(record: RunRecord) -> Element | None:
    lines = [f"This report leaves out a damaged file: {problem}" for problem in record.problems]
    status = record.run.get("status")
    if status in ("failed", "interrupted"):
        stage = next((s.entry for s in record.stages if s.entry.get("status") == status), None)
        where = (
            f" in stage {stage['name']}, after {stage['step']} of {stage['num_steps']} steps" if stage else ""
        )
        lines.insert(
            0, f"The run was {status}{where}." if status == "interrupted" else f"The run failed{where}."
        )
        error = next((e for e in reversed(record.events) if e.get("kind") == "error"), None)
        if error is not None and status == "failed":
            lines.insert(1, f"{error.get('type', 'error')}: {error.get('message', '')}")
    if status == "running":
        lines.insert(0, "The run is not finished: these are its figures so far.")
    return el("div", *(el("p", line) for line in lines), class_=f"banner {status}") if lines else None


def _events(record: RunRecord) -> Element:
    rows = [("run", event) for event in record.events]
    rows += [(stage.name, event) for stage in record.stages for event in stage.events]
    rows.sort(key=lambda row: str(row[1].get("time", "")))
    cells = [
        el("tr", el("td", _clock(e.get("time"))), el("td", where), el("td", str(e.get("kind", ""))),
           el("td", str(e.get("message", "")), _facts(e)), class_=str(e.get("kind", "")))
        for where, e in rows
    ]  # fmt: skip
    head = el("tr", *(el("th", title) for title in ("time", "where", "kind", "message")))
    body: Child = (
        el("table", head, *cells) if cells else el("p", "Nothing out of the ordinary.", class_="muted")
    )
    return el("section", el("h2", "Events"), body, id="events")


def _facts(event: Record) -> Element | None:
    facts = {k: v for k, v in event.items() if k not in ("time", "kind", "message")}
    text = ", ".join(f"{key} {value}" for key, value in facts.items())
    return el("span", f" {text}", class_="muted") if text else None


def _origin(record: RunRecord) -> Element:
    versions = record.run.get("versions", {})
    rows = [el("tr", el("td", str(name)), el("td", str(version))) for name, version in versions.items()]
    return el(
        "section",
        el("h2", "How it was made"),
        el("h3", "Command"),
        el("pre", str(record.run.get("command", ""))),
        el(
            "h3",
            "Resolved recipe",
            el("button", "Copy", type="button", class_="copy", data_copy="recipe-text"),
        ),
        el("pre", record.recipe or "recipe.toml is missing", id="recipe-text"),
        el("h3", "Versions"),
        el("table", *rows, class_="versions"),
        id="recipe",
    )


def _clock(iso: object) -> str:
    try:
        return datetime.fromisoformat(str(iso)).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return str(iso or "")


def _took(run: Record) -> str:
    try:
        start, end = (datetime.fromisoformat(str(run.get(key))) for key in ("started", "ended"))
    except ValueError:
        return ""
    return f"took {duration((end - start).total_seconds())}"


def _machine(machine: Mapping[str, object]) -> str:
    gibibytes = float(str(machine.get("memory_bytes", 0))) / 2**30
    accelerators = machine.get("accelerators")
    named = ", ".join(map(str, accelerators)) if isinstance(accelerators, list) and accelerators else "no GPU"
    return f"{machine['cpu_cores']} CPU cores, {gibibytes:.0f} GiB, {named}" if "cpu_cores" in machine else ""
