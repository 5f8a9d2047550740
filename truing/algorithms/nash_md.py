"""Nash-MD: policy gradient of the probability to beat a mixture of policy and reference.

Munos et al. 2023, arXiv:2312.00886, as the policy gradient Nash-MD-PG: the opponent is the geometric mixture
pi^(1-c) pi_ref^c, normalised token by token; the gradient is that of sum_t log pi(y_t) times
beta log(pi/pi_ref)(y_t) - (P - 1/2), where P is the probability that y beats the mixture. The value of
the loss means nothing, only its gradient does. Half of each group is drawn from the mixture; it is
compared with and never trained.

Differs from the paper: P comes from rewards, as the mean over the mixture's completions of the prompt of
sigmoid(r - r'), or of wins with ties as 1/2 (preference = "wins"); theirs comes from a preference model.
There is no ratio in the loss: it is the gradient of the policy that began the batch, so use one update
of each batch (learner.num_minibatches = 1, num_epochs = 1) or few small ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._sampled_pairs import (
    penalised_rewards,
    sampling_metrics,
    scored_groups,
    selected,
    win_probabilities,
)
from truing.config import DataKind, Options
from truing.math.ratios import log_ratio
from truing.math.reduce import masked, seq_mean_token_sum
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of Nash-MD."""

    data: ClassVar[DataKind] = "prompts"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)
    min_group_size: ClassVar[int] = 2
    opponent: ClassVar[Literal["none", "reference", "mixture"]] = "mixture"

    beta: float = Field(0.1, ge=0, allow_inf_nan=False, description="strength of the KL to the reference")
    mixture: float = Field(
        0.5,
        ge=0,
        le=1,
        description="c: share of the reference in the opponent; 0 is the policy itself",
        json_schema_extra={"read_by": "collect"},
    )
    preference: Literal["bradley_terry", "wins"] = Field(
        "bradley_terry", description="P of one reward over another: sigmoid of the difference, or 1, 1/2, 0"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="taken off the reward of a truncated completion"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def nash_md_loss(
    logprobs: Float[Tensor, "B C"],
    ref_logprobs: Float[Tensor, "B C"],
    mask: Bool[Tensor, "B C"],
    win_probability: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, "B C"]:
    """Return log pi(y_t) (beta log(pi/pi_ref)(y_t) - (P - 1/2)) at each token; the bracket has no gradient.

    Args:
        logprobs: log pi, with gradient [nats].
        ref_logprobs: log pi_ref [nats].
        mask: True on trained tokens; 0 is returned elsewhere.
        win_probability: P, that the completion beats the mixture, in [0, 1].
        beta: strength of the KL, >= 0.
    """
    penalty = beta * log_ratio(logprobs.detach(), ref_logprobs, mask)
    return masked(logprobs, mask) * (penalty - (win_probability[:, None] - 0.5))


def _credit(batch: Batch, config: Config) -> Batch:
    rewards = penalised_rewards(batch, missing_eos_penalty=config.missing_eos_penalty)
    theirs = batch.require("by_opponent")
    wins = win_probabilities(rewards, scored_groups(batch), theirs, preference=config.preference)
    rows = (~theirs & ~wins.isnan()).nonzero().flatten().tolist()
    return selected(replace(batch, labels=wins.nan_to_num(nan=0.5)), rows)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    logprobs, reference = outputs.require("logprobs"), batch.require("ref_logprobs")
    wins = batch.require("labels")
    losses = nash_md_loss(logprobs, reference, batch.mask, wins, beta=config.beta)
    return [
        Term("loss/nash_md", *seq_mean_token_sum(losses, batch.mask)),
        Term("rewards/win_probability", wins.sum(), "sequence", 0.0),
        Term("policy/ref_kl_per_sequence", log_ratio(logprobs.detach(), reference, batch.mask).sum(),
             "sequence", 0.0),
        *sampling_metrics(outputs, batch),
    ]  # fmt: skip


ALGORITHM = Algorithm(source="arXiv:2312.00886 Nash-MD-PG", config=Config, loss=_loss, credit=_credit)
