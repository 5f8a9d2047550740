"""Forward passes without gradient over a whole batch, micro-batch by micro-batch, in the batch's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from truing.types import Batch, Outputs


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with every tensor on the device; the batch itself when it is there already."""
    if batch.completions.device == device and all(p.device == device for p in batch.prompts):
        return batch
    moved: dict[str, Any] = {"prompts": tuple(p.to(device, non_blocking=True) for p in batch.prompts)}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Tensor):
            moved[f.name] = value.to(device, non_blocking=True)
    return replace(batch, **moved)


@torch.no_grad()
def in_micro_batches(batch: Batch, max_tokens: int, forward: Callable[[Batch], Outputs]) -> Outputs:
    """Return what `forward` says of the batch, computed in the micro-batches of `Batch.split`.

    `split` packs rows by size; each part is put back at the rows it came from, so row i of the
    result belongs to row i of the batch. What is right of a part's own width is 0. Numbers that belong
    to no row (learned parameters) are left out.

    Args:
        batch: rows in any order, paired or not; at least one.
        max_tokens: packed tokens of one forward pass.
        forward: called once a micro-batch, without gradient.

    Raises:
        ValueError: the batch is empty.
    """
    if not len(batch):
        raise ValueError("cannot annotate an empty batch: there is no forward pass to take the shapes from")
    whole: dict[str, Tensor] = {}
    for index in batch.split_index(max_tokens):
        part = forward(batch.rows(index))
        for f in fields(part):
            value = getattr(part, f.name)
            if isinstance(value, Tensor) and value.ndim:
                _scatter(whole, f.name, value, index, batch)
    return Outputs(**whole)


def _scatter(whole: dict[str, Tensor], name: str, part: Tensor, index: Tensor, batch: Batch) -> None:
    if name not in whole:
        whole[name] = part.new_zeros(batch.completions.shape[: part.ndim])
    rows = index.to(part.device)
    if part.ndim == 1:
        whole[name][rows] = part
    else:
        whole[name][rows, : part.shape[1]] = part
