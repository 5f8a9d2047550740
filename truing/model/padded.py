"""The padded path: a plain right-padded forward, which is the forest's reference and its fallback."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def padded_states(
    backbone: nn.Module, rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Float[Tensor, "T H"], list[Int[Tensor, " _"]]]:
    """Return the hidden states of a right-padded batch, flattened, and where each row's tokens lie.

    Empty rows stay out of the batch: a row of nothing but padding has no softmax.
    """
    filled = [row for row in rows if len(row)]
    width = max(len(row) for row in filled)
    tokens = torch.zeros(len(filled), width, dtype=torch.long)
    padding_mask = torch.zeros(len(filled), width, dtype=torch.long)
    for i, row in enumerate(filled):
        tokens[i, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        padding_mask[i, : len(row)] = 1
    output = backbone(
        input_ids=tokens.to(device), attention_mask=padding_mask.to(device), use_cache=False, return_dict=True
    )
    starts = torch.tensor([len(row) > 0 for row in rows]).cumsum(0) - 1
    paths = [start * width + torch.arange(len(row)) for start, row in zip(starts, rows, strict=True)]
    return output.last_hidden_state.flatten(0, 1), paths
