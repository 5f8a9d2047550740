"""Estimators of KL(policy || reference) from samples, and PPO's adaptive coefficient.

With x = log pi(y_t) - log pi_ref(y_t) at a token drawn from pi (Schulman 2020, "Approximating KL
divergence"): k1 = x, k2 = x^2/2, k3 = exp(-x) - 1 + x. What an estimator's VALUE estimates and what
its GRADIENT follows are two questions (arXiv:2506.09477):

    estimator   value     as a loss term                as a detached reward
    k1          KL        gradient 0: does nothing      gradient of KL(pi || ref)
    k2          biased    gradient of KL(pi || ref)     biased
    k3          KL        gradient of KL(ref || pi)     biased
    k3_ratio    KL        gradient of KL(pi || ref)     -
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truing.math.ratios import MAX_LOG_RATIO

LossEstimator = Literal["k2", "k3", "k3_ratio"]


def k1(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return x: unbiased, of high variance, negative at times. As a reward, never as a loss."""
    return log_ratio


def k2(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return x^2 / 2: biased in value, right in gradient."""
    return log_ratio.square() / 2


def k3(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return exp(-x) - 1 + x >= 0, unbiased and of low variance.

    Below x = -20 it continues along its tangent, so that value and gradient stay finite and keep
    their sign where exp(-x) would overflow.
    """
    inner = log_ratio.clamp(min=-MAX_LOG_RATIO)
    slope = -torch.expm1(-inner)
    return inner - slope + (log_ratio - inner) * slope


def kl_loss(
    log_ratio: Float[Tensor, "*S"], *, estimator: LossEstimator, ratio: Float[Tensor, "*S"]
) -> Float[Tensor, "*S"]:
    """Return the estimate at each token, for use as a loss term.

    Args:
        log_ratio: x = logprobs - ref_logprobs [nats], 0 on tokens that are not trained.
        estimator: k2, k3, or k3_ratio = rho * k3, which is unbiased off-policy and in its gradient.
        ratio: rho = exp(logprobs - old_logprobs), with gradient; only k3_ratio uses it.
    """
    if estimator == "k2":
        return k2(log_ratio)
    return ratio * k3(log_ratio) if estimator == "k3_ratio" else k3(log_ratio)


def adaptive_kl_coef(
    coef: float, kl_per_sequence: float, *, target: float, num_sequences: float, horizon: float
) -> float:
    """Return coef * (1 + clip(KL/target - 1, -0.2, 0.2) * num_sequences / horizon).

    Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    Args:
        coef: the coefficient of this step.
        kl_per_sequence: mean over sequences of the SUM over tokens [nats]; not a mean over tokens.
        target: the KL to hold [nats per sequence].
        num_sequences: sequences seen since the last change.
        horizon: sequences over which a coefficient may change e-fold at a fivefold error.
    """
    error = min(max(kl_per_sequence / target - 1.0, -0.2), 0.2)
    return coef * (1.0 + error * num_sequences / horizon)
