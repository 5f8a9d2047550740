"""The clipped policy-gradient objective that PPO, GRPO and DAPO share, and its metrics.

A batch without old_logprobs is used for a single update: the policy that began the batch is then the
one in `outputs`, and saving its separate forward pass changes no gradient. Who makes several updates
of one batch fills old_logprobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from truing.math.kl import k3
from truing.math.ratios import clipped_surrogate, clipped_tokens, log_ratio, token_ratio, truncated_weight
from truing.math.reduce import Reduced, group_totals, masked, token_mean
from truing.types import Batch, Outputs, Term

Reduction = Callable[[Float[Tensor, "B C"], Bool[Tensor, "B C"]], Reduced]


def scored_only(batch: Batch) -> Batch:
    """Return the batch with every row untrained whose reward is NaN: it could not be scored."""
    return replace(batch, mask=batch.mask & ~batch.require("rewards").isnan()[:, None])


def token_log_ratios(outputs: Outputs, batch: Batch) -> Float[Tensor, "B C"]:
    """Return logprobs - old_logprobs, 0 on untrained tokens [nats]."""
    logprobs = outputs.require("logprobs")
    return log_ratio(logprobs, _old_logprobs(outputs, batch), batch.mask)


def policy_terms(
    outputs: Outputs,
    batch: Batch,
    *,
    reduction: Reduction,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    mismatch_cap: float | None = None,
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
        mismatch_cap: C of the weight min(exp(old_logprobs - sampler_logprobs), C); None: no weight.
        entropy_coef: weight of the entropy bonus, >= 0.
    """
    log_ratios = token_log_ratios(outputs, batch)
    advantages = masked(batch.require("advantages"), batch.mask)
    ratio = token_ratio(log_ratios)
    losses = clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    weight, metrics = _mismatch(outputs, batch, mismatch_cap)
    low, high = clipped_tokens(ratio.detach(), advantages, clip_low=clip_low, clip_high=clip_high)
    mask = batch.mask
    return [
        Term("loss/policy", *reduction(losses if weight is None else weight * losses, mask)),
        *_entropy(outputs, batch, entropy_coef),
        _metric("policy/clip_fraction_low", low.to(ratio.dtype), mask),
        _metric("policy/clip_fraction_high", high.to(ratio.dtype), mask),
        _metric("policy/ratio_mean", ratio, mask),
        _metric("policy/ratio_gap_mean", (ratio - 1).abs(), mask),
        _metric("policy/approx_kl", k3(-log_ratios), mask),
        Term("policy/dead_group_share", _dead_rows(batch, advantages).sum(), "sequence", 0.0),
        *metrics,
    ]


def reference_kl_term(outputs: Outputs, batch: Batch) -> Term:
    """Return the KL to the reference [nats per sequence]: k1 summed over tokens, mean over sequences.

    It is that of the policy that began the batch, and so the same in every update of the batch.
    """
    old, reference = _old_logprobs(outputs, batch), batch.require("ref_logprobs")
    return Term("policy/ref_kl_per_sequence", log_ratio(old, reference, batch.mask).sum(), "sequence", 0.0)


def _old_logprobs(outputs: Outputs, batch: Batch) -> Float[Tensor, "B C"]:
    return outputs.require("logprobs").detach() if batch.old_logprobs is None else batch.old_logprobs


def _metric(name: str, values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Term:
    return Term(name, *token_mean(values.detach(), mask), 0.0)


def _mismatch(
    outputs: Outputs, batch: Batch, cap: float | None
) -> tuple[Float[Tensor, "B C"] | None, list[Term]]:
    """Return the weight of each token, None where nothing is corrected, and metrics of the mismatch."""
    if batch.sampler_logprobs is None:
        return None, []
    old, mask = _old_logprobs(outputs, batch), batch.mask
    gap = log_ratio(old, batch.sampler_logprobs, mask).nan_to_num(nan=0.0)
    metrics = [_metric("mismatch/logprob_gap_mean", gap.abs(), mask), _metric("mismatch/kl", k3(-gap), mask)]
    if cap is None:
        return None, metrics
    weight = truncated_weight(gap, cap=cap)
    return weight, [*metrics, _metric("mismatch/weight_mean", weight, mask)]


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
