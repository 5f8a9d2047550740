"""Odds of probabilities that are given as logarithms."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-6  # a log-prob closer to 0 than this has odds of a million, and no gradient


def log1mexp(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return log(1 - exp(x)) for x < 0, exact at both ends (Maechler 2012: the branch is at -ln 2)."""
    near = x > -math.log(2)
    small = torch.where(near, x, torch.full_like(x, -1.0))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))


def log_odds(logprobs: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return log(p / (1 - p)) for logprobs = log p, which are held at or below -1e-6 [nats]."""
    capped = logprobs.clamp(max=-SMALLEST)
    return capped - log1mexp(capped)
