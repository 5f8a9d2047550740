"""Exploratory preference optimization: online DPO against samples of the reference, plus optimism.

Xie et al. 2024 (XPO), arXiv:2405.21046, Algorithm 1: one completion is the policy's, the other the
reference's; L = -log sigmoid(beta d) + alpha log pi(y_ref|x), where y_ref is the reference's completion,
whichever side it is on. The second term takes probability off what the reference writes, and so sends
the policy where it has no data. Half of each group is drawn from the reference, and the i-th completion
of the policy meets the i-th of the reference.

Differs from the paper: each batch is used as it comes, where theirs keeps all pairs so far. A tied pair
is left out, with its optimism; with alpha above about 1e-3 the second term, which has no lower bound, wins.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.algorithms._sampled_pairs import (
    own_and_opponent,
    paired,
    penalised_rewards,
    sampling_metrics,
    scored_groups,
)
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.math.reduce import masked
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of XPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2
    opponent: ClassVar[Literal["none", "reference", "mixture"]] = "reference"

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    xpo_alpha: float = Field(
        1e-5, ge=0, allow_inf_nan=False, description="weight of the optimism; 0 is online DPO against it"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def optimism(
    logprobs: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"], by_opponent: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return log pi(y|x), summed over trained tokens, of the opponent's rows, and 0 for the others [nats]."""
    return masked(logprobs, mask & by_opponent[:, None]).sum(-1)


def _credit(batch: Batch, config: Config) -> Batch:
    rewards = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty)
    places = own_and_opponent(rewards, scored_groups(batch), batch.require("by_opponent"))
    return paired(batch, places, rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    by_opponent = batch.require("by_opponent")
    wins = (~by_opponent).to(chosen.dtype).chunk(2)[0]
    theirs = optimism(outputs.require("logprobs"), batch.mask, by_opponent)
    return [
        Term("loss/dpo", dpo_loss(chosen, rejected, beta=config.beta).sum(), "pair"),
        Term("loss/optimism", theirs.sum() if config.xpo_alpha else theirs.detach().sum(), "pair",
             config.xpo_alpha),
        Term("rewards/opponent_beaten_share", wins.sum(), "pair", 0.0),
        *pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected),
        *sampling_metrics(outputs, batch),
    ]  # fmt: skip


ALGORITHM = Algorithm(source="arXiv:2405.21046 alg. 1", config=Config, loss=_loss, credit=_credit)
