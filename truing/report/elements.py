"""HTML as a tree, so that every text is escaped by construction; and numbers as people read them."""

from __future__ import annotations

import math
import re
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

Child: TypeAlias = "Element | str | None"

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def el(tag: str, /, *children: Child, **attributes: str | int | float) -> Element:
    """Return an element; `class_` is class, `data_x` is data-x, a None child is nothing."""
    names = {key.rstrip("_").replace("_", "-"): _clean(str(value)) for key, value in attributes.items()}
    element = Element(tag, names)
    for child in children:
        add(element, child)
    return element


def add(parent: Element, child: Child) -> None:
    """Append a child; a string becomes text, whatever it holds."""
    if isinstance(child, Element):
        parent.append(child)
    elif child is not None and len(parent):
        parent[-1].tail = (parent[-1].tail or "") + _clean(child)
    elif child is not None:
        parent.text = (parent.text or "") + _clean(child)


def html(root: Element) -> str:
    """Return a page; script and style elements are the only ones whose text is not escaped."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def number(value: float) -> str:
    """Return about four significant digits: 0.5312, 12,345, 1e-05, NaN."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share as 62.5%."""
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    """Return a difference of shares with its sign, as +43.8."""
    return f"{100 * share:+.1f}"


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
