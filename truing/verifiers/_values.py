"""Values of tests: drawing arguments, and comparing what a program returned with what is expected."""

from __future__ import annotations

import math
import random
import re
from typing import Any

_KIND = re.compile(r"(list\[)?(int|float|bool|str)\]?(?:\((-?\d+), *(-?\d+)\))?")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ 0123456789"


def draw(kind: str, generator: random.Random) -> Any:
    """Return a random value of a kind such as "int", "list[str]" or "int(0, 100)".

    Sizes vary widely, so that a program that is right only for small ones is seen. The range bounds
    numbers, and the length of texts.

    Raises:
        ValueError: there is no such kind.
    """
    match = _KIND.fullmatch(kind)
    if match is None:
        raise ValueError(
            f"no kind of input is called '{kind}'; known: int, float, bool, str, list[int], int(0, 9)"
        )
    many, scalar, low, high = match.groups()
    bounds = None if low is None else (int(low), int(high))
    if many:
        return [_scalar(scalar, bounds, generator) for _ in range(generator.choice((0, 1, 2, 5, 9, 30)))]
    return _scalar(scalar, bounds, generator)


def _scalar(kind: str, bounds: tuple[int, int] | None, generator: random.Random) -> Any:
    if kind == "bool":
        return generator.random() < 0.5
    size = generator.choice((1, 9, 100, 10**4, 10**9))
    low, high = bounds or ((0, 12) if kind == "str" else (-size, size))
    if kind == "str":
        return "".join(generator.choices(_LETTERS, k=generator.randint(low, high)))
    return generator.randint(low, high) if kind == "int" else generator.uniform(low, high)


def same(value: Any, expected: Any, relative_tolerance: float) -> bool:
    """Return whether a value is what is expected: of the same type, and equal.

    Both hold exact built-in types only. A tuple may stand for a list, which is all that JSON can say.
    Floats may differ by the tolerance; NaN equals NaN; True is not 1 and 1 is not 1.0.
    """
    if isinstance(expected, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(expected)
            and all(same(v, e, relative_tolerance) for v, e in zip(value, expected, strict=True))
        )
    if type(value) is not type(expected):
        return False
    if isinstance(expected, float):
        both_nan = math.isnan(value) and math.isnan(expected)
        return both_nan or math.isclose(value, expected, rel_tol=relative_tolerance, abs_tol=1e-12)
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            same(value[k], e, relative_tolerance) for k, e in expected.items()
        )
    return bool(value == expected)
