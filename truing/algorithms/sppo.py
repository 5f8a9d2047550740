"""Self-Play Preference Optimization: L = (log pi/pi_t - eta (P - 1/2))^2 for each completion.

Wu et al. 2024, arXiv:2405.00675, eq. 4.7. pi_t is the policy that began the batch (old_logprobs) and P
the probability that the completion beats a sample of pi_t. One step of the training loop is a round.

Differs from the paper: P comes from the rewards of the group, where theirs comes from a preference model:
the mean over the other completions of the group of sigmoid(r_i - r_j), or of wins with ties as 1/2
(preference = "wins", for verifiable rewards); theirs counts the completion itself among its rivals.
As in the authors' code, the best and the worst of a group are trained and the loss is their mean; TRL's
"sppo_hard" takes P as 1 and 0 and adds the two, which is twice this loss with groups of 2 and wins.
Losses of 1e5 are normal, up to (eta / 2)^2 at the start, so max_grad_norm sets the size of a step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._sampled_pairs import (
    best_and_worst,
    penalised_rewards,
    round_log_ratios,
    sampling_metrics,
    scored_groups,
    selected,
    win_probabilities,
)
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of SPPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2

    eta: float = Field(
        1e3, gt=0, allow_inf_nan=False, description="step size: a sure winner is asked for +eta/2 nats"
    )
    preference: Literal["bradley_terry", "wins"] = Field(
        "bradley_terry", description="P of one reward over another: sigmoid of the difference, or 1, 1/2, 0"
    )
    completions: Literal["extremes", "all"] = Field(
        "extremes", description="which are trained: the best and the worst of a group, or all of it"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"})


def sppo_loss(
    log_ratios: Float[Tensor, " B"], win_probability: Float[Tensor, " B"], *, eta: float
) -> Float[Tensor, " B"]:
    """Return (Delta - eta (P - 1/2))^2 for each completion.

    Args:
        log_ratios: Delta = log pi(y|x) - log pi_t(y|x), summed over completion tokens [nats].
        win_probability: P, that it beats a sample of pi_t, in [0, 1].
        eta: the step size, > 0 [nats].
    """
    return (log_ratios - eta * (win_probability - 0.5)).square()


def _credit(batch: Batch, config: Config) -> Batch:
    rewards = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty)
    groups, everyone = scored_groups(batch), torch.ones_like(batch.lengths, dtype=torch.bool)
    wins = win_probabilities(rewards, groups, everyone, preference=config.preference)
    best, worst = best_and_worst(rewards, groups)  # of the groups that are no tie
    rows = [*best, *worst]
    if config.completions == "all":
        rows = [row for group in groups if set(best) & set(group) for row in group]
    return selected(replace(batch, labels=wins.nan_to_num(nan=0.5)), sorted(rows))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    log_ratios, wins = round_log_ratios(outputs, batch), batch.require("labels")
    losses = sppo_loss(log_ratios, wins, eta=config.eta)
    moved = log_ratios.detach()
    agrees = ((moved > 0) == (wins > 0.5)).to(moved.dtype)
    return [
        Term("loss/sppo", losses.sum(), "sequence"),
        Term("policy/log_ratio_gap", moved.abs().sum(), "sequence", 0.0),
        Term("rewards/direction_accuracy", agrees.sum(), "sequence", 0.0),
        *sampling_metrics(outputs, batch),
    ]


ALGORITHM = Algorithm(source="arXiv:2405.00675 eq. 4.7", config=Config, loss=_loss, credit=_credit)
