"""Selection of a tree search against numbers from elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from truing.search._tree import puct, uct


def test_mcts_selection(parity):
    golden = parity["infer.mcts_selection"]
    quality, prior = (golden.inputs[key].tolist() for key in ("Q", "prior"))
    visits = [int(n) for n in golden.inputs["N"].tolist()]
    c = golden.params["c"]
    golden.check(
        torch.tensor(puct(quality, visits, prior, exploration=c), dtype=torch.float64),
        golden.expected["puct"],
    )
    found = uct(quality, visits, exploration=c)
    assert found == pytest.approx(
        [math.inf if v == "Infinity" else v for v in golden.expected["uct"]], rel=golden.rtol
    )
