"""The line index of TOML: every path that tomllib knows, on the line a person would point at."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.recipe.positions import key_lines, split_key

TEXT = '''\
# a comment with [brackets] and key = "value"
name = "x" # trailing = comment
"quoted key" = 'literal # not a comment'
a.b . "c.d" = 1

multi = """
[not.a.table]
fake = 1
\\"""still inside""" # after
raw = \'\'\'
also = "inside"
\'\'\'
inline = { x = 1, y.z = [1, { deep = "}" }], "s" = "]" }
array = [
  1, # one
  [2,
   3],
]

[table.sub] # header
key = 2026-01-02 03:04:05
[[stage]]
name = "first"
[stage.data]
train = "a"
[[stage]]
name = "second"
data.train = "b"
[[stage.part]]
n = 1
[[stage.part]]
n = 2
'''


def all_paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found |= all_paths(inner, (*path, key))
    return found


def test_the_index_has_every_path_and_no_other() -> None:
    assert set(key_lines(TEXT)) == all_paths(tomllib.loads(TEXT))


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (("name",), "name ="),
        (("quoted key",), '"quoted key"'),
        (("a",), "a.b"),
        (("a", "b", "c.d"), "a.b"),
        (("multi",), "multi"),
        (("raw",), "raw"),
        (("inline", "y", "z", 1, "deep"), "inline"),
        (("array",), "array"),
        (("array", 0), "  1, # one"),
        (("array", 1, 1), "   3],"),
        (("table", "sub"), "[table.sub]"),
        (("table", "sub", "key"), "key = 2026"),
        (("stage", 0, "data"), "[stage.data]"),
        (("stage", 0, "data", "train"), 'train = "a"'),
        (("stage", 1, "name"), 'name = "second"'),
        (("stage", 1, "data", "train"), 'data.train = "b"'),
        (("stage", 1, "part", 1, "n"), "n = 2"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_path_is_on_its_line(path: tuple[str | int, ...], start: str, newline: str) -> None:
    line = key_lines(TEXT.replace("\n", newline))[path]
    assert TEXT.splitlines()[line - 1].startswith(start)


keys = st.text(max_size=6)
scalars = (
    st.integers(-(2**60), 2**60)
    | st.floats()
    | st.booleans()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.datetimes()
    | st.times()
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, values, max_size=4), st.booleans())
def test_the_index_agrees_with_tomllib_on_any_document(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)
    assert set(key_lines(text)) == all_paths(tomllib.loads(text))


@pytest.mark.parametrize(
    ("key", "parts"),
    [("a", ("a",)), ("a.b-c._d", ("a", "b-c", "_d")), ('a."b.c"', ("a", "b.c")), ("a . 'd'", ("a", "d"))],
)
def test_dotted_keys_are_split_as_toml_does(key: str, parts: tuple[str, ...]) -> None:
    assert split_key(key) == parts


@pytest.mark.parametrize("key", ["", ".", "a.", "a..b", "a b", "a=1\nb", "ü", '"open'])
def test_what_is_no_dotted_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no dotted key"):
        split_key(key)
