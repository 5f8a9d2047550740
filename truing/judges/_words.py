"""A judge's prompt: the words of the file beside it, around material that stays material.

What is judged stands between tags that bear a code. The code is a hash of all texts of the request, so no
text can hold the code of a request that it is part of, and the same request has the same code: its reply is
found in the cache. What looks like a verdict tag is written with &lt; inside, so that a judge which quotes
it casts no vote.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from truing.types import Message

_TAG = re.compile(r"<[\s\W_]*verdict")
_SECTION = re.compile(r"^## (\w+)\n", re.MULTILINE)
_ANGLES = frozenset("\u2039\u3008\u27e8\u276e\u276c\u02c2\u1438\u227a")  # like <, and NFKC keeps them


def sections(module_file: str) -> dict[str, str]:
    """Return the parts of the .md file beside a judge, by their headings: system, user, reasons, ..."""
    text = Path(module_file).with_suffix(".md").read_text(encoding="utf-8")
    parts = _SECTION.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def request(
    words: Mapping[str, str], material: Mapping[str, str], values: Mapping[str, str], *, reasons: bool
) -> list[Message]:
    """Return the messages of a request.

    Args:
        words: sections of the judge's file: system, user, and reasons or label, which ends the user's.
        material: texts by the name of their tag, written by others.
        values: what else the words' $names stand for, from the recipe.
        reasons: which ending is taken.
    """
    code = code_of(list(material.values()))
    blocks = {name: wrapped(name, text, code) for name, text in material.items()}
    filled = {**values, **blocks, "code": code}
    ending = Template(words["reasons" if reasons else "label"]).substitute(filled)
    user = Template(words["user"]).substitute(filled)
    return [
        Message("system", Template(words["system"]).substitute(filled)),
        Message("user", f"{user}\n\n{ending}"),
    ]


def code_of(texts: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that stand in none of the texts."""
    count = 0
    while True:
        asked = json.dumps([count, *texts]).encode()
        code = hashlib.blake2b(asked, digest_size=8).hexdigest()
        if not any(code in text.casefold() for text in texts):
            return code
        count += 1


def wrapped(name: str, text: str, code: str) -> str:
    """Return a text between tags with its name and the code."""
    return f"<{name}-{code}>\n{without_verdict_tags(text)}\n</{name}-{code}>"


def without_verdict_tags(text: str) -> str:
    """Return the text with &lt; for the bracket of whatever reads like a verdict tag."""
    plain, origin = list[str](), list[int]()
    for i, character in enumerate(text):
        if unicodedata.category(character) == "Cf":  # zero width, direction marks
            continue
        letters = "<" if character in _ANGLES else unicodedata.normalize("NFKC", character).casefold()
        plain += letters
        origin += [i] * len(letters)
    brackets = {origin[m.start()] for m in _TAG.finditer("".join(plain))}
    return "".join("&lt;" if i in brackets else c for i, c in enumerate(text))


def conversation(messages: Sequence[Message]) -> str:
    """Return a prompt's turns as text: one turn alone by its words, several with their roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)
