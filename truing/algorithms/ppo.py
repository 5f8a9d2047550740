"""Proximal Policy Optimization for language models, with a critic and a KL penalty in the reward.

Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9; Ziegler et al. 2019, arXiv:1909.08593, eq. 2 and
section 2.2 (reward -kl_coef k1 at each token, the score on the last one, adaptive coefficient); Schulman
et al. 2015, arXiv:1506.02438, eq. 16 (GAE); the details of Huang et al. 2024, arXiv:2403.17031.

Differs from the papers: the critic is a network of its own with its own learning rate, so value_coef is
1; the coefficient of the KL is fixed unless kl_target is set; scores are clipped to +-10; advantages are
whitened over the whole batch with Bessel's correction; a token is weighted by min(exp(old_logprobs -
sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from truing.algorithms._policy import policy_terms, reference_kl, reference_kl_term, scored_only
from truing.config import (
    ClipHigh,
    ClipLow,
    DataKind,
    DualClip,
    EntropyCoef,
    KlRewardCoef,
    Mismatch,
    MismatchCap,
    Options,
)
from truing.math.advantages import gae, token_rewards, whiten
from truing.math.kl import adaptive_kl_coef
from truing.math.reduce import masked, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of PPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    only_with: ClassVar[dict[str, str]] = {"kl_horizon_steps": "kl_target", "mismatch": "mismatch_cap"}

    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    dual_clip: DualClip = None
    discount: float = Field(1.0, ge=0, le=1, description="per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="1: Monte Carlo, 0: one step of the critic")
    whiten_advantages: bool = Field(True, description="mean 0 and variance 1 over the batch's tokens")
    clip_value: float | None = Field(
        0.2, gt=0, description="how far a value may move from old_values; None: any"
    )
    value_coef: float = Field(1.0, gt=0, allow_inf_nan=False, description="weight of the critic's loss")
    kl_coef: KlRewardCoef = 0.05
    kl_target: float | None = Field(None, gt=0, description="adapt kl_coef to this KL [nats per sequence]")
    kl_horizon_steps: float = Field(
        156.25, gt=0, allow_inf_nan=False, description="of the adaptation; 10000 episodes at 64 a step"
    )
    reward_clip: float | None = Field(10.0, gt=0, description="scores are clipped to +- this; None: not")
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the score of a truncated completion"
    )
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    @model_validator(mode="after")
    def _target_has_use(self) -> Config:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target scales kl_coef, and kl_coef is 0: set kl_coef above 0")
        return self

    def needs(self) -> frozenset[str]:
        for_kl = {"old_logprobs", "ref_logprobs"} if self.kl_coef else set()
        return frozenset({"logprobs", "entropy", "values"} | for_kl)


def value_loss(
    values: Float[Tensor, "B C"],
    old_values: Float[Tensor, "B C"],
    returns: Float[Tensor, "B C"],
    *,
    clip: float | None,
) -> Float[Tensor, "B C"]:
    """Return 0.5 max((V - R)^2, (V_clip - R)^2), V_clip = V_old + clip(V - V_old, -clip, clip).

    Args:
        values: V, with gradient.
        old_values: V when the batch began.
        returns: R.
        clip: how far a value may move before its gradient stops; None for no clipping.
    """
    error = (values - returns).square()
    if clip is not None:
        bounded = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (bounded - returns).square())
    return 0.5 * error


def _scores(batch: Batch, config: Config) -> Float[Tensor, " B"]:
    """Return the clipped rewards, less the penalty where the length limit ended the completion."""
    scores = batch.require("rewards")
    if config.reward_clip is not None:
        scores = scores.clamp(-config.reward_clip, config.reward_clip)
    if config.missing_eos_penalty:
        scores = scores - config.missing_eos_penalty * batch.require("truncated").to(scores.dtype)
    return scores


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    values, mask = batch.require("old_values"), batch.mask
    kl = reference_kl(batch, config.kl_coef)
    rewards = token_rewards(_scores(batch, config), kl, mask, kl_coef=config.kl_coef)
    advantages, returns = gae(rewards, values, mask, discount=config.discount, gae_lambda=config.gae_lambda)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask)
    return replace(batch, advantages=advantages, returns=returns)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    terms += _value_terms(outputs, batch, config)
    if config.kl_coef:
        rows = torch.tensor(float(len(batch)), device=batch.mask.device)
        terms += [
            reference_kl_term(outputs, batch),
            Term("policy/kl_coef", config.kl_coef * rows, "sequence", 0.0),
        ]
    return terms


def _value_terms(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    """Return the critic's loss and metrics; explained variance is
    1 - value/error_square_mean / (value/return_square_mean - value/return_mean^2).
    """
    mask = batch.mask
    values = masked(outputs.require("values"), mask)
    old_values, returns = masked(batch.require("old_values"), mask), masked(batch.require("returns"), mask)
    losses = value_loss(values, old_values, returns, clip=config.clip_value)
    error = (values.detach() - returns).square()
    clipped = (2 * losses.detach() > error).to(error.dtype)
    metrics = {
        "value/clip_fraction": clipped,
        "value/error_square_mean": error,
        "value/return_mean": returns,
        "value/return_square_mean": returns.square(),
    }
    loss = Term("loss/value", *token_mean(losses, mask), config.value_coef)
    return [loss, *(Term(name, *token_mean(x, mask), 0.0) for name, x in metrics.items())]


def _adapt(config: Config, metrics: Mapping[str, float]) -> Config:
    if config.kl_target is None:
        return config
    coef = adaptive_kl_coef(
        config.kl_coef,
        metrics["policy/ref_kl_per_sequence"],
        target=config.kl_target,
        num_sequences=1.0,  # of steps: both numbers are steps here, where the paper counts episodes
        horizon=config.kl_horizon_steps,
    )
    return config.model_copy(update={"kl_coef": coef})


ALGORITHM = Algorithm(
    source="arXiv:1707.06347 eq. 7, 9; arXiv:1909.08593 eq. 2",
    config=Config,
    loss=_loss,
    credit=_credit,
    adapt=_adapt,
)
