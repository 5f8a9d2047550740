"""A constitution: principles to criticise, revise and compare by, and the prompts that test them."""

from __future__ import annotations

import difflib
import hashlib
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from truing.config import Strict
from truing.data.readers import SourceRow, read_rows
from truing.errors import ConfigError


class Principle(Strict):
    """One principle; it revises (critique and revision), compares, or both."""

    name: str = Field(min_length=1, description="short, unique; the audit trail names it")
    critique: str | None = Field(None, min_length=1, description="what to look for in a completion")
    revision: str | None = Field(None, min_length=1, description="how to write it anew")
    compare: str | None = Field(None, min_length=1, description="which of two completions is better")

    @model_validator(mode="after")
    def _has_use(self) -> Principle:
        if (self.critique is None) != (self.revision is None):
            raise ValueError("critique and revision belong together: give both, or neither")
        if self.critique is None and self.compare is None:
            raise ValueError("a principle without critique and revision, or compare, does nothing")
        return self


class RedTeam(Strict):
    """Prompts that invite what the principles forbid: written here, or in a file of prompts."""

    prompts: list[str] = Field(default_factory=list, description="as a user would type them")
    source: str | None = Field(None, description="file of prompts, relative to the constitution")

    @model_validator(mode="after")
    def _one_of_them(self) -> RedTeam:
        if bool(self.prompts) == (self.source is not None):
            raise ValueError("give prompts, or the source of them: one of the two")
        return self


class Constitution(Strict):
    """What a constitution file holds."""

    name: str = Field(min_length=1)
    principle: list[Principle] = Field(min_length=1)
    red_team: RedTeam | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Constitution:
        names = [p.name for p in self.principle]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(
                f"two principles are called '{twice[0]}'; the audit trail could not tell them apart"
            )
        return self


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked constitution, its file, and the digest of the file's bytes, which the audit trail holds."""

    constitution: Constitution
    path: Path
    digest: str

    def revising(self) -> list[Principle]:
        """Return the principles that criticise and revise.

        Raises:
            ConfigError: there is none.
        """
        return self._with("critique", [p for p in self.constitution.principle if p.critique is not None])

    def comparing(self) -> list[Principle]:
        """Return the principles that compare.

        Raises:
            ConfigError: there is none.
        """
        return self._with("compare", [p for p in self.constitution.principle if p.compare is not None])

    def red_team(self) -> list[SourceRow]:
        """Return the red-team prompts as rows.

        Raises:
            ConfigError: the constitution names none.
            DataError: their file is missing or broken.
        """
        found = self.constitution.red_team
        if found is None:
            raise ConfigError(
                f"{self.path}: there is no [red_team] table; add one, or give a file of prompts"
            )
        if found.source is not None:
            return read_rows(found.source, folder=self.path.parent)
        return [SourceRow({"prompt": t}, str(self.path), n) for n, t in enumerate(found.prompts, 1)]

    def _with(self, key: str, found: list[Principle]) -> list[Principle]:
        if not found:
            raise ConfigError(f"{self.path}: no principle has '{key}'; add it to one")
        return found


def load_constitution(path: str | Path) -> Loaded:
    """Return the constitution of a TOML file.

    Raises:
        ConfigError: the file is missing, or a key is wrong; the message names it and what would be right.
    """
    path = Path(path).expanduser()
    try:
        raw = path.read_bytes()
        values = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"no constitution at {path.absolute()}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        checked = Constitution.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, e) for e in error.errors())) from error
    return Loaded(checked, path, hashlib.sha256(raw).hexdigest()[:16])


def drawn(principles: Sequence[Principle], *key: Any) -> Principle:
    """Return a principle at random: the same one for the same key (seed, prompt, round)."""
    return random.Random(repr(key)).choice(list(principles))


def _explain(path: Path, error: Any) -> str:
    place = list(error["loc"])
    where = ".".join(f"{x}" if isinstance(x, str) else f"[{x + 1}]" for x in place).replace(".[", "[")
    if error["type"] == "extra_forbidden":
        known = _keys_beside(place)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"{path}: {where}: unknown key.{hint} Known here: {', '.join(known)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path}: {where}: {message}" if where else f"{path}: {message}"


def _keys_beside(place: Sequence[Any]) -> list[str]:
    tables: dict[str, type[Strict]] = {"principle": Principle, "red_team": RedTeam}
    model = tables.get(str(place[0]), Constitution) if len(place) > 1 else Constitution
    return list(model.model_fields)
