"""REBEL: regress the difference of two samples' rewards on their log-ratios, L = (d - eta (r_w - r_l))^2.

Gao et al. 2024, arXiv:2404.16767, Algorithm 1: two completions of the policy that began the batch, whose
log-probs (old_logprobs) are the reference; d is the difference of their summed log-ratios. One step of
the training loop is an iteration, with learner.num_epochs as the inner epochs (4 in the authors' code).

The paper writes (d / eta - (r_w - r_l))^2 and the authors' code the form above, which is eta^2 times it;
at eta = 1 they are one. form = "paper" gives the paper's at any eta: move the learning rate along.

Differs from the paper: a group of more than two gives a pair for every two of its completions; a
completion left over is not trained. The authors' code also subtracts 0.05 KL in the reward: set kl_coef.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from truing.algorithms._pairs import pair_metrics
from truing.algorithms._sampled_pairs import (
    neighbours,
    paired,
    penalised_rewards,
    round_log_ratios,
    sampling_metrics,
    scored_groups,
)
from truing.config import DataKind, Options
from truing.math.advantages import group_std
from truing.math.ratios import log_ratio
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of REBEL."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2

    eta: float = Field(1.0, gt=0, allow_inf_nan=False, description="step size [nats per unit of reward]")
    form: Literal["code", "paper"] = Field(
        "code", description="(d - eta dr)^2, or (d/eta - dr)^2, which is smaller by eta^2"
    )
    scale_rewards: bool = Field(False, description="divide differences by the std of the batch's rewards")
    kl_coef: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="KL to the reference taken off the reward [1/nat]"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )

    @model_validator(mode="after")
    def _form_has_use(self) -> Config:
        if self.eta == 1 and self.form == "paper":
            raise ValueError("form does nothing while eta is 1: set eta, or leave it out")
        return self

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"} | ({"ref_logprobs"} if self.kl_coef else set()))


def rebel_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], margin: Float[Tensor, " N"], *, eta: float
) -> Float[Tensor, " N"]:
    """Return (chosen - rejected - eta margin)^2 for each pair.

    Args:
        chosen: log pi(y|x) - log pi_old(y|x), summed over completion tokens [nats].
        rejected: the same for the other completion [nats].
        margin: reward of the one minus reward of the other [reward units].
        eta: step size, > 0 [nats per reward unit].
    """
    return (chosen - rejected - eta * margin).square()


def _rewards(batch: Batch, config: Config) -> Float[Tensor, " B"]:
    """Return what is regressed: rewards less penalties, in units of their deviation where asked."""
    rewards = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty)
    if config.kl_coef:
        moved = log_ratio(batch.require("old_logprobs"), batch.require("ref_logprobs"), batch.mask).sum(-1)
        rewards = rewards - config.kl_coef * moved
    if config.scale_rewards:
        rewards = rewards / (group_std(rewards, torch.zeros_like(batch.groups)) + 1e-6)
    return rewards


def _credit(batch: Batch, config: Config) -> Batch:
    rewards = _rewards(batch, config)
    return paired(batch, neighbours(rewards, scored_groups(batch)), rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = round_log_ratios(outputs, batch).chunk(2)
    losses = rebel_loss(chosen, rejected, batch.require("margins").chunk(2)[0], eta=config.eta)
    return [
        Term("loss/rebel", losses.sum(), "pair", 1.0 if config.form == "code" else config.eta**-2),
        *pair_metrics(outputs, batch, chosen / config.eta, rejected / config.eta),
        *sampling_metrics(outputs, batch),
    ]


ALGORITHM = Algorithm(source="arXiv:2404.16767 alg. 1", config=Config, loss=_loss, credit=_credit)
