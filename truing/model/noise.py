"""Noise on the input embeddings of passes with gradient (NEFTune)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from truing.math.noise import neftune_magnitude
from truing.model.forest import Forest
from truing.model.heads import backbone_of
from truing.model.interface import current_forest
from truing.types import Batch


@contextmanager
def embedding_noise(model: nn.Module, batch: Batch, alpha: float) -> Iterator[None]:
    """Add uniform noise to the embeddings of this batch inside the context, in passes with gradient.

    Each token position that is computed has one draw from torch's own random state, which checkpoints
    hold. It is scaled by the tokens of the whole row, prompt and completion; a beginning that several
    rows share is computed once, and scaled by the longest of them.

    Args:
        model: a causal model, or a peft model around one.
        batch: the rows that run inside the context, all of them and nothing else.
        alpha: strength; 0 changes nothing.
    """
    if alpha == 0:
        yield
        return
    backbone: Any = backbone_of(model)
    prompts = torch.tensor([len(p) for p in batch.prompts], device=batch.lengths.device)
    lengths = (prompts + batch.lengths).cpu()
    filled = batch.mask.any(-1).cpu()  # a row without trained tokens is not run

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # also the trial pass that finds out what the family can
            return output
        forest = current_forest()
        of_token = lengths[filled][:, None] if forest is None else longest_row(forest, lengths)[None]
        size = neftune_magnitude(of_token, width=output.shape[-1], alpha=alpha).to(output)
        return output + size[..., None] * torch.empty_like(output).uniform_(-1, 1)

    handle = backbone.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def longest_row(forest: Forest, lengths: Int[Tensor, " B"]) -> Int[Tensor, " T"]:
    """Return, for each token of the forest, the length of the longest row that it belongs to."""
    found = torch.ones(forest.num_tokens, dtype=lengths.dtype)
    for path, length in zip(forest.paths, lengths, strict=True):
        found[path] = found[path].maximum(length)
    return found
