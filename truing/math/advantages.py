"""Rewards, baselines, generalised advantage estimation and whitening.

Everything here is batch-wide: it is computed once, before a batch is split into micro-batches.
A reward of NaN belongs to a row that could not be scored. It enters no mean and no deviation.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truing.math.reduce import group_index, group_totals, masked

Scale = Literal["group", "batch", "none"]


def group_mean(rewards: Float[Tensor, " B"], groups: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return, for each row, the mean reward over the scored rows of its group (0 where there is none)."""
    scored = ~rewards.isnan()
    count = group_totals(scored.to(rewards.dtype), groups)
    return group_totals(rewards.nan_to_num(nan=0.0), groups) / count.clamp(min=1)


def group_std(rewards: Float[Tensor, " B"], groups: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return, for each row, its group's standard deviation with Bessel's correction; 0 for one row."""
    scored = ~rewards.isnan()
    deviation = (rewards - group_mean(rewards, groups)).nan_to_num(nan=0.0)
    count = group_totals(scored.to(rewards.dtype), groups)
    return (group_totals(deviation.square(), groups) / (count - 1).clamp(min=1)).sqrt()


def has_spread(rewards: Float[Tensor, " B"], groups: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Return, for each row, whether the scored rewards of its group differ at all.

    The comparison is exact: the mean of equal floats may differ from them by a rounding error, which a
    tiny standard deviation would blow up. For rewards 0 and 1 this is 0 < number correct < G, what
    dynamic sampling keeps (DAPO, arXiv:2503.14476, eq. 11).
    """
    index = group_index(groups)
    top, bottom = torch.full_like(rewards, -torch.inf), torch.full_like(rewards, torch.inf)
    high = top.scatter_reduce(0, index, rewards.nan_to_num(nan=-torch.inf), "amax")
    low = bottom.scatter_reduce(0, index, rewards.nan_to_num(nan=torch.inf), "amin")
    return (high > low)[index]


def group_advantages(
    rewards: Float[Tensor, " B"], groups: Int[Tensor, " B"], *, scale: Scale = "group", eps: float = 1e-6
) -> Float[Tensor, " B"]:
    """Return (r_i - mean of the group) / (std + eps); exactly 0 for a group without spread.

    Args:
        rewards: one a row; NaN where it could not be scored, which gives advantage 0.
        groups: rows with the same number answer the same prompt.
        scale: divide by the group's std (GRPO), the std of all scored rewards, or nothing (Dr.GRPO).
        eps: added to the std.
    """
    centred = (rewards - group_mean(rewards, groups)).nan_to_num(nan=0.0)
    if scale == "group":
        centred = centred / (group_std(rewards, groups) + eps)
    elif scale == "batch":
        centred = centred / (group_std(rewards, torch.zeros_like(groups)) + eps)
    return torch.where(has_spread(rewards, groups), centred, torch.zeros_like(centred))


def leave_one_out(rewards: Float[Tensor, " B"], groups: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return r_i - mean of the OTHER scored rewards of the group; 0 where there is no other.

    It is n / (n - 1) (r_i - group mean): the baseline of a row does not depend on it, so the estimate of the
    gradient is unbiased (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740).
    """
    scored = ~rewards.isnan()
    count = group_totals(scored.to(rewards.dtype), groups)
    centred = (rewards - group_mean(rewards, groups)).nan_to_num(nan=0.0) * count / (count - 1).clamp(min=1)
    return torch.where(has_spread(rewards, groups), centred, torch.zeros_like(centred))


def standardised(
    values: Float[Tensor, " B"], scored: Bool[Tensor, " B"], *, eps: float = 1e-6
) -> Float[Tensor, " B"]:
    """Return (x - mean) / (std + eps) over the scored rows, with Bessel's correction; 0 elsewhere."""
    seen = torch.where(scored, values, torch.full_like(values, torch.nan))
    everyone = torch.zeros(len(values), dtype=torch.long, device=values.device)
    centred = (seen - group_mean(seen, everyone)).nan_to_num(nan=0.0)
    return centred / (group_std(seen, everyone) + eps)


def high_entropy(
    entropy: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"], *, share: float
) -> Bool[Tensor, "B C"]:
    """Return which trained tokens are among the `share` of highest entropy in the whole batch.

    Wang et al. 2025, arXiv:2506.01939: the forking tokens. The bound is the linearly interpolated
    quantile 1 - share over all trained tokens, and a token on it counts.

    Args:
        entropy: of the next-token distribution that drew each token [nats].
        mask: True on trained tokens.
        share: in (0, 1].
    """
    found = entropy[mask]
    if not found.numel():
        return mask
    ranked = found.sort().values
    place = (1 - share) * (len(ranked) - 1)
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    bound = ranked[below] + (place - below) * (ranked[above] - ranked[below])
    return mask & (masked(entropy, mask) >= bound)


def last_trained(mask: Bool[Tensor, "B C"]) -> Int[Tensor, " B"]:
    """Return the position of each row's last trained token (0 for a row without any)."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, torch.zeros_like(positions)).amax(-1)


def token_rewards(
    scores: Float[Tensor, " B"],
    kl: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    kl_coef: float,
) -> Float[Tensor, "B C"]:
    """Return -kl_coef * kl_t, plus the score on the last trained token, whatever that token is.

    Ziegler et al. 2019, arXiv:1909.08593, eq. 2.

    Args:
        scores: one a sequence.
        kl: per-token estimate k1 = old_logprobs - ref_logprobs [nats].
        mask: True on trained tokens; a row without any gets no reward.
        kl_coef: >= 0.
    """
    at_last = torch.zeros_like(mask).scatter(1, last_trained(mask)[:, None], True) & mask
    return masked(-kl_coef * kl, mask) + masked(scores[:, None].expand_as(kl), at_last)


def gae(
    rewards: Float[Tensor, "B C"],
    values: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    discount: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Return advantages A_t = sum_l (discount gae_lambda)^l delta_{t+l}, and returns A_t + V_t.

    delta_t = r_t + discount V_{t+1} - V_t, and V after the last trained token is 0. Untrained tokens
    (a tool's output, padding) are jumped over: t + 1 is the next trained token, and what stands on
    the others is never read. Schulman et al. 2015, arXiv:1506.02438, eq. 16.

    Args:
        rewards: on the token that earned them.
        values: V before each token.
        mask: True on trained tokens; both results are 0 elsewhere.
        discount: in [0, 1].
        gae_lambda: in [0, 1]; 1 is Monte Carlo, 0 one step.
    """
    rewards, values = masked(rewards, mask), masked(values, mask)
    next_value, running = torch.zeros_like(rewards[:, :1]), torch.zeros_like(rewards[:, :1])
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(mask.shape[1])):
        at = slice(t, t + 1)
        delta = rewards[:, at] + discount * next_value - values[:, at]
        running = torch.where(mask[:, at], delta + discount * gae_lambda * running, running)
        next_value = torch.where(mask[:, at], values[:, at], next_value)
        advantages[:, at] = running
    advantages = masked(advantages, mask)
    return advantages, advantages + values


def returns_to_go(
    rewards: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"], *, discount: float = 1.0
) -> Float[Tensor, "B C"]:
    """Return G_t = r_t + discount G_{t+1} over the trained tokens, and 0 elsewhere."""
    return gae(rewards, torch.zeros_like(rewards), mask, discount=discount, gae_lambda=1.0)[0]


def whiten(
    values: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    keep_mean: bool = False,
    correction: int = 1,
    eps: float = 1e-8,
) -> Float[Tensor, "B C"]:
    """Return (x - mean) / sqrt(var + eps) over the trained tokens, and 0 elsewhere.

    Args:
        values: one a token.
        mask: True on trained tokens; a single one gives 0, not NaN.
        keep_mean: add the mean back, as is usual for rewards.
        correction: 1 for Bessel's, 0 for the population variance.
        eps: added to the variance.
    """
    count = mask.sum()
    mean = masked(values, mask).sum() / count.clamp(min=1)
    centred = masked(values - mean, mask)
    variance = centred.square().sum() / (count - correction).clamp(min=1)
    white = centred * (variance + eps).rsqrt()
    return masked(white + mean, mask) if keep_mean else white


def soft_overlong_penalty(lengths: Int[Tensor, " B"], *, max_tokens: int, cache: int) -> Float[Tensor, " B"]:
    """Return 0 up to max_tokens - cache, then linearly down to -1 at max_tokens, and -1 beyond.

    Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13.

    Args:
        lengths: completion tokens, trained or not.
        max_tokens: L_max, the longest completion the sampler may draw.
        cache: L_cache, the width of the ramp, in 1..max_tokens.
    """
    return ((max_tokens - cache - lengths) / cache).clamp(-1.0, 0.0)
