"""Online DPO: DPO on the best and the worst of fresh samples, L = -log sigmoid(beta d) for each pair.

Guo et al. 2024 (OAIF), arXiv:2402.04792, Algorithm 1 with DPO's loss: two completions of the current policy
are compared by a scorer or a judge, and the pair is used once. d = log pi/pi_ref of the chosen
completion minus that of the rejected one, against the fixed reference policy. loss = "ipo" is its
second loss, (d - 1/(2 beta))^2 with summed log-ratios (Azar et al. 2023, arXiv:2310.12036, eq. 17).

Differs from the paper: where a group has more than two completions, its best meets its worst. A tie
gives no pair; ties = "first" takes the first completion as the chosen one, which is what TRL does.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.algorithms._sampled_pairs import (
    best_and_worst,
    paired,
    penalised_rewards,
    sampling_metrics,
    scored_groups,
)
from truing.algorithms.dpo import dpo_loss
from truing.algorithms.ipo import ipo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of online DPO."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2

    beta: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference; tau of loss ipo"
    )
    loss: Literal["sigmoid", "ipo"] = Field("sigmoid", description="of a pair: DPO's, or IPO's squared error")
    ties: Literal["drop", "first"] = Field(
        "drop", description="a tied group gives no pair, or its first completion wins over its last"
    )
    tie_margin: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="best and worst this close are a tie [reward units]"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def _credit(batch: Batch, config: Config) -> Batch:
    rewards = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty)
    first_wins = config.ties == "first"
    places = best_and_worst(
        rewards, scored_groups(batch), tie_margin=config.tie_margin, first_wins=first_wins
    )
    return paired(batch, places, rewards)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    if config.loss == "ipo":
        losses = ipo_loss(chosen, rejected, tau=config.beta)
    else:
        losses = dpo_loss(chosen, rejected, beta=config.beta)
    return [
        Term(f"loss/{'dpo' if config.loss == 'sigmoid' else 'ipo'}", losses.sum(), "pair"),
        *pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected),
        *sampling_metrics(outputs, batch),
    ]


ALGORITHM = Algorithm(source="arXiv:2402.04792 alg. 1", config=Config, loss=_loss, credit=_credit)
