"""What crosses the border comes out as it went in; everything else is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.sandbox import wire

hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashable | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_comes_out_as_it_went_in(value):
    assert repr(wire.loads(wire.dumps(value))) == repr(value) or wire.loads(wire.dumps(value)) == value


def test_floats_keep_their_last_bit_and_nan():
    assert wire.loads(wire.dumps(0.1 + 0.2)) == 0.1 + 0.2
    assert math.isnan(wire.loads(wire.dumps(float("nan"))))


class Equal(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


OTHERS = [Equal(1), [Equal(1)], {Equal(1): 1}, object(), iter(()), len, 1 << 20_000, type]


@pytest.mark.parametrize("value", OTHERS, ids=lambda v: type(v).__name__)
def test_other_types_are_refused(value):
    with pytest.raises(wire.WireError):
        wire.dumps(value)


@pytest.mark.parametrize(
    "text",
    ["7", "1.5", "NaN", "[1]", "{}", '{"int": 7}', '{"int": "x"}', '{"int": "1", "float": "1"}', '{"eval": "1"}',
     '{"set": [{"list": []}]}', '{"dict": [["a"]]}', '{"int": "' + "9" * 5000 + '"}', "[" * 10**5, "not json",
     '{"float": "0x1p99999"}', '{"list": ' * 200 + "[]" + "}" * 200,
     '{"set": [' + ",".join(f'{{"int":"{i}"}}' for i in range(30_000)) + "]}"],
    ids=lambda t: t[:20],
)  # fmt: skip
def test_text_that_is_no_value_is_refused(text):
    with pytest.raises(wire.WireError):
        wire.loads(text)
