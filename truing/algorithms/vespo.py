"""Variational Sequence-level Soft Policy Optimization: the whole completion's ratio, softly bounded.

arXiv:2602.10693: L = -token_mean(sg(phi(w)) A log pi), with w = pi(y) / pi_old(y) of the whole completion and
phi(w) = exp(lambda) w^k exp(-lambda w), so phi(1) = 1. phi falls towards 0 on both sides: a completion that
the policy has left behind, or has already taken up, moves it no more. k and lambda differ by the sign of A.

Differs from the paper: where the sampler reports log-probs, w also holds the product over the tokens of
min(exp(old_logprobs - sampler_logprobs), mismatch_cap), as in TRL; log w stays in [log 1e-8, 20]. The
standard deviation has Bessel's correction. w is a product over all tokens, so after several updates of one
batch long completions have phi near 0: watch policy/phi_mean.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._policy import (
    Objective,
    group_credit,
    objective_terms,
    old_logprobs,
    token_advantages,
    token_log_ratios,
)
from truing.config import DataKind, EntropyCoef, MismatchCap, Options
from truing.math.ratios import MAX_LOG_RATIO, correction_weight, log_ratio
from truing.math.reduce import masked, token_mean
from truing.types import Algorithm, Batch, Outputs, Term

MIN_LOG_WEIGHT = math.log(1e-8)


class Config(Options):
    """Options of VESPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2

    k_positive: float = Field(
        2.0, ge=0, allow_inf_nan=False, description="power of w where A >= 0: larger mutes w < 1 sooner"
    )
    lambda_positive: float = Field(
        3.0, ge=0, allow_inf_nan=False, description="decay in w where A >= 0: larger mutes w > 1 sooner"
    )
    k_negative: float = Field(3.0, ge=0, allow_inf_nan=False, description="k where A < 0")
    lambda_negative: float = Field(2.0, ge=0, allow_inf_nan=False, description="lambda where A < 0")
    entropy_coef: EntropyCoef = 0.0
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def phi(
    log_weight: Float[Tensor, "B C"], *, k: Float[Tensor, "B C"], decay: Float[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Return exp(decay) w^k exp(-decay w) without gradient; 1 at w = 1.

    Args:
        log_weight: log w [nats].
        k: power, >= 0.
        decay: lambda, >= 0.
    """
    bounded = log_weight.detach().clamp(MIN_LOG_WEIGHT, MAX_LOG_RATIO)
    return (decay + k * bounded - decay * bounded.exp()).exp()


def log_weights(outputs: Outputs, batch: Batch, mismatch_cap: float | None) -> Float[Tensor, "B C"]:
    """Return log w of each row, repeated: of policy over old policy, and of old policy over sampler."""
    mask = batch.mask
    total = (
        token_log_ratios(outputs, batch).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).sum(-1, keepdim=True)
    )
    if mismatch_cap is not None and batch.sampler_logprobs is not None:
        gap = log_ratio(old_logprobs(outputs, batch), batch.sampler_logprobs, mask)
        weight = correction_weight(gap, mask, kind="token_truncate", cap=mismatch_cap)
        total = total + weight.log().clamp(min=MIN_LOG_WEIGHT).sum(-1, keepdim=True)
    return total.expand(mask.shape)


def _weights(outputs: Outputs, batch: Batch, config: Config) -> Float[Tensor, "B C"]:
    good: Bool[Tensor, "B C"] = token_advantages(batch) >= 0
    log_weight = log_weights(outputs, batch, config.mismatch_cap or None)
    choose = torch.zeros_like(log_weight)
    k = choose.masked_fill(good, config.k_positive).masked_fill(~good, config.k_negative)
    decay = choose.masked_fill(good, config.lambda_positive).masked_fill(~good, config.lambda_negative)
    return phi(log_weight, k=k, decay=decay)


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    weights, mask = _weights(outputs, batch, config), batch.mask
    losses = -weights * token_advantages(batch) * masked(outputs.require("logprobs"), mask)
    terms = objective_terms(
        outputs, batch, Objective(losses), reduction=token_mean, entropy_coef=config.entropy_coef
    )
    return [*terms, Term("policy/phi_mean", *token_mean(weights, mask), 0.0)]


ALGORITHM = Algorithm(source="arXiv:2602.10693", config=Config, loss=_loss, credit=_credit)
