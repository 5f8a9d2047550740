"""Lengths and repetitions as numbers that a reward can be made of."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truing.math.advantages import group_mean, group_std


def cosine_length_reward(
    lengths: Int[Tensor, " B"],
    passed: Bool[Tensor, " B"],
    *,
    max_tokens: int,
    right: tuple[float, float],
    wrong: tuple[float, float],
    exceeded: float,
) -> Float[Tensor, " B"]:
    """Return long + (short - long) (1 + cos(pi length / max_tokens)) / 2, and `exceeded` from max_tokens on.

    Yeo et al. 2025, arXiv:2502.03373, section 4.

    Args:
        lengths: completion tokens.
        passed: whether the answer is right.
        max_tokens: L_max.
        right: (short, long): the reward of a right answer of no tokens, and of almost max_tokens.
        wrong: the same of a wrong answer.
        exceeded: of a completion of max_tokens or more, right or wrong.
    """
    share = 0.5 * (1 + torch.cos(math.pi * lengths.double() / max_tokens))
    found = torch.where(
        passed, right[1] + (right[0] - right[1]) * share, wrong[1] + (wrong[0] - wrong[1]) * share
    )
    return torch.where(lengths >= max_tokens, torch.full_like(found, exceeded), found)


def length_deviation(
    lengths: Int[Tensor, " B"], groups: Int[Tensor, " B"], *, eps: float = 1e-6
) -> Float[Tensor, " B"]:
    """Return (length - mean of its group) / (std + eps), with Bessel's correction; 0 in a group of one."""
    values = lengths.double()
    return (values - group_mean(values, groups)) / (group_std(values, groups) + eps)


def repeated_share(tokens: Sequence[Hashable], *, ngram: int) -> float:
    """Return 1 - distinct n-grams / n-grams, in [0, 1); 0 where there are fewer tokens than n.

    Yeo et al. 2025, arXiv:2502.03373, appendix C.2.
    """
    count = len(tokens) - ngram + 1
    if count <= 0:
        return 0.0
    return (count - len({tuple(tokens[i : i + ngram]) for i in range(count)})) / count
