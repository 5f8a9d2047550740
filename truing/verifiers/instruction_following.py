"""Whether a completion obeys instructions that a program can check: length, keywords, bullets, case.

The idea is that of Zhou et al. 2023 (IFEval), arXiv:2311.07911; the checks and their prompts are our own.
The reference is a list of objects, each with a `kind` and what it needs:

    [{"kind": "words", "at_least": 50, "at_most": 80}, {"kind": "include", "text": "river", "times": 2}]

Every kind is a function below whose name begins with `_check_`; its keyword arguments are the keys. A
completion without letters obeys nothing: "no commas" is no invitation to silence.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from truing.config import Strict
from truing.types import Verdict
from truing.verifiers import Example


class Config(Strict):
    """How obedience becomes a number."""

    partial: bool = Field(False, description="the share of instructions that are obeyed, not all or nothing")
    min_words: int = Field(1, ge=1, description="a completion of fewer words scores 0")


_RIVER = [{"kind": "words", "at_least": 3}, {"kind": "include", "text": "river"}]
EXAMPLES: tuple[Example, ...] = (
    Example("gold", "The river runs on.", _RIVER),
    Example("gold", "* a\n* b\n* c", [{"kind": "bullets", "exactly": 3}]),
    Example("gold", "the end", [{"kind": "lower_case"}, {"kind": "ends_with", "text": "end"}]),
    Example("gold", '{"a": [1]}', [{"kind": "json"}]),
    Example("wrong", "The hill stands.", _RIVER, 0.0),
    Example("wrong", "The hill stands.", _RIVER, 0.5, options={"partial": True}),
    Example("malformed", "", [{"kind": "no_commas"}], 0.0),
    Example("malformed", "words", [{"kind": "no_such_kind"}], None, "unparsable"),
    Example("malformed", "words", [], None, "unparsable"),
    Example("malformed", "words", [{"kind": "words", "at_leest": 3}], None, "unparsable"),
    Example("cheat", "...", [{"kind": "no_commas"}], 0.0),
    Example("cheat", "riverriver river,", [{"kind": "include", "text": "river", "times": 3}], 0.0),
)


def verify(completion: str, reference: Any, config: Config) -> Verdict:
    """Return 1 when every instruction is obeyed, 0 when one is not; with `partial`, the share."""
    start = time.perf_counter()
    verdict = _verdict(completion, reference, config)
    return Verdict(verdict.status, verdict.value, verdict.evidence, time.perf_counter() - start)


def _verdict(completion: str, reference: Any, config: Config) -> Verdict:
    if not isinstance(reference, list) or not reference:
        return Verdict(
            "unparsable", evidence=f"the reference must be a list of instructions: {reference!r:.60}"
        )
    problem = next((p for p in map(_problem, reference) if p), None)
    if problem is not None:
        return Verdict("unparsable", evidence=f"the reference: {problem}")
    if len(re.findall(r"\w+", completion)) < config.min_words:
        return Verdict("scored", 0.0, f"fewer than {config.min_words} words")
    broken = [r for r in reference if not KINDS[r["kind"]](completion, **_arguments(r))]
    obeyed = 1 - len(broken) / len(reference)
    evidence = f"not obeyed: {broken[0]}" if broken else f"all {len(reference)} obeyed"
    return Verdict("scored", obeyed if config.partial else float(not broken), evidence)


def _arguments(instruction: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in instruction.items() if key != "kind"}


def _problem(instruction: Any) -> str | None:
    """Return what is wrong with an instruction; None for nothing."""
    if not isinstance(instruction, dict) or instruction.get("kind") not in KINDS:
        return f"{instruction!r:.60} is of no known kind: {', '.join(KINDS)}"
    parameters = list(inspect.signature(KINDS[instruction["kind"]]).parameters.values())[1:]
    given = _arguments(instruction)
    unknown = set(given) - {p.name for p in parameters}
    missing = {p.name for p in parameters if p.default is p.empty} - set(given)
    if unknown or missing:
        return f"'{instruction['kind']}' has no {sorted(unknown)} and needs {sorted(missing)}"
    if instruction["kind"] in _COUNTED and not given:
        return f"'{instruction['kind']}' needs at_least, at_most or exactly"
    bad = [
        p.name
        for p in parameters
        if p.name in given and not isinstance(given[p.name], _type_of(p.annotation))
    ]
    return f"'{instruction['kind']}' has a wrong type in {bad}" if bad else None


def _type_of(annotation: str) -> type:
    return str if annotation.startswith("str") else int


def _counts(found: int, at_least: int | None, at_most: int | None, exactly: int | None) -> bool:
    low, high = (0 if at_least is None else at_least), (found if at_most is None else at_most)
    return low <= found <= high and exactly in (None, found)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text)


def _check_words(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    return _counts(len(_words(completion)), at_least, at_most, exactly)


def _check_sentences(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    found = [s for s in re.split(r"(?<=[.!?])[\"')\]]*(?:\s+|\Z)", completion) if _words(s)]
    return _counts(len(found), at_least, at_most, exactly)


def _check_paragraphs(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    return _counts(
        len([p for p in re.split(r"\n\s*\n", completion) if _words(p)]), at_least, at_most, exactly
    )


def _check_bullets(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    return _counts(
        len(re.findall(r"^\s*[-*\u2022]\s+\w", completion, re.MULTILINE)), at_least, at_most, exactly
    )


def _check_numbered(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    numbers = [int(n) for n in re.findall(r"^\s*(\d+)[.)]\s+\S", completion, re.MULTILINE)]
    return numbers == list(range(1, len(numbers) + 1)) and _counts(len(numbers), at_least, at_most, exactly)


def _check_capital_words(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    found = [w for w in _words(completion) if len(w) > 1 and w.isupper()]
    return _counts(len(found), at_least, at_most, exactly)


def _check_placeholders(
    completion: str, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    return _counts(len(re.findall(r"\[[^\[\]\n]+\]", completion)), at_least, at_most, exactly)


def _check_letter(
    completion: str,
    letter: str,
    at_least: int | None = None,
    at_most: int | None = None,
    exactly: int | None = None,
) -> bool:
    return _counts(completion.casefold().count(letter.casefold()), at_least, at_most, exactly)


def _check_include(completion: str, text: str, times: int = 1) -> bool:
    return len(re.findall(rf"(?<!\w){re.escape(text)}(?!\w)", completion, re.IGNORECASE)) >= times


def _check_exclude(completion: str, text: str) -> bool:
    return not _check_include(completion, text)


def _check_starts_with(completion: str, text: str) -> bool:
    return completion.lstrip().startswith(text)


def _check_ends_with(completion: str, text: str) -> bool:
    return completion.rstrip().endswith(text)


def _check_lower_case(completion: str) -> bool:
    return completion == completion.lower()


def _check_upper_case(completion: str) -> bool:
    return completion == completion.upper()


def _check_no_commas(completion: str) -> bool:
    return "," not in completion


def _check_quoted(completion: str) -> bool:
    inner = completion.strip()
    return len(inner) > 2 and inner[0] == inner[-1] == '"' and '"' not in inner[1:-1]


def _check_title(completion: str) -> bool:
    return re.search(r"<<[^<>\n]+>>", completion) is not None


def _check_postscript(completion: str) -> bool:
    return re.search(r"^P\.\s?S\.\s*\S", completion, re.MULTILINE) is not None


def _check_json(completion: str) -> bool:
    match = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n```\s*", completion, re.DOTALL)
    try:
        json.loads(match.group(1) if match else completion)
    except (ValueError, RecursionError):
        return False
    return True


KINDS: dict[str, Callable[..., bool]] = {
    name.removeprefix("_check_"): value
    for name, value in list(globals().items())
    if name.startswith("_check_")
}
_COUNTED = {name for name, check in KINDS.items() if "at_least" in inspect.signature(check).parameters}
