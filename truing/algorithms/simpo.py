"""Simple preference optimization: L = -log sigmoid(beta (m_w - m_l) - gamma), m = S / |y|.

Meng, Xia and Chen 2024, arXiv:2405.14734, eq. 6: the reward is the mean log-prob of a token, which is what
ranks completions when they are sampled, so there is no reference policy and no reward for length. The
chosen completion has to lead by the margin gamma = beta * gamma_over_beta; the authors' configurations,
like this one, give the ratio, which does not move with beta.

TRL takes gamma itself. Its defaults (beta 0.1, gamma 0.5, likelihood weight 1) make the ratio 5 and add a
likelihood term: that is another method, and no translation of these options. With nll_weight = 0.05 this
is CPO-SimPO.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import chosen_nll, mean_logprobs, pair_metrics
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of SimPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (6e-7, 6e-6)

    beta: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="scale of the mean log-prob; 2 to 2.5, up to 10"
    )
    gamma_over_beta: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="lead asked of the chosen side [nats per token]"
    )
    nll_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of the chosen side's likelihood; CPO-SimPO: 0.05"
    )


def simpo_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, gamma: float
) -> Float[Tensor, " N"]:
    """Return -log sigmoid(chosen - rejected - gamma) for each pair.

    Args:
        chosen: reward of the better completion: beta times its mean log-prob.
        rejected: the same of the worse one.
        gamma: lead that is asked of the chosen one, in the unit of the rewards, >= 0.
    """
    return -F.logsigmoid(chosen - rejected - gamma)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (config.beta * side for side in mean_logprobs(outputs, batch))
    losses = simpo_loss(chosen, rejected, gamma=config.beta * config.gamma_over_beta)
    terms = [Term("loss/simpo", losses.sum(), "pair"), *pair_metrics(outputs, batch, chosen, rejected)]
    if config.nll_weight:
        terms.append(chosen_nll(outputs, batch, weight=config.nll_weight, reduction="token_mean"))
    return terms


ALGORITHM = Algorithm(source="arXiv:2405.14734 eq. 6", config=Config, loss=_loss)
