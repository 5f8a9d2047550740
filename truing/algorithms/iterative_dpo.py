"""Iterative DPO: rounds of DPO on the policy's own samples, each against the policy that began the round.

The loop of Pang et al. 2024, arXiv:2404.19733, section 2: sample K completions of each prompt from M_t,
score them, pair them, train M_t+1 with M_t as the reference, L = -log sigmoid(beta d) + nll_weight NLL,
where NLL = -log pi(y_w|x) / |y_w| (eq. 1). One step of the training loop is a round: its batch is what
M_t wrote, and old_logprobs, taken before the first update, are M_t's. So no second model is in memory.
A round of the paper's size is a large batch_size with learner.num_minibatches and num_epochs above 1.

Differs from the paper: nll_weight is 0 by default (theirs is 1, with which it is iterative RPO); the
pair is the best and the worst of a group, where theirs are drawn from the right and the wrong ones;
the optimizer's moments and schedule go on from round to round, where theirs begin anew.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from truing.algorithms._pairs import chosen_nll, pair_metrics, sequence_log_ratios
from truing.algorithms._sampled_pairs import (
    best_and_worst,
    paired,
    penalised_rewards,
    round_log_ratios,
    sampling_metrics,
    scored_groups,
)
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of iterative DPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    anchor: Literal["round", "start"] = Field(
        "round", description="the reference: the policy that began the round, or the one of the whole run"
    )
    nll_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of the chosen side's NLL; 1: iterative RPO"
    )
    tie_margin: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="best and worst this close are a tie [reward units]"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs" if self.anchor == "round" else "ref_logprobs"})


def _credit(batch: Batch, config: Config) -> Batch:
    rewards = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty)
    return paired(batch, best_and_worst(rewards, scored_groups(batch), tie_margin=config.tie_margin), rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    if config.anchor == "round":
        chosen, rejected = round_log_ratios(outputs, batch).chunk(2)
    else:
        chosen, rejected = sequence_log_ratios(outputs, batch)
    terms = [Term("loss/dpo", dpo_loss(chosen, rejected, beta=config.beta).sum(), "pair")]
    if config.nll_weight:
        nll = chosen_nll(outputs, batch, weight=config.nll_weight, reduction="sequence_mean")
        terms.append(nll)
    return [
        *terms,
        *pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected),
        *sampling_metrics(outputs, batch),
    ]


ALGORITHM = Algorithm(source="arXiv:2404.19733 sec. 2, eq. 1", config=Config, loss=_loss, credit=_credit)
