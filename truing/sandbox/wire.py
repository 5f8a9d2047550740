"""The only values that cross the sandbox's border: exact built-in types, as JSON that says each type.

`None`, `bool` and `str` are themselves; everything else is an object with one key that names its type.
A subclass is none of these types, so an object that claims to equal everything cannot get out. This
file also runs inside the sandbox: it uses the standard library only.
"""

from __future__ import annotations

import json
from typing import Any

MAX_DIGITS = 4000  # of an integer: more would make int() slow in the trusted process
MAX_DEPTH = 60
MAX_HASHED = 20_000  # entries of a set or dict: chosen keys may all collide


class WireError(ValueError):
    """A value that may not cross, or text that is no value."""


def dumps(value: Any) -> str:
    """Return the value as text.

    Raises:
        WireError: some part of it is of no exact built-in type, too deep, or too long an integer.
    """
    return json.dumps(_encode(value, 0), ensure_ascii=True, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """Return the value of a text, believing nothing about who wrote it.

    Raises:
        WireError: the text is not exactly what `dumps` makes of some value.
    """
    try:
        parsed = json.loads(text, parse_int=_no_number, parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise WireError(f"no value: {error}") from None
    return _decode(parsed, 0)


def _no_number(text: str) -> Any:
    raise ValueError("a bare number")


def _encode(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        if value.bit_length() > MAX_DIGITS * 3:
            raise WireError(f"an integer of over {MAX_DIGITS * 3} bits")
        return {"int": str(value)}
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is dict:
        return {"dict": [[_encode(k, depth + 1), _encode(v, depth + 1)] for k, v in value.items()]}
    for name, exact in _MANY.items():
        if kind is exact:
            return {name: [_encode(item, depth + 1) for item in value]}
    raise WireError(f"a value of type {kind.__name__[:60]} cannot leave the sandbox")


_MANY = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def _decode(parsed: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    if parsed is None or isinstance(parsed, bool | str):
        return parsed
    if not isinstance(parsed, dict) or len(parsed) != 1:
        raise WireError("not an object that names one type")
    ((name, body),) = parsed.items()
    try:
        return _value(name, body, depth)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"not a value of type {str(name)[:20]}: {error}") from None


def _value(name: str, body: Any, depth: int) -> Any:
    if name == "int":
        return int(_text(body, MAX_DIGITS))
    if name == "float":
        return float.fromhex(_text(body, 64))
    if name == "complex":
        real, imag = _items(body)
        return complex(float.fromhex(_text(real, 64)), float.fromhex(_text(imag, 64)))
    if name == "bytes":
        return bytes.fromhex(_text(body, 10**7))
    if name in ("dict", "set", "frozenset") and len(_items(body)) > MAX_HASHED:
        raise WireError(f"over {MAX_HASHED} entries")
    if name == "dict":
        pairs = [_items(pair) for pair in _items(body)]
        return {_decode(k, depth + 1): _decode(v, depth + 1) for k, v in pairs}
    if name in _MANY:
        return _MANY[name](_decode(item, depth + 1) for item in _items(body))
    raise WireError(f"no such type: {name[:20]}")


def _text(body: Any, longest: int) -> str:
    if not isinstance(body, str) or len(body) > longest:
        raise WireError(f"not a text of at most {longest} characters")
    return body


def _items(body: Any) -> list[Any]:
    if not isinstance(body, list):
        raise WireError("not a list")
    return body
