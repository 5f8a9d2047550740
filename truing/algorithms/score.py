"""Self-correction by reinforcement learning: two attempts, and a reward for making the second one better.

Kumar et al. 2024 (SCoRe), arXiv:2409.12917, eq. 3-4. Stage 1 maximises r(y2) - first_kl_coef KL of the first
attempt from the reference: the second attempt improves while the first stays where it is. Stage 2 maximises
r(y1) + r(y2) + alpha (r(y2) - r(y1)). In both, kl_coef times the KL of both attempts is taken off.

Each attempt's tokens have the advantage of its own reward, less the mean of that attempt's rewards over the
other conversations of the prompt; nothing flows from the second attempt back to the first. In stage 1 the
first attempt has no reward at all.

Differs from the paper: the KL is a term of the loss with the reverse-KL gradient (k3_ratio), where theirs is
part of the reward; several updates of a batch are clipped as PPO does; a token is weighted by
min(exp(old_logprobs - sampler_logprobs), mismatch_cap) where the sampler reports log-probs (Yao et al. 2025).
A conversation that ended after the first attempt trains that attempt only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from truing.algorithms._policy import (
    policy_terms,
    reference_kl_term,
    scored_only,
    token_log_ratios,
    with_advantages,
)
from truing.config import ClipHigh, ClipLow, DataKind, Mismatch, MismatchCap, Options
from truing.math.advantages import leave_one_out
from truing.math.kl import kl_loss
from truing.math.ratios import log_ratio, token_ratio
from truing.math.reduce import seq_mean_token_sum
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of SCoRe."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-6, 5e-5)
    min_group_size: ClassVar[int] = 2
    only_with: ClassVar[dict[str, str]] = {"mismatch": "mismatch_cap"}

    stage: Literal[1, 2] = Field(1, description="1: hold the first attempt; 2: reward the improvement")
    alpha: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="stage 2: weight of r(y2) - r(y1) in the second reward"
    )
    first_kl_coef: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="stage 1: weight of the KL of the first attempt"
    )
    kl_coef: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="weight of the KL of both attempts; 0: none"
    )
    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    mismatch: Mismatch = "token_truncate"
    mismatch_cap: MismatchCap = 2.0

    @model_validator(mode="after")
    def _options_belong_to_the_stage(self) -> Config:
        if self.stage == 1 and self.alpha != 10.0:
            raise ValueError("alpha does nothing in stage 1: set stage = 2, or leave it out")
        if self.stage == 2 and self.first_kl_coef != 0.1:
            raise ValueError("first_kl_coef does nothing in stage 2: set stage = 1, or leave it out")
        return self

    def needs(self) -> frozenset[str]:
        anchored = self.kl_coef or (self.stage == 1 and self.first_kl_coef)
        return frozenset({"logprobs", "entropy", "turn_rewards"} | ({"ref_logprobs"} if anchored else set()))


def reward_of_turn(
    turns: Int[Tensor, "B C"], turn_rewards: Float[Tensor, "B C"], number: int
) -> Float[Tensor, " B"]:
    """Return the reward of each row's turn `number`, from 0; NaN where it has no such turn, or no reward."""
    found = (turns == number) & ~turn_rewards.isnan()
    total = torch.where(found, turn_rewards, torch.zeros_like(turn_rewards)).sum(-1)
    return torch.where(found.any(-1), total, torch.full_like(total, torch.nan))


def shaped_rewards(
    first: Float[Tensor, " B"], second: Float[Tensor, " B"], *, stage: int, alpha: float
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return what each attempt is paid: (0, r2) in stage 1, (r1, r2 + alpha (r2 - r1)) in stage 2.

    Args:
        first: r1, rewards of the first attempts.
        second: r2, of the second ones; NaN where there is none.
        stage: 1 or 2.
        alpha: weight of the improvement, >= 0.
    """
    if stage == 1:
        return torch.zeros_like(first), second
    return first, second + alpha * (second - first)


def _credit(batch: Batch, config: Config) -> Batch:
    batch = scored_only(batch)
    first, second = _rewards(batch)
    paid = shaped_rewards(first, second, stage=config.stage, alpha=config.alpha)
    advantages = torch.zeros_like(batch.require("turn_rewards"))
    for number, rewards in enumerate(paid):
        own = leave_one_out(rewards, batch.groups)[:, None]
        advantages = torch.where(batch.require("turns") == number, own, advantages)
    return with_advantages(batch, advantages)


def _rewards(batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    turns, rewards = batch.require("turns"), batch.require("turn_rewards")
    return reward_of_turn(turns, rewards, 0), reward_of_turn(turns, rewards, 1)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    terms = policy_terms(
        outputs,
        batch,
        reduction=seq_mean_token_sum,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        mismatch=config.mismatch,
        mismatch_cap=config.mismatch_cap or None,
    )
    # a conversation of one turn has no advantage in stage 1, however alive its group is
    terms = [t for t in terms if t.name != "policy/dead_group_share"]
    if "ref_logprobs" in config.needs():
        terms += _kl_terms(outputs, batch, config)
    return terms + _attempt_metrics(*_rewards(batch))


def _kl_terms(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    """Return the KL of both attempts and, in stage 1, that of the first, summed over their tokens."""
    from_reference = log_ratio(outputs.require("logprobs"), batch.require("ref_logprobs"), batch.mask)
    ratio = token_ratio(token_log_ratios(outputs, batch))
    losses = kl_loss(from_reference, estimator="k3_ratio", ratio=ratio)
    terms = [reference_kl_term(outputs, batch)]
    if config.kl_coef:
        terms.append(Term("loss/kl", *seq_mean_token_sum(losses, batch.mask), config.kl_coef))
    if config.stage == 1 and config.first_kl_coef:
        first = batch.mask & (batch.require("turns") == 0)
        terms.append(Term("loss/first_turn_kl", *seq_mean_token_sum(losses, first), config.first_kl_coef))
    return terms


def _attempt_metrics(first: Float[Tensor, " B"], second: Float[Tensor, " B"]) -> list[Term]:
    """Return how often each attempt is right (a reward of 0.5 or more), and what the second changes."""
    before, after = first >= 0.5, second >= 0.5  # a missing attempt is not right
    found = {
        "turns/accuracy_first": before,
        "turns/accuracy_second": after,
        "turns/incorrect_to_correct": ~before & after,
        "turns/correct_to_incorrect": before & ~after,
    }
    shares = {name: x.to(first.dtype).sum() for name, x in found.items()}
    shares["turns/accuracy_gain"] = shares["turns/accuracy_second"] - shares["turns/accuracy_first"]
    return [Term(name, total, "sequence", 0.0) for name, total in shares.items()]


ALGORITHM = Algorithm(source="arXiv:2409.12917 eq. 3-4", config=Config, loss=_loss, credit=_credit)
