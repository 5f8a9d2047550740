"""Soft Adaptive Policy Optimization: a smooth gate on the ratio where PPO has a hard clip.

arXiv:2511.20347: L = -seq_mean_token_mean(f(rho) A) with f(rho) = (4 / tau) sigmoid(tau (rho - 1)). At rho
= 1 its slope is 1, as without a clip; it falls smoothly on both sides, so that a token far from the old
policy counts less and none is cut off. tau is temperature_positive where A > 0 and temperature_negative
elsewhere: the larger one closes sooner, for pushing a token down spreads its probability over all others.

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). The standard deviation has Bessel's correction.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._policy import (
    Objective,
    group_credit,
    objective_terms,
    token_advantages,
    token_log_ratios,
)
from truing.config import DataKind, EntropyCoef, Mismatch, MismatchCap, Options
from truing.math.ratios import token_ratio
from truing.math.reduce import seq_mean_token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of SAPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    temperature_positive: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="tau of the gate where the advantage is positive"
    )
    temperature_negative: float = Field(
        1.05, gt=0, allow_inf_nan=False, description="tau of the gate elsewhere; larger closes sooner"
    )
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def sapo_loss(
    ratio: Float[Tensor, "B C"],
    advantages: Float[Tensor, "B C"],
    *,
    temperature_positive: float,
    temperature_negative: float,
) -> Float[Tensor, "B C"]:
    """Return -A (4 / tau) sigmoid(tau (rho - 1)) for each token.

    Args:
        ratio: rho, with gradient.
        advantages: A, without.
        temperature_positive: tau where A > 0.
        temperature_negative: tau elsewhere.
    """
    tau = torch.where(
        advantages > 0,
        torch.full_like(ratio, temperature_positive),
        torch.full_like(ratio, temperature_negative),
    )
    return -advantages * (4 / tau) * torch.sigmoid(tau * (ratio - 1))


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    losses = sapo_loss(
        token_ratio(token_log_ratios(outputs, batch)),
        token_advantages(batch),
        temperature_positive=config.temperature_positive,
        temperature_negative=config.temperature_negative,
    )
    return objective_terms(
        outputs,
        batch,
        Objective(losses),
        reduction=seq_mean_token_mean,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2511.20347", config=Config, loss=_loss, credit=_credit)
