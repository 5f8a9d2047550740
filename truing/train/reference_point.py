"""KTO's reference point: how far the policy is from its reference on rows that do not belong together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from truing.errors import DataError
from truing.math.ratios import log_ratio
from truing.types import Batch

Logprobs = Callable[[Batch], Tensor]


@torch.no_grad()
def reference_point(batch: Batch, policy: Logprobs, reference: Logprobs) -> Float[Tensor, " B"]:
    """Return the mean log pi/pi_ref of mismatched rows, not clamped, the same on every row [nats].

    Args:
        batch: the whole batch, before any split.
        policy: gives log-probs [B, C] of any rows.
        reference: the same of the reference.

    Raises:
        DataError: there is no mismatched row in the batch.
    """
    strangers = mismatched(batch)
    ratios = log_ratio(policy(strangers), reference(strangers), strangers.mask).sum(-1)
    return ratios.mean().expand(len(batch)).contiguous()


def mismatched(batch: Batch) -> Batch:
    """Return the batch's prompts, each with the completion of another row.

    It is that of the row before, or of the next one before it where prompt and completion together would
    be a row of the batch. A prompt that no completion of the batch is foreign to is left out.

    Raises:
        DataError: the batch has one row, or no prompt is left.
    """
    if len(batch) == 1:
        raise DataError(
            f"the batch has one row ({_name(batch, 0)}), and KTO's reference point takes the completions of "
            "other rows: set batch_size to 2 or more, or options.kl_estimate = 'none'"
        )
    found = donors(batch)
    kept = [i for i, donor in enumerate(found) if donor is not None]
    if not kept:
        raise DataError(
            f"each prompt of the batch comes with each of its completions (first row: {_name(batch, 0)}), so "
            "no row is mismatched and KTO has no reference point: set a larger batch_size, or "
            "options.kl_estimate = 'none'"
        )
    strangers = batch.rows(torch.tensor([donor for donor in found if donor is not None]))
    return Batch(
        prompts=tuple(batch.prompts[i] for i in kept),
        completions=strangers.completions,
        lengths=strangers.lengths,
        mask=strangers.mask,
        groups=torch.arange(len(kept)),
        uids=tuple(f"{_name(batch, i)}/mismatched" for i in kept),
    )


def donors(batch: Batch) -> list[int | None]:
    """Return for each row the row whose completion it borrows, None where none is foreign to its prompt."""
    prompts = [tuple(p.tolist()) for p in batch.prompts]
    lengths = batch.lengths.tolist()
    said = [tuple(c[:n]) for c, n in zip(batch.completions.tolist(), lengths, strict=True)]
    rows, size = set(zip(prompts, said, strict=True)), len(batch)
    return [
        next((j % size for j in range(i - 1, i - size, -1) if (prompts[i], said[j % size]) not in rows), None)
        for i in range(size)
    ]


def _name(batch: Batch, row: int) -> str:
    return batch.uids[row] if batch.uids else f"row {row}"
