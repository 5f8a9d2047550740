"""Answers as text: the last box, quantities with units, and exact comparison of plain numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_SPACE = r"(?:\s|\\[,;:! ]|~)*"
_NUMBER = (
    r"(?P<sign>[-+\u2212]?)" + _SPACE + r"(?:"
    r"(?:(?P<whole>\d{1,6})"
    + _SPACE
    + r")?\\[dt]?frac\{\s*(?P<tex_top>-?\d+)\s*\}\{\s*(?P<tex_bottom>\d+)\s*\}"
    r"|(?:(?P<plain_whole>\d{1,6})\s+)?(?P<top>\d+)\s*/\s*(?P<bottom>\d+)"
    r"|(?P<grouped>\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+)(?P<grouped_rest>\.\d+)?"
    r"|(?P<decimal>\d+\.\d*|\.\d+)"
    r"|(?P<integer>\d+)"
    r")"
)
_KNOWN_UNITS = (
    r"m|cm|mm|km|in|ft|yd|mi|g|kg|mg|lb|oz|s|ms|h|hr|min|day|l|L|ml|mL|km/h|m/s|cm/s|mph|gal|pt|J|N|W|V|A|Hz|Pa"
    r"|USD|EUR"
)
_TEX_UNIT = r"\\(?:text|mathrm|textrm|mbox|textnormal)\s*\{(?P<unit>[^{}\\]*)\}(?P<power>\s*\^\s*\{?\d\}?)?"
_UNIT = (
    _TEX_UNIT
    + rf"|(?P<word_unit>[A-Za-z]{{4,}}(?:[ /][A-Za-z]+)*|{_KNOWN_UNITS})(?P<word_power>\^\{{?\d\}}?|[²³])?"
    r"|(?P<percent>\\?%)|(?P<degree>\^\s*\{?\\circ\}?|\\degree|°)"
)
_QUANTITY = re.compile(rf"(?P<currency>\\?\$|€|£)?{_SPACE}{_NUMBER}{_SPACE}(?:{_UNIT})?\s*\.?")
_TRAILING_UNIT = re.compile(rf"(?P<body>.*?\S){_SPACE}{_TEX_UNIT}")
_SAME_UNIT = {
    **dict.fromkeys(("h", "hr", "hrs", "hour"), "hour"),
    **dict.fromkeys(("min", "mins", "minute"), "minute"),
    **dict.fromkeys(("s", "sec", "secs", "second"), "second"),
    **dict.fromkeys(("m", "meter", "metre"), "m"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("km", "kilometer", "kilometre"), "km"),
    **dict.fromkeys(("in", "inch", "inche"), "inch"),
    **dict.fromkeys(("ft", "foot", "feet"), "foot"),
    **dict.fromkeys(("g", "gram"), "g"),
    **dict.fromkeys(("kg", "kilogram"), "kg"),
    **dict.fromkeys(("l", "L", "liter", "litre"), "l"),
    **dict.fromkeys(("dollar", "USD", "usd"), "$"),
    **dict.fromkeys(("percent", "%"), "%"),
    **dict.fromkeys(("degree", "°"), "°"),
}
MAX_CHARS = 400  # no plain number is longer


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written: its exact value, whether it has a decimal point, and its unit."""

    value: Fraction
    decimal: bool
    unit: str  # "" for none


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` holds, braces balanced; None without a closed one."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for position in range(begin, len(text)):
        character = text[position]
        if character in "{}" and text[position - 1] != "\\":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return text[begin:position].strip()
    return None


def quantity(text: str) -> Quantity | None:
    """Return an integer, fraction, mixed number or decimal with its unit; None for anything else."""
    if len(text) > MAX_CHARS:
        return None
    found = _QUANTITY.fullmatch(_bare(text))
    if found is None:
        return None
    value = _value(found)
    unit = "$" if found["currency"] else _unit(found)
    if value is None:
        return None
    return Quantity(value, bool(found["decimal"] or found["grouped_rest"]), unit)


def split_unit(text: str) -> tuple[str, str]:
    r"""Return the expression and the unit of a trailing `\text{...}`; the unit is "" without one."""
    found = _TRAILING_UNIT.fullmatch(_bare(text))
    if found is None:
        return _bare(text), ""
    return found["body"], _normal_unit(found["unit"], found["power"])


def equal_quantities(gold: Quantity, answer: Quantity, relative_tolerance: float) -> bool:
    """Return whether two quantities are equal: exactly, or within the tolerance if one is a decimal.

    A unit that only one side gives is not compared; 50% and 0.5 are the same.
    """
    if not same_unit(gold.unit, answer.unit):
        return False
    if _equal(gold.value, answer.value, gold.decimal or answer.decimal, relative_tolerance):
        return True
    if (gold.unit == "%") == (answer.unit == "%"):
        return False
    a, b = (q.value / 100 if q.unit == "%" else q.value for q in (gold, answer))
    return _equal(a, b, gold.decimal or answer.decimal, relative_tolerance)


def same_unit(gold: str, answer: str) -> bool:
    """Return whether two units agree, or one side has none."""
    return not gold or not answer or gold == answer


def is_prose(text: str) -> bool:
    r"""Return whether the text is words: `\text{odd}`, `Paris`, `yes`; but `abc` is a product."""
    words, marked = _words(text)
    letters = r"[A-Za-z]{2,}" if marked else r"(?:[A-Za-z]{4,}|yes|no|Yes|No)"
    return re.fullmatch(letters + r"(?:[ '-][A-Za-z]+)*", words) is not None


def same_words(gold: str, answer: str) -> bool:
    r"""Return whether two texts are the same words, whatever their case and `\text{}`."""
    return _words(gold)[0].lower() == _words(answer)[0].lower()


def _words(text: str) -> tuple[str, bool]:
    r"""Return the text with single spaces, and whether it was inside `\text{}`."""
    bare = _bare(text)
    inside = re.fullmatch(r"\\(?:text|mathrm|textbf|textrm|mbox)\s*\{([^{}\\]*)\}", bare)
    return " ".join((inside[1] if inside else bare).split()), inside is not None


def _bare(text: str) -> str:
    """Return the text without the delimiters around mathematics."""
    text = text.strip()
    for opening, closing in (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$")):
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return text


def _value(found: re.Match[str]) -> Fraction | None:
    sign = -1 if found["sign"] in ("-", "\u2212") else 1
    if found["tex_top"] or found["top"]:
        top, bottom = int(found["tex_top"] or found["top"]), int(found["tex_bottom"] or found["bottom"])
        whole = found["whole"] or found["plain_whole"]
        if bottom == 0 or (whole and top < 0):
            return None
        return sign * (int(whole or 0) + Fraction(top, bottom))
    if found["grouped"]:
        return sign * Fraction(re.sub(r"[^\d]", "", found["grouped"]) + (found["grouped_rest"] or ""))
    return sign * Fraction(found["decimal"] or found["integer"])


def _unit(found: re.Match[str]) -> str:
    if found["percent"]:
        return "%"
    if found["degree"]:
        return "°"
    return _normal_unit(found["unit"] or found["word_unit"] or "", found["power"] or found["word_power"])


def _normal_unit(unit: str, power: str | None) -> str:
    """Return one spelling of a unit: singular, and its power as a digit."""
    words = " ".join(unit.split())
    single = words[:-1] if len(words) > 3 and words.endswith("s") and not words.endswith("ss") else words
    name = _SAME_UNIT.get(single, _SAME_UNIT.get(words, single.lower() if len(single) > 3 else single))
    digit = re.sub(r"\D", "", (power or "").replace("²", "2").replace("³", "3"))
    return name + digit


def _equal(a: Fraction, b: Fraction, approximate: bool, relative_tolerance: float) -> bool:
    if a == b:
        return True
    return approximate and abs(a - b) <= Fraction(relative_tolerance) * max(abs(a), abs(b))
