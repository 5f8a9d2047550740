"""The texts that judges and critics are asked with; each stands in a file of its own beside this one."""

from __future__ import annotations

import string
from functools import cache
from importlib import resources


def filled(name: str, **values: str) -> str:
    """Return a prompt's text with its `$names` filled in; every name must be given, and each must be used."""
    template = _template(name)
    wanted = set(template.get_identifiers())
    if wanted != set(values):
        raise KeyError(f"prompt '{name}' takes {sorted(wanted)}, got {sorted(values)}")
    return template.substitute(values)


@cache
def _template(name: str) -> string.Template:
    text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return string.Template(text.strip())
