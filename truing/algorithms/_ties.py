"""What the models of ties share: how a label weighs win, tie and loss, and their loss and metrics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truing.types import Term

WIN, LOSS, TIE = 0, 1, 2  # the order of outcomes, seen from the chosen side


def outcome_weights(preferences: Float[Tensor, " N"]) -> Float[Tensor, "N 3"]:
    """Return how much of each label is a win, a loss and a tie: win + tie / 2 = P(chosen is better).

    1 is a win, 0 a loss, 0.5 a tie; between them the label is part tie and part the nearer end.
    """
    win, loss = (2 * preferences - 1).clamp(min=0), (1 - 2 * preferences).clamp(min=0)
    return torch.stack([win, loss, 1 - win - loss], -1)


def outcome_terms(
    name: str, logprobs: Float[Tensor, "N 3"], preferences: Float[Tensor, " N"], width: Float[Tensor, ""]
) -> list[Term]:
    """Return the three-class loss of win, loss and tie, and its metrics.

    Args:
        name: of the loss.
        logprobs: log P of win, loss, tie.
        preferences: the labels.
        width: the tie parameter, as a metric.
    """
    weights, found = outcome_weights(preferences), logprobs.detach()
    right = found.argmax(-1) == weights.argmax(-1)
    each = torch.ones_like(preferences)
    return [
        Term(name, -(weights * logprobs).sum(), "pair"),
        Term("rewards/outcome_accuracy", right.to(found.dtype).sum(), "pair", 0.0),
        Term("rewards/tie_share", weights[:, TIE].sum(), "pair", 0.0),
        Term("rewards/tie_share_predicted", found[:, TIE].exp().sum(), "pair", 0.0),
        Term("rewards/tie_width", (width.detach() * each).sum(), "pair", 0.0),
    ]
