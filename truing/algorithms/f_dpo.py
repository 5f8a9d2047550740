"""f-DPO: DPO under another divergence than the reverse KL.

Wang et al. 2023 (Beyond Reverse KL), arXiv:2309.16240, table 1:
L = -log sigmoid(beta f'(u_w) - beta f'(u_l)), where u = pi/pi_ref of the whole completion. With
D = log u, f' without its constant is
    js          log 2 + log sigmoid(D)
    forward_kl  1 - exp(-D)
    alpha       (1 - exp(-alpha D)) / alpha, for alpha in (0, 1)
and the reverse KL, D itself, is dpo. alpha runs from the reverse KL (0) to the forward KL (1).

f' of the Jensen-Shannon divergence is bounded above, so a chosen completion that is already much likelier
than under the reference is left alone; the forward KL is bounded above and steep below.

TRL 1.16 writes (u^(a-1) - 1) / (a - 1), that is a = 1 - alpha; its path fails in float64 and clamps the
exponent. Here exp continues along its tangent past 20 nats: finite, with a gradient.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.math.ratios import token_ratio
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of f-DPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    divergence: Literal["js", "forward_kl", "alpha"] = Field(
        "js", description="how distance to the reference is measured; the reverse KL is the method dpo"
    )
    alpha: float = Field(
        0.5, gt=0, lt=1, description="of the alpha divergence: near 0 reverse KL, near 1 forward KL"
    )

    @model_validator(mode="after")
    def _alpha_has_use(self) -> Config:
        if self.divergence != "alpha" and self.alpha != 0.5:
            raise ValueError('alpha does nothing without divergence = "alpha": set it, or leave alpha out')
        return self

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def f_prime(log_ratio: Float[Tensor, " N"], *, divergence: str, alpha: float = 0.5) -> Float[Tensor, " N"]:
    """Return f'(u) up to a constant, the reward over beta that a divergence gives a completion.

    Args:
        log_ratio: D = log u = log pi(y|x) - log pi_ref(y|x), summed over completion tokens [nats].
        divergence: "js", "forward_kl" or "alpha".
        alpha: in (0, 1); of "alpha" only.
    """
    if divergence == "js":
        return math.log(2) + F.logsigmoid(log_ratio)
    if divergence == "forward_kl":
        return 1 - token_ratio(-log_ratio)
    return (1 - token_ratio(-alpha * log_ratio)) / alpha


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (
        f_prime(d, divergence=config.divergence, alpha=config.alpha)
        for d in sequence_log_ratios(outputs, batch)
    )
    losses = dpo_loss(chosen, rejected, beta=config.beta)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/f_dpo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2309.16240 table 1", config=Config, loss=_loss)
