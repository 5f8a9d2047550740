"""Importance ratios, the clipped surrogate of PPO, and weights for sampler mismatch.

Masks come before exponentials: what stands on an untrained token may be anything, and inf * 0 is NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Level = Literal["token", "sequence", "product"]
Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
MAX_LOG_RATIO = 20.0  # beyond it exp continues along its tangent: exp(88) overflows float32


def log_ratio(
    logprobs: Float[Tensor, "B C"], anchor: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Return logprobs - anchor on trained tokens, and 0 elsewhere [nats]."""
    return torch.where(mask, logprobs - anchor, torch.zeros_like(logprobs))


def token_ratio(log_ratios: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return rho_t = exp(log ratio), linear above a log ratio of 20: finite, with a useful gradient."""
    inner = log_ratios.clamp(max=MAX_LOG_RATIO)
    value = inner.exp()
    return value + (log_ratios - inner) * value


def sequence_ratio(log_ratios: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Return s_i = exp(mean over trained tokens of the log ratio), repeated over the row.

    Zheng et al. 2025 (GSPO), arXiv:2507.18071, eq. 7.
    """
    mean = torch.where(mask, log_ratios, torch.zeros_like(log_ratios)).sum(-1, keepdim=True)
    return token_ratio(mean / mask.sum(-1, keepdim=True).clamp(min=1)).expand_as(log_ratios)


def product_ratio(log_ratios: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Return pi(y) / pi_old(y) = exp(sum over trained tokens of the log ratio), repeated over the row.

    It is the ratio of whole completions. A small drift of each token takes a long one far from 1.
    """
    total = torch.where(mask, log_ratios, torch.zeros_like(log_ratios)).sum(-1, keepdim=True)
    return token_ratio(total).expand_as(log_ratios)


def ratio_at(
    level: Level, log_ratios: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Return the ratio of each token: its own, or its completion's geometric mean or product."""
    if level == "token":
        return token_ratio(log_ratios)
    return sequence_ratio(log_ratios, mask) if level == "sequence" else product_ratio(log_ratios, mask)


def clipped_surrogate(
    ratio: Float[Tensor, "*S"],
    advantages: Float[Tensor, "*S"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "*S"]:
    """Return max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)), a loss for each token.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7, with a sign to minimise.

    Args:
        ratio: rho, with gradient.
        advantages: A, without.
        clip_low: in [0, 1); how far below 1 the ratio still counts.
        clip_high: >= 0; how far above 1.
        dual_clip: c > 1 bounds the loss at -c A where A < 0 (Ye et al. 2020, arXiv:1912.09729, eq. 5).
    """
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


def clipped_tokens(
    ratio: Float[Tensor, "*S"], advantages: Float[Tensor, "*S"], *, clip_low: float, clip_high: float
) -> tuple[Bool[Tensor, "*S"], Bool[Tensor, "*S"]]:
    """Return where the low side cuts the gradient (A < 0), and where the high side does (A > 0)."""
    return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)


def truncated_weight(log_gap: Float[Tensor, "*S"], *, cap: float) -> Float[Tensor, "*S"]:
    """Return min(exp(log_gap), cap), detached: the weight of a token that another policy drew.

    Truncated importance sampling (Ionides 2008; for samplers with other kernels, Yao et al. 2025).

    Args:
        log_gap: old_logprobs - sampler_logprobs [nats]; NaN (the sampler gave none) weighs 1.
        cap: largest weight, >= 1.
    """
    return log_gap.detach().nan_to_num(nan=0.0).clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


def correction_weight(
    log_gap: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"], *, kind: Correction, cap: float
) -> Float[Tensor, "B C"]:
    """Return w = exp(log_gap), detached, bounded at `cap`: the weight of what another policy drew.

    "token": w of the token; "sequence": exp of the sum over the row's trained tokens, repeated. "truncate"
    cuts w at the cap, which keeps every token; "mask" gives 0 above it, which drops what is too far off.

    Args:
        log_gap: old_logprobs - sampler_logprobs [nats]; NaN (the sampler gave none) counts as 0.
        mask: True on trained tokens.
        kind: level and bound.
        cap: largest weight, >= 1.
    """
    gap = torch.where(mask, log_gap.detach(), torch.zeros_like(log_gap)).nan_to_num(nan=0.0)
    if kind.startswith("sequence"):
        gap = gap.sum(-1, keepdim=True).expand_as(gap)
    if kind.endswith("truncate"):
        return truncated_weight(gap, cap=cap)
    weight = gap.clamp(max=MAX_LOG_RATIO).exp()
    return torch.where(weight > cap, torch.zeros_like(weight), weight)


def near_policy(
    log_gap: Float[Tensor, "B C"],
    advantages: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    max_gap: float,
) -> Bool[Tensor, "B C"]:
    """Return, over whole rows, whether A >= 0 or the mean of log_gap is at most max_gap.

    The off-policy sequence mask of DeepSeek-V3.2 (arXiv:2512.02556): a bad completion that the policy
    would hardly write any more teaches little, and its ratios are large.

    Args:
        log_gap: sampler_logprobs - logprobs [nats]; NaN (the sampler gave none) counts as 0.
        advantages: of the tokens; the row is bad when they sum to less than 0.
        mask: True on trained tokens.
        max_gap: [nats per token].
    """
    gap = torch.where(mask, log_gap.detach(), torch.zeros_like(log_gap)).nan_to_num(nan=0.0).sum(-1)
    near = gap / mask.sum(-1).clamp(min=1) <= max_gap
    good = torch.where(mask, advantages, torch.zeros_like(advantages)).sum(-1) >= 0
    return (near | good)[:, None].expand_as(mask)
