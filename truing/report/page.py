"""The frame of every page: style and script inside, nothing fetched, no script but its own."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from xml.etree.ElementTree import Element

from truing.report.elements import Child, el


def document(title: str, *body: Child) -> Element:
    """Return a page that opens offline and needs nothing else."""
    style, script = (
        files("truing.report").joinpath(n).read_text(encoding="utf-8") for n in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", style),
    )
    return el("html", head, el("body", *body, el("script", script)), lang="en")
