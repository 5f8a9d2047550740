"""The named reductions: per-token values become a SUM and the unit whose global count divides it.

A "mean" over tokens is ambiguous, and libraries differ on it, so each reduction has a name of its own.
None of them divides by a count over the batch: the caller does so once, with counts over all
micro-batches and ranks (`Batch.count`). A row without trained tokens adds 0 and still counts as a
sequence.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truing.types import Unit

Reduced = tuple[Float[Tensor, ""], Unit]


def masked(values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Return values where the mask is True, and 0 elsewhere, whatever stood there (NaN included)."""
    return torch.where(mask, values, torch.zeros_like(values))


def token_mean(values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Reduced:
    """Return sum_it m c, to be divided by the number of trained tokens: every token weighs the same."""
    return masked(values, mask).sum(), "token"


def seq_mean_token_mean(values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Reduced:
    """Return sum_i (1/M_i) sum_t m c, to be divided by the number of sequences.

    Every sequence weighs the same, so a token of a long one weighs less. M_i counts the trained
    tokens of row i.
    """
    num_tokens = mask.sum(-1).clamp(min=1)
    return (masked(values, mask).sum(-1) / num_tokens).sum(), "sequence"


def seq_mean_token_sum(values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Reduced:
    """Return sum_it m c, to be divided by the number of sequences: a long sequence weighs more."""
    return masked(values, mask).sum(), "sequence"


def seq_mean_token_sum_norm(
    values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"], *, norm: float
) -> Reduced:
    """Return (1/norm) sum_it m c, to be divided by the number of sequences (Dr.GRPO).

    Args:
        values: one loss a token.
        mask: True on trained tokens.
        norm: a constant [tokens], such as the longest completion allowed. It scales the gradient.
    """
    return masked(values, mask).sum() / norm, "sequence"


def prompt_mean_token_mean(
    values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"], group_tokens: Float[Tensor, " B"]
) -> Reduced:
    """Return sum_p (1/M_p) sum_{i in p, t} m c, to be divided by the number of prompts.

    This is the mean within each group, as DAPO's eq. 8 is written (arXiv:2503.14476).

    Args:
        values: one loss a token.
        mask: True on trained tokens.
        group_tokens: M_p, trained tokens of the row's WHOLE group (see `group_totals`), counted before
            the batch is split: a micro-batch may hold a part of a group only.
    """
    return (masked(values, mask).sum(-1) / group_tokens.clamp(min=1)).sum(), "prompt"


def group_index(groups: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return, for each row, the number of its group among the groups present, from 0."""
    return torch.unique(groups, return_inverse=True)[1]  # type: ignore[no-any-return]


def group_totals(values: Float[Tensor, " B"], groups: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return, for each row, the sum of values over the rows of its group."""
    index = group_index(groups)
    return torch.zeros_like(values).index_add(0, index, values)[index]
