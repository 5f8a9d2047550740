"""Geometric-Mean Policy Optimization: token ratios are clipped, then averaged geometrically.

arXiv:2507.20673: L = -mean_i A_i exp(mean_t of the clipped log-ratio), where a token's log-ratio is cut at
+clip_log_high while A > 0 and at -clip_log_low while A < 0. A geometric mean is far less moved by one outlier
than GRPO's arithmetic one, so the range can be wide: exp(-0.4) to exp(0.4).

Differs from the paper: a token is weighted by min(exp(old_logprobs - sampler_logprobs), mismatch_cap)
where the sampler reports log-probs (Yao et al. 2025). The standard deviation has Bessel's correction.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
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
from truing.math.ratios import sequence_ratio
from truing.math.reduce import seq_mean_token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of GMPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    clip_log_low: float = Field(
        0.4, gt=0, allow_inf_nan=False, description="a log-ratio counts down to - this where A < 0 [nats]"
    )
    clip_log_high: float = Field(
        0.4, gt=0, allow_inf_nan=False, description="a log-ratio counts up to this where A > 0 [nats]"
    )
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"})


def gmpo_loss(
    log_ratios: Float[Tensor, "B C"],
    advantages: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    *,
    low: float,
    high: float,
) -> Float[Tensor, "B C"]:
    """Return -A exp(mean_t clipped log-ratio), a row's own loss, repeated on each of its tokens.

    Args:
        log_ratios: logprobs - old_logprobs, with gradient [nats].
        advantages: A, without.
        mask: True on trained tokens.
        low: where A < 0, a log-ratio below -low stands at -low.
        high: where A > 0, a log-ratio above high stands at high.
    """
    clipped = torch.where(advantages > 0, log_ratios.clamp(max=high), log_ratios.clamp(min=-low))
    return -advantages * sequence_ratio(clipped, mask)


def _credit(batch: Batch, config: Config) -> Batch:
    return group_credit(batch)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    log_ratios, advantages = token_log_ratios(outputs, batch), token_advantages(batch)
    low, high = config.clip_log_low, config.clip_log_high
    objective = Objective(
        gmpo_loss(log_ratios, advantages, batch.mask, low=low, high=high),
        (log_ratios < -low) & (advantages < 0),
        (log_ratios > high) & (advantages > 0),
    )
    return objective_terms(
        outputs,
        batch,
        objective,
        reduction=seq_mean_token_mean,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )


ALGORITHM = Algorithm(source="arXiv:2507.20673", config=Config, loss=_loss, credit=_credit)
