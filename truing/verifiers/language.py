"""Whether a completion stays in the language that was asked for: the share of its sentences that do.

A policy that is paid for answers alone starts to mix languages; this is the language consistency term
of DeepSeek-R1 (arXiv:2501.12948, section 2.3.2). Letters of another script count at once; sentences long
enough are identified by py3langid. Formulas, code and numbers belong to no language and are left out.
"""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from typing import Any

from pydantic import Field, field_validator

from truing.config import Strict
from truing.types import Verdict
from truing.verifiers import Example

_CODES = (
    "af am an ar as az be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr ga gl gu he hi hr "
    "ht hu hy id is it ja jv ka kk km kn ko ku ky la lb lo lt lv mg mk ml mn mr ms mt nb ne nl nn no oc "
    "or pa pl ps pt qu ro ru rw se si sk sl sq sr sv sw ta te th tl tr ug uk ur vi vo wa xh zh zu"
)
_SCRIPTS = {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "HANGUL", "HIRAGANA", "KATAKANA", "CJK", "THAI",
            "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "GEORGIAN", "ARMENIAN"}  # fmt: skip
_OWN = {
    "zh": {"CJK"}, "ja": {"CJK", "HIRAGANA", "KATAKANA"}, "ko": {"HANGUL", "CJK"}, "ru": {"CYRILLIC"},
    "uk": {"CYRILLIC"}, "bg": {"CYRILLIC"}, "mk": {"CYRILLIC"}, "be": {"CYRILLIC"}, "kk": {"CYRILLIC"},
    "sr": {"CYRILLIC", "LATIN"}, "el": {"GREEK"}, "ar": {"ARABIC"}, "fa": {"ARABIC"}, "ur": {"ARABIC"},
    "he": {"HEBREW"}, "th": {"THAI"}, "hi": {"DEVANAGARI"}, "mr": {"DEVANAGARI"}, "ne": {"DEVANAGARI"},
    "bn": {"BENGALI"}, "ta": {"TAMIL"}, "te": {"TELUGU"}, "ka": {"GEORGIAN"}, "hy": {"ARMENIAN"},
}  # fmt: skip


class Config(Strict):
    """Which language is asked for."""

    language: str = Field("en", description="ISO 639-1 code, or 'reference': each row's reference is it")
    min_letters: int = Field(25, ge=1, description="a shorter sentence is judged by its script alone")

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (*_CODES.split(), "reference"):
            raise ValueError(f"no language has the code '{value}'; ISO 639-1 has two letters: en, de, zh")
        return value


_GERMAN = "Der Zug fährt um zwölf Uhr, wir haben also noch eine Stunde Zeit."
EXAMPLES: tuple[Example, ...] = (
    Example("gold", "The train leaves at noon, so we have an hour to eat. That is plenty of time."),
    Example("gold", _GERMAN, "de", options={"language": "reference"}),
    Example("gold", "因为火车中午出发。所以我们还有一个小时吃饭。", options={"language": "zh"}),
    Example("gold", "The area is $\\pi r^2$, and the answer to the question is \\boxed{12}."),
    Example("wrong", _GERMAN, value=0.0),
    Example("wrong", "The train leaves at noon. 所以我们还有一个小时吃饭。火车中午就出发吗。", value=0.5),
    Example("malformed", "", value=0.0),
    Example(
        "malformed", "The train leaves.", "klingon", None, "unparsable", options={"language": "reference"}
    ),
    Example("cheat", "12345 67890", value=0.0),
)

_lock = threading.Lock()
_SENTENCES = re.compile("(?<=[.!?\u3002\uff01\uff1f])|\n+")
_NO_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`]*`|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-z]+\{[^}]*\}", re.DOTALL
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return the share of sentences in the language, weighed by their letters; 0 without any letter.

    Args:
        completion: the policy's text.
        reference: the language's code, where the option says "reference"; not used otherwise.
        config: the options.
    """
    start = time.perf_counter()
    wanted = reference if config.language == "reference" else config.language
    if wanted not in _CODES.split():
        verdict = Verdict("unparsable", evidence=f"the reference is no language's code: {reference!r:.40}")
    else:
        verdict = _share(_prose(completion), wanted, config.min_letters)
    return Verdict(verdict.status, verdict.value, verdict.evidence, time.perf_counter() - start)


def _share(prose: str, language: str, min_letters: int) -> Verdict:
    sentences = [(s, [c for c in s if c.isalpha()]) for s in _SENTENCES.split(prose)]
    total = sum(len(letters) for _, letters in sentences)
    if not total:
        return Verdict("scored", 0.0, "there is no text in any language")
    right = sum(len(ls) for s, ls in sentences if ls and _is_in(s, ls, language, min_letters))
    return Verdict("scored", right / total, f"{right / total:.0%} is in {language}")


def _prose(text: str) -> str:
    """Return the text without code, formulas and boxes."""
    return _NO_PROSE.sub(" ", text)


def _is_in(sentence: str, letters: list[str], language: str, min_letters: int) -> bool:
    scripts = [_script(letter) for letter in letters]
    own = _OWN.get(language, {"LATIN"})
    if sum(s in own for s in scripts) < 0.8 * len(scripts):
        return False
    if len(letters) < min_letters or own != {"LATIN"}:
        return True
    import py3langid

    with _lock:  # its model is loaded on first use
        found: str = py3langid.classify(sentence)[0]
    return found == language


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0]
    return name if name in _SCRIPTS else "LATIN" if letter.isascii() else name
