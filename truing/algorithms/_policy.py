"""What the policy-gradient methods share: advantages, the clipped objective, corrections, KL and metrics.

A method's file is a row of choices over these functions: baseline and normalisation (its credit), the
ratio's level and clip (its objective), the place and estimator of the KL, and the reduction.

A batch without old_logprobs is used for a single update: the policy that began the batch is then the
one in `outputs`, and saving its separate forward pass changes no gradient. Who makes several updates
of one batch fills old_logprobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truing.math.advantages import Scale, group_advantages
from truing.math.kl import LossEstimator, k1, k3, kl_loss
from truing.math.ratios import (
    Correction,
    Level,
    clipped_surrogate,
    clipped_tokens,
    correction_weight,
    log_ratio,
    near_policy,
    ratio_at,
    token_ratio,
)
from truing.math.reduce import Reduced, group_totals, masked, token_mean
from truing.types import Batch, Outputs, Term

Reduction = Callable[[Float[Tensor, "B C"], Bool[Tensor, "B C"]], Reduced]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss for each token, and where its lower and its upper bound act (None: it has none)."""

    losses: Float[Tensor, "B C"]
    low: Bool[Tensor, "B C"] | None = None
    high: Bool[Tensor, "B C"] | None = None


def scored_only(batch: Batch) -> Batch:
    """Return the batch with every row untrained whose reward is NaN: it could not be scored."""
    return replace(batch, mask=batch.mask & ~batch.require("rewards").isnan()[:, None])


def with_advantages(batch: Batch, advantages: Float[Tensor, " B"] | Float[Tensor, "B C"]) -> Batch:
    """Return the batch with advantages of its rows, the same on every trained token, or of its tokens."""
    wide = advantages[:, None] if advantages.ndim == 1 else advantages
    return replace(batch, advantages=masked(wide.expand(batch.mask.shape), batch.mask))


def group_credit(batch: Batch, *, scale: Scale = "group") -> Batch:
    """Return the batch with each completion's reward beside its group's as the advantage of its tokens.

    Args:
        batch: with rewards; a row without one is not trained and enters no mean.
        scale: see `truing.math.advantages.group_advantages`.
    """
    batch = scored_only(batch)
    return with_advantages(batch, group_advantages(batch.require("rewards"), batch.groups, scale=scale))


def reference_kl(batch: Batch, kl_coef: float) -> Float[Tensor, "B C"]:
    """Return k1 = old_logprobs - ref_logprobs for the reward; 0 where kl_coef is, and without a reference."""
    if not kl_coef:
        return torch.zeros_like(batch.mask, dtype=batch.require("rewards").dtype)
    return k1(log_ratio(batch.require("old_logprobs"), batch.require("ref_logprobs"), batch.mask))


def token_log_ratios(outputs: Outputs, batch: Batch) -> Float[Tensor, "B C"]:
    """Return logprobs - old_logprobs, 0 on untrained tokens [nats]."""
    logprobs = outputs.require("logprobs")
    return log_ratio(logprobs, old_logprobs(outputs, batch), batch.mask)


def old_logprobs(outputs: Outputs, batch: Batch) -> Float[Tensor, "B C"]:
    """Return the log-probs of the policy that began the batch: those in `outputs` in a single update."""
    return outputs.require("logprobs").detach() if batch.old_logprobs is None else batch.old_logprobs


def token_advantages(batch: Batch) -> Float[Tensor, "B C"]:
    """Return the advantages, 0 on untrained tokens."""
    return masked(batch.require("advantages"), batch.mask)


