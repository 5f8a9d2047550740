"""Best-of-n fine-tuning: maximum likelihood of the best of n samples, L = -log pi(y_best|x).

Dong et al. 2023 (RAFT), arXiv:2304.06767, Algorithm 1 with local ranking: sample n completions of each
prompt, keep the one of highest reward, fine-tune on it. n is sampler.group_size. With min_reward it is
also what is called rejection sampling fine-tuning: only completions that earn as much are kept.

Without min_reward a group of ties keeps its first completion: its gradient is 0 on average and noise
otherwise, so set min_reward where the reward is 0 or 1. The best of n has KL log n - (n-1)/n at most to
the policy that was sampled (Beirami et al. 2024, arXiv:2401.01879).

Differs from the paper: one step of the training loop is a round, and the optimizer goes on from one to
the next.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from truing.algorithms._sampled_pairs import penalised_rewards, sampling_metrics, scored_groups, selected
from truing.config import DataKind, Options
from truing.math import reduce
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of best-of-n fine-tuning."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (2e-6, 2e-5)
    min_group_size: ClassVar[int] = 2

    keep: int = Field(1, ge=1, description="how many of a group are kept, the best first")
    min_reward: float | None = Field(
        None, allow_inf_nan=False, description="completions that earn less are never kept; None: any may be"
    )
    reduction: Literal["token_mean", "seq_mean_token_mean"] = Field(
        "token_mean", description="every token weighs the same, or every completion does"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )


def best_of(values: list[float], group: list[int], *, keep: int, min_reward: float | None) -> list[int]:
    """Return the `keep` rows of the group with the highest value, those of equal value in order.

    Args:
        values: the reward of every row of the batch.
        group: row numbers, scored rows only.
        keep: at most this many, >= 1.
        min_reward: rows below it are left out; None for none.
    """
    ranked = sorted(group, key=lambda row: -values[row])[:keep]
    return [row for row in ranked if min_reward is None or values[row] >= min_reward]


def _credit(batch: Batch, config: Config) -> Batch:
    values = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty).tolist()
    kept = [best_of(values, g, keep=config.keep, min_reward=config.min_reward) for g in scored_groups(batch)]
    return selected(batch, sorted(row for group in kept for row in group))


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    nll = -outputs.require("logprobs")
    reduction = reduce.token_mean if config.reduction == "token_mean" else reduce.seq_mean_token_mean
    return [
        Term("loss/nll", *reduction(nll, batch.mask)),
        Term("reward/kept_mean", batch.require("rewards").nan_to_num(nan=0.0).sum(), "sequence", 0.0),
        *sampling_metrics(outputs, batch),
    ]


ALGORITHM = Algorithm(source="arXiv:2304.06767 alg. 1", config=Config, loss=_loss, credit=_credit)
