"""Rows, pairs and rollouts become a Batch: ragged prompts, right-padded completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from truing.types import Batch, Pair, Rollout, Row


def padded(
    rows: Sequence[Sequence[int | float]], *, dtype: torch.dtype, fill: float = 0.0
) -> Shaped[Tensor, "B C"]:
    """Return the rows as one tensor [B, C], padded on the right with `fill`."""
    width = max((len(r) for r in rows), default=0)
    out = torch.full((len(rows), width), fill, dtype=dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=dtype)
    return out


def batch_of_rows(rows: Sequence[Row]) -> Batch:
    """Return the batch of demonstrations; every row is a group of its own."""
    return Batch(
        prompts=tuple(torch.tensor(r.prompt_tokens, dtype=torch.long) for r in rows),
        completions=padded([r.tokens for r in rows], dtype=torch.long),
        lengths=torch.tensor([len(r.tokens) for r in rows]),
        mask=padded([r.mask for r in rows], dtype=torch.bool),
        groups=torch.arange(len(rows)),
        uids=tuple(r.uid for r in rows),
    )


def batch_of_pairs(pairs: Sequence[Pair]) -> Batch:
    """Return a paired batch: N chosen rows, then the N rejected rows of the same pairs."""
    rows = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    batch = batch_of_rows(rows)
    num = len(pairs)
    return Batch(
        prompts=batch.prompts,
        completions=batch.completions,
        lengths=batch.lengths,
        mask=batch.mask,
        groups=torch.arange(num).repeat(2),
        paired=True,
        uids=tuple(f"{p.uid}/chosen" for p in pairs) + tuple(f"{p.uid}/rejected" for p in pairs),
        margins=torch.tensor([p.margin for p in pairs] * 2),
    )


def batch_of_rollouts(rollouts: Sequence[Rollout]) -> Batch:
    """Return the batch of the rollouts that have a reward; the others are the caller's to count."""
    kept = [r for r in rollouts if r.reward is not None]
    tokens = [r.completion.tokens for r in kept]
    return Batch(
        prompts=tuple(torch.tensor(r.prompt_tokens, dtype=torch.long) for r in kept),
        completions=padded(tokens, dtype=torch.long),
        lengths=torch.tensor([len(t) for t in tokens]),
        mask=padded([[True] * len(t) for t in tokens], dtype=torch.bool),
        groups=torch.tensor([r.group for r in kept]),
        uids=tuple(f"{r.prompt.uid}/{i}" for i, r in enumerate(kept)),
        truncated=torch.tensor([r.completion.finish_reason == "length" for r in kept]),
        rewards=torch.tensor([r.reward for r in kept], dtype=torch.float32),
        sampler_logprobs=padded([r.completion.sampler_logprobs for r in kept], dtype=torch.float32),
    )
