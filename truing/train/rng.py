"""The random state of Python, numpy and torch, as tensors and JSON."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from truing.errors import CheckpointError


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the global random state as (tensors, JSON): Python's, torch's, and numpy's where imported."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(words), gauss]}
    if "numpy" in sys.modules:
        kind, keys, position, has_gauss, cached = sys.modules["numpy"].random.get_state(legacy=True)
        state["numpy"] = [kind, keys.tolist(), int(position), int(has_gauss), float(cached)]
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, state


def set_rng_state(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned.

    Raises:
        CheckpointError: the state names more GPUs than there are, so a resumed run would not be the same.
    """
    saved = sorted((n for n in tensors if n.startswith("cuda.")), key=lambda n: int(n[5:]))
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(saved) > present:
        raise CheckpointError(f"the random state is of {len(saved)} GPUs, and there are {present}")
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if "numpy" in state:
        import numpy

        kind, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"].cpu())
    for i, name in enumerate(saved):
        torch.cuda.set_rng_state(tensors[name].cpu(), i)
