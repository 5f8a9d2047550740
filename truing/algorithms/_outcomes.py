"""What the methods that learn from right and wrong share: cross-entropy with a logit, and its metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from truing.types import Term, Unit


def cross_entropy(logits: Float[Tensor, "*S"], labels: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return -p log sigmoid(z) - (1 - p) log sigmoid(-z).

    Args:
        logits: z.
        labels: p, how probably it is right, in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")


def classification_metrics(
    logits: Float[Tensor, "*S"], labels: Float[Tensor, "*S"], labelled: Bool[Tensor, "*S"], unit: Unit
) -> list[Term]:
    """Return accuracy at probability 1/2, squared error of the probability, and the share of right ones.

    Args:
        logits: with or without gradient.
        labels: NaN may stand where nothing is labelled.
        labelled: what counts.
        unit: how many there are of them.
    """
    logits, zero = logits.detach(), torch.zeros_like(logits.detach())
    hits = ((logits > 0) == (labels > 0.5)).to(logits.dtype)
    errors = (logits.sigmoid() - labels).square()
    values = {"rewards/label_accuracy": hits, "rewards/brier": errors, "rewards/good_share": labels}
    return [
        Term(name, torch.where(labelled, value.to(logits.dtype), zero).sum(), unit, 0.0)
        for name, value in values.items()
    ]
