"""REINFORCE for language models: the return less a running baseline, times the log-prob.

Williams 1992; for language models Ahmadian et al. 2024, "Back to Basics", arXiv:2402.14740, section 3.2: L =
-(1/B) sum_i sum_t (G_t - b) log pi(y_t). G_t is the score less kl_coef times the k1 of this token and those
after it; b is a running mean of earlier returns. It needs one completion of a prompt, no critic and no group.

The sum over tokens is what makes the estimate unbiased: a mean over tokens divides by a length that the
policy chooses. The loss has no ratio and no clip, so a batch is meant for one update: with more, the later
ones are slightly off-policy, which policy/ratio_gap_mean shows; take rloo or grpo for several.

Differs from the paper: the running mean is exponential (ema_decay) over steps, not over all of training,
and it starts at the mean of the first batch; each is a mean over trained tokens. A token is weighted by
min(exp(old_logprobs - sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from truing.algorithms._policy import (
    Objective,
    objective_terms,
    reference_kl,
    reference_kl_term,
    reinforce_loss,
    scored_only,
    token_advantages,
    with_advantages,
)
from truing.config import DataKind, EntropyCoef, KlRewardCoef, Mismatch, MismatchCap, Options
from truing.math.advantages import returns_to_go, token_rewards
from truing.math.reduce import seq_mean_token_sum, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of REINFORCE."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    baseline: Literal["ema", "batch", "none"] = Field(
        "ema", description="subtracted from returns: a running mean, the batch's own mean, or nothing"
    )
    ema_decay: float = Field(0.9, ge=0, lt=1, description="share of the running mean that a step keeps")
    running_return: float | None = Field(
        None,
        allow_inf_nan=False,
        description="the running mean so far: carried from step to step and in checkpoints; left out: the "
        "first batch's mean",
    )
    kl_coef: KlRewardCoef = 0.03
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    @model_validator(mode="after")
    def _running_mean_has_use(self) -> Config:
        if self.baseline != "ema" and (self.ema_decay != 0.9 or self.running_return is not None):
            raise ValueError("ema_decay or running_return does nothing unless baseline is 'ema'")
        return self

    def needs(self) -> frozenset[str]:
        for_kl = {"old_logprobs", "ref_logprobs"} if self.kl_coef else set()
        return frozenset({"logprobs", "entropy"} | for_kl)


def baseline_of(returns: Float[Tensor, "B C"], batch: Batch, config: Config) -> Float[Tensor, ""] | float:
    """Return b: the running mean where there is one yet, the batch's own mean, or 0."""
    if config.baseline == "none":
        return 0.0
    if config.running_return is not None:
        return config.running_return
    return token_mean(returns, batch.mask)[0] / batch.mask.sum().clamp(min=1)


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    kl = reference_kl(batch, config.kl_coef)
    rewards = token_rewards(batch.require("rewards"), kl, batch.mask, kl_coef=config.kl_coef)
    returns = returns_to_go(rewards, batch.mask)
    batch = replace(batch, returns=returns)
    return with_advantages(batch, returns - baseline_of(returns, batch, config))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    losses = reinforce_loss(outputs.require("logprobs"), token_advantages(batch), batch.mask)
    terms = objective_terms(
        outputs,
        batch,
        Objective(losses),
        reduction=seq_mean_token_sum,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    terms.append(Term("policy/return_mean", *token_mean(batch.require("returns"), batch.mask), 0.0))
    return [*terms, reference_kl_term(outputs, batch)] if config.kl_coef else terms


def _adapt(config: Config, metrics: Mapping[str, float]) -> Config:
    if config.baseline != "ema":
        return config
    seen = metrics["policy/return_mean"]
    old = seen if config.running_return is None else config.running_return
    running = config.ema_decay * old + (1 - config.ema_decay) * seen
    return config.model_copy(update={"running_return": running})


ALGORITHM = Algorithm(
    source="arXiv:2402.14740 section 3.2", config=Config, loss=_loss, credit=_credit, adapt=_adapt
)
