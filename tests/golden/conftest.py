"""The golden numbers of parity.json, and what drives an Algorithm record on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from truing import plugins
from truing.types import Batch, Outputs, Term, Unit


@dataclass(frozen=True, slots=True)
class Golden:
    """One fixture: its inputs and expected numbers as float64 tensors (masks as booleans)."""

    params: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    expected: Mapping[str, Any]
    rtol: float
    atol: float

    def check(self, actual: Tensor | float, expected: Any, *, rtol: float | None = None) -> None:
        torch.testing.assert_close(
            torch.as_tensor(actual, dtype=torch.float64),
            number(expected),
            rtol=rtol or self.rtol,
            atol=self.atol,
        )


def number(value: Any) -> Tensor:
    flat = json.loads(json.dumps(value).replace('"NaN"', "NaN"))
    return torch.tensor(flat, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Driven:
    """What an Algorithm record makes of a batch: the loop's loss, its gradients, every term divided."""

    loss: Tensor
    grad: Mapping[str, Tensor]
    terms: Mapping[str, float]
    batch: Batch


def divided(terms: list[Term], count: Mapping[Unit, Tensor]) -> Tensor:
    return torch.stack([t.weight * t.total / count[t.unit].clamp(min=1) for t in terms]).sum()


def make_batch(mask: Tensor, **fields: Any) -> Batch:
    rows = len(mask)
    return Batch(
        prompts=tuple(torch.zeros(1, dtype=torch.long) for _ in range(rows)),
        completions=torch.zeros(mask.shape, dtype=torch.long),
        lengths=fields.pop("lengths", torch.full((rows,), mask.shape[1])),
        mask=mask.bool(),
        groups=fields.pop("groups", torch.arange(rows)),
        **fields,
    )


def drive(
    name: str,
    batch: Batch,
    options: Mapping[str, Any] | None = None,
    *,
    credit: bool = False,
    **outputs: Tensor,
) -> Driven:
    algorithm = plugins.load("algorithms", name).ALGORITHM
    config = algorithm.config(**(options or {}))
    batch = algorithm.credit(batch, config) if credit else batch
    leaves = {k: v.clone().requires_grad_() for k, v in outputs.items()}
    terms = algorithm.loss(Outputs(**leaves), batch, config)
    count = batch.count()
    loss = divided(terms, count)
    loss.backward()
    found = {t.name: (t.total / count[t.unit]).item() for t in terms}
    return Driven(loss.detach(), {k: v.grad for k, v in leaves.items()}, found, batch)


@pytest.fixture(scope="session")
def parity() -> dict[str, Golden]:
    path = Path(__file__).with_name("parity.json")
    fixtures = json.loads(path.read_text(encoding="utf-8"))["fixtures"]
    return {
        f["id"]: Golden(
            f["params"],
            {k: number(v) for k, v in f["inputs"].items() if _is_numeric(v)},
            f["expected"],
            f["rtol"],
            f["atol"],
        )
        for f in fixtures
    }


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_numeric(v) for v in value) and len({len(v) for v in value if isinstance(v, list)}) <= 1
    return isinstance(value, int | float) or value == "NaN"


@pytest.fixture(name="drive")
def _drive() -> Any:
    return drive


@pytest.fixture(name="make_batch")
def _make_batch() -> Any:
    return make_batch