def reinforce_loss(
    logprobs: Float[Tensor, "B C"], advantages: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Return -A log pi for each token, 0 on untrained ones: the gradient of REINFORCE."""
    return -advantages * masked(logprobs, mask)


def policy_terms(
    outputs: Outputs,
    batch: Batch,
    *,
    reduction: Reduction,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    ratio_level: Level = "token",
    mismatch: Correction = "token_truncate",
    mismatch_cap: float | None = None,
    max_gap: float | None = None,
    entropy_coef: float = 0.0,
) -> list[Term]:
    """Return the clipped surrogate, the entropy bonus where there is one, and their metrics.

    Args:
        outputs: logprobs with gradient; entropy, if given, is logged and weighted by entropy_coef.
        batch: with advantages; with sampler_logprobs the loss is corrected for the sampler's mismatch.
        reduction: how the method averages over tokens.
        clip_low: see `truing.math.ratios.clipped_surrogate`, as are clip_high and dual_clip.
        clip_high: the upper side.
        dual_clip: None for none.
        ratio_level: of a token, of its completion by the geometric mean, or by the product.
        mismatch: how the weight exp(old_logprobs - sampler_logprobs) is bounded.
        mismatch_cap: its cap; None: no weight.
        max_gap: bad rows further from the sampler than this are left out; None: none are.
        entropy_coef: weight of the entropy bonus, >= 0.
    """
    ratio = ratio_at(ratio_level, token_log_ratios(outputs, batch), batch.mask)
    advantages = token_advantages(batch)
    losses = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    low, high = clipped_tokens(ratio.detach(), advantages, clip_low=clip_low, clip_high=clip_high)
    near = list[Term]()
    if max_gap is not None and batch.sampler_logprobs is not None:
        gap = log_ratio(batch.sampler_logprobs, outputs.require("logprobs"), batch.mask)
        kept = near_policy(gap, advantages, batch.mask, max_gap=max_gap)
        losses = torch.where(kept, losses, torch.zeros_like(losses))
        near = [_metric("mismatch/far_token_share", (~kept).to(losses.dtype), batch.mask)]
    found = objective_terms(
        outputs, batch, Objective(losses, low, high), reduction=reduction,
        mismatch=mismatch, mismatch_cap=mismatch_cap, entropy_coef=entropy_coef,
    )  # fmt: skip
    return found + near


def objective_terms(
    outputs: Outputs,
    batch: Batch,
    objective: Objective,
    *,
    reduction: Reduction,
    mismatch: Correction = "token_truncate",
    mismatch_cap: float | None = None,
    entropy_coef: float = 0.0,
) -> list[Term]:
    """Return a method's own objective, the entropy bonus where there is one, and their metrics.

    The arguments are those of `policy_terms`; without a mismatch_cap the objective stays as it is.
    """
    log_ratios, mask = token_log_ratios(outputs, batch).detach(), batch.mask
    ratio, advantages = token_ratio(log_ratios), token_advantages(batch)
    weight, metrics = _mismatch(outputs, batch, mismatch, mismatch_cap)
    losses = objective.losses if weight is None else weight * objective.losses
    sides = {"low": objective.low, "high": objective.high}
    return [
        Term("loss/policy", *reduction(losses, mask)),
        *_entropy(outputs, batch, entropy_coef),
        *(
            _metric(f"policy/clip_fraction_{s}", x.to(ratio.dtype), mask)
            for s, x in sides.items()
            if x is not None
        ),
        _metric("policy/ratio_mean", ratio, mask),
        _metric("policy/ratio_gap_mean", (ratio - 1).abs(), mask),
        _metric("policy/approx_kl", k3(-log_ratios), mask),
        Term("policy/dead_group_share", _dead_rows(batch, advantages).sum(), "sequence", 0.0),
        *metrics,
    ]


def kl_loss_terms(
    outputs: Outputs, batch: Batch, *, reduction: Reduction, kl_coef: float, estimator: LossEstimator
) -> list[Term]:
    """Return kl_coef times the KL to the reference, in the loss, and its metric; nothing at kl_coef 0."""
    if not kl_coef:
        return []
    from_reference = log_ratio(outputs.require("logprobs"), batch.require("ref_logprobs"), batch.mask)
    ratio = token_ratio(token_log_ratios(outputs, batch))
    losses = kl_loss(from_reference, estimator=estimator, ratio=ratio)
    return [Term("loss/kl", *reduction(losses, batch.mask), kl_coef), reference_kl_term(outputs, batch)]


def reference_kl_term(outputs: Outputs, batch: Batch) -> Term:
    """Return the KL to the reference [nats per sequence]: k1 summed over tokens, mean over sequences.

    It is that of the policy that began the batch, and so the same in every update of the batch.
    """
    old, reference = old_logprobs(outputs, batch), batch.require("ref_logprobs")
    return Term("policy/ref_kl_per_sequence", log_ratio(old, reference, batch.mask).sum(), "sequence", 0.0)


def _metric(name: str, values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Term:
    return Term(name, *token_mean(values.detach(), mask), 0.0)


def _mismatch(
    outputs: Outputs, batch: Batch, kind: Correction, cap: float | None
) -> tuple[Float[Tensor, "B C"] | None, list[Term]]:
    """Return the weight of each token, None where nothing is corrected, and metrics of the mismatch."""
    if batch.sampler_logprobs is None:
        return None, []
    mask = batch.mask
    gap = log_ratio(old_logprobs(outputs, batch), batch.sampler_logprobs, mask).nan_to_num(nan=0.0)
    metrics = [_metric("mismatch/logprob_gap_mean", gap.abs(), mask), _metric("mismatch/kl", k3(-gap), mask)]
    if cap is None:
        return None, metrics
    weight = correction_weight(gap, mask, kind=kind, cap=cap)
    bounded = (weight == 0) | (weight >= cap)
    metrics += [
        _metric("mismatch/weight_mean", weight, mask),
        _metric("mismatch/weight_bounded_share", bounded.to(weight.dtype), mask),
    ]
    return weight, metrics


def _entropy(outputs: Outputs, batch: Batch, coef: float) -> list[Term]:
    if outputs.entropy is None and coef == 0:
        return []
    entropy = outputs.require("entropy")
    entropy = entropy if coef else entropy.detach()  # a mere metric sends no backward pass through it
    return [Term("policy/entropy", *token_mean(entropy, batch.mask), -coef)]


def _dead_rows(batch: Batch, advantages: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Return 1 for each trained row of a group in which no advantage differs from 0."""
    strength = group_totals(advantages.abs().sum(-1), batch.groups)
    return ((strength == 0) & batch.mask.any(-1)).to(advantages.dtype)
