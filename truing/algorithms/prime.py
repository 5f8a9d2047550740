"""Process reinforcement through implicit rewards: every token is paid, and only outcomes are labelled.

Cui et al. 2025 (PRIME), arXiv:2502.01456, with the implicit process reward model of Yuan et al. 2024,
arXiv:2412.01981. A second language model phi learns beside the policy: r_t = beta log(pi_phi / pi_ref) of
each token, and the sum of a completion is trained by cross-entropy on its outcome. With K completions of a
prompt the advantage of a token is the sum over later tokens of r_s - mean_{j != i} (mean of r^j), plus the
outcome's reward less the mean outcome of the others; then PPO's clipped surrogate, token mean. The rewards
of a batch are those of phi before it learns from the batch.

prime_compat gives the released code's advantage: the own reward is scaled by K/(K-1) and the means of ALL
completions are taken off, which is leave-one-out only for completions of one token; the sum of both parts is
whitened.

Differs from the paper: an outcome is right at a reward of 0.5 or more; phi is clipped at
learner.max_grad_norm (theirs: 10) and makes as many updates as the policy; a token is weighted by
min(exp(old_logprobs - sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from truing.algorithms._policy import policy_terms, scored_only, with_advantages
from truing.algorithms._process import implicit_rewards, outcome_cross_entropy
from truing.config import ClipHigh, ClipLow, DataKind, EntropyCoef, Mismatch, MismatchCap, Options
from truing.math.advantages import leave_one_out, returns_to_go, whiten
from truing.math.reduce import group_totals, masked, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of PRIME."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    beta: float = Field(
        0.05, gt=0, allow_inf_nan=False, description="process reward of a nat between phi and the reference"
    )
    prime_compat: bool = Field(False, description="the released code's advantage, which is whitened")
    whiten_advantages: bool = Field(
        False, description="mean 0 and variance 1 over the batch's tokens: sums over tokens grow with length"
    )
    accuracy_low: float = Field(
        0.2, ge=0, le=1, description="least share of right completions of a group that is trained",
        json_schema_extra={"read_by": "collect"},
    )  # fmt: skip
    accuracy_high: float = Field(
        0.8, ge=0, le=1, description="largest share; 0 and 1 train every group",
        json_schema_extra={"read_by": "collect"},
    )  # fmt: skip
    max_resamples: int = Field(
        10, gt=0, description="times to draw prompts anew for the groups left out",
        json_schema_extra={"read_by": "collect"},
    )  # fmt: skip
    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    entropy_coef: EntropyCoef = 0.0
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    @model_validator(mode="after")
    def _options_have_use(self) -> Config:
        if self.accuracy_low > self.accuracy_high:
            raise ValueError(f"no group is left: accuracy_low is above {self.accuracy_high}, accuracy_high")
        if (self.accuracy_low, self.accuracy_high) == (0, 1) and self.max_resamples != 10:
            raise ValueError("max_resamples does nothing where every group is trained: leave it out")
        if self.prime_compat and self.whiten_advantages:
            raise ValueError("whiten_advantages does nothing with prime_compat, which whitens: leave it out")
        return self

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy", "process_logprobs", "ref_logprobs"})


def process_advantages(
    token_rewards: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    groups: Int[Tensor, " B"],
    *,
    compat: bool = False,
) -> Float[Tensor, "B C"]:
    """Return, for each token, the sum over itself and later tokens of r_s - mean_{j != i} (mean of r^j).

    Args:
        token_rewards: r, 0 on untrained tokens.
        mask: True on trained tokens; a row without any is no part of its group, a lone row gets 0.
        groups: rows with the same number answer the same prompt.
        compat: the released code's r_s K/(K-1) - sum over all j of (mean of r^j)/(K-1).
    """
    means = masked(token_rewards, mask).sum(-1) / mask.sum(-1).clamp(min=1)
    count = group_totals(mask.any(-1).to(means.dtype), groups)
    others, total = (count - 1).clamp(min=1), group_totals(means, groups)
    if compat:
        steps = (token_rewards * count[:, None] - total[:, None]) / others[:, None]
    else:
        steps = token_rewards - ((total - means) / others)[:, None]
    compared = mask & (count > 1)[:, None]
    return returns_to_go(masked(steps, compared), mask)


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    before = batch.require("old_process_logprobs")
    rewards = implicit_rewards(before, batch.require("ref_logprobs"), batch.mask, beta=config.beta)
    process = process_advantages(rewards, batch.mask, batch.groups, compat=config.prime_compat)
    advantages = process + leave_one_out(batch.require("rewards"), batch.groups)[:, None]
    if config.prime_compat or config.whiten_advantages:
        advantages = whiten(advantages, batch.mask)
    return with_advantages(batch, advantages)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=token_mean,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
        entropy_coef=config.entropy_coef,
    )
    return terms + _process_terms(outputs, batch, config.beta)


def _process_terms(outputs: Outputs, batch: Batch, beta: float) -> list[Term]:
    """Return the cross-entropy of the process reward model on the outcomes, and its metrics."""
    logprobs, trained = outputs.require("process_logprobs"), batch.mask.any(-1)
    rewards = implicit_rewards(logprobs, batch.require("ref_logprobs"), batch.mask, beta=beta)
    is_right = batch.require("rewards") >= 0.5
    losses = outcome_cross_entropy(rewards, is_right.to(rewards.dtype))
    totals = rewards.detach().sum(-1)
    agrees = ((totals > 0) == is_right) & trained
    return [
        Term("loss/process", torch.where(trained, losses, torch.zeros_like(losses)).sum(), "sequence"),
        Term("process/accuracy", agrees.to(totals.dtype).sum(), "sequence", 0.0),
        Term("process/reward_per_sequence", totals.sum(), "sequence", 0.0),
    ]


ALGORITHM = Algorithm(source="arXiv:2502.01456; arXiv:2412.01981", config=Config, loss=_loss, credit=_credit)
