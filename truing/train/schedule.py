"""How the learning rate moves over a run, as a pure function of the update's number."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def lr_factor(update: int, num_updates: int, *, schedule: Schedule, warmup: float, min_ratio: float) -> float:
    """Return learning rate / peak learning rate of an update, in (0, 1] unless the run is over.

    With W = ceil(warmup * num_updates) the factor climbs as (update + 1) / (W + 1), so the first
    update moves the weights, and is 1 at update W. Then it falls to `min_ratio`, which it reaches
    where update `num_updates` would be: the last update of a run moves the weights too.

    Args:
        update: how many updates came before this one, from 0.
        num_updates: how many the whole run makes.
        schedule: the shape of the fall: half a cosine, a straight line, or none.
        warmup: share of the updates that climb, in [0, 1).
        min_ratio: where the fall ends, in [0, 1]; "constant" does not use it.

    Raises:
        ValueError: a negative update, no updates, or an unknown schedule.
    """
    if update < 0 or num_updates < 1:
        raise ValueError(f"update must be >= 0 and num_updates >= 1, got {update} of {num_updates}")
    climb = min(math.ceil(warmup * num_updates), num_updates - 1)
    if update < climb:
        return (update + 1) / (climb + 1)
    progress = min((update - climb) / (num_updates - climb), 1.0)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return min_ratio + (1 - min_ratio) * (1 - progress)
        case "cosine":
            return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"unknown schedule '{schedule}'; known: cosine, linear, constant")
