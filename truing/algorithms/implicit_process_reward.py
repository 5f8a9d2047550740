"""Implicit process reward model: a language model whose log-ratio to its start rewards each token.

Yuan et al. 2024, arXiv:2412.01981, eq. 5: with r_t = beta log pi/pi_ref of token t, the SUM of r_t over a
completion is the logit of its outcome: L = -c log sigmoid(sum r_t) - (1 - c) log sigmoid(-sum r_t). Only
outcomes are labelled, and the parts of the sum are rewards of the steps. What is trained is a policy
network: it is saved as one, and its log-ratio to the start model scores.

A long completion at a large beta saturates the sigmoid, and then teaches nothing. The reference is the model
that it started from, not a moving policy. The online form, beside a policy, is `prime`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field

from truing.algorithms._outcomes import classification_metrics
from truing.algorithms._process import implicit_rewards, outcome_cross_entropy
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term

SATURATED = math.log(19)  # beyond it the probability of the outcome is above 0.95 or below 0.05


class Config(Options):
    """Options of the implicit process reward model."""

    data: ClassVar[DataKind] = "unpaired"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-5)

    beta: float = Field(
        0.05,
        gt=0,
        allow_inf_nan=False,
        description="reward of a nat of log-ratio, before the sum over tokens",
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    logprobs, labels = outputs.require("logprobs"), batch.require("labels")
    rewards = implicit_rewards(logprobs, batch.require("ref_logprobs"), batch.mask, beta=config.beta)
    logits, each = rewards.sum(-1), torch.ones_like(batch.lengths, dtype=torch.bool)
    saturated = (logits.detach().abs() > SATURATED).to(logits.dtype)
    return [
        Term("loss/implicit_process", outcome_cross_entropy(rewards, labels).sum(), "sequence"),
        *classification_metrics(logits, labels, each, "sequence"),
        Term("rewards/saturated_share", saturated.sum(), "sequence", 0.0),
    ]


ALGORITHM = Algorithm(source="arXiv:2412.01981 eq. 5", config=Config, loss=_loss)
