"""Judges beside numbers from elsewhere."""

from __future__ import annotations

import pytest

from truing.judges.pairwise import combine_orders, winner

SLOT = {"A": 1.0, "B": 0.0, "T": 0.5}
FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5}


def test_order_swap(parity):
    golden = parity["judge.order_swap"]
    table = golden.expected["table"]
    assert len(table) == 9
    for row in table:
        given, swapped = SLOT[row["verdict_order_1"]], SLOT[row["verdict_order_2"]]
        assert combine_orders(given, swapped, "conservative") == FIRST[row["conservative"]]
        assert combine_orders(given, swapped, "average") == pytest.approx(row["score_first"], abs=golden.atol)
        assert (winner(given) == winner(1 - swapped)) == row["consistent"]
