"""Length-desensitised DPO: tokens past the length of the shorter completion weigh less.

Liu et al. 2024, arXiv:2409.06411: with n = min(|y_w|, |y_l|), the log-ratio of a completion is the sum over
its first n tokens plus alpha times the sum over the rest; the loss is DPO's. alpha = 1 is DPO, alpha = 0
never looks at the tail. A margin then owes less to one side being longer.

Libraries disagree: TRL 1.16 weighs policy and reference alike, as here; LLaMA-Factory only the policy, so
that its log-ratio is not 0 at the start. n counts trained tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.math.ratios import log_ratio
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of LD-DPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of the tokens past the shorter side's length; 1 is plain DPO"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def tail_weights(mask: Bool[Tensor, "B C"], *, alpha: float) -> Float[Tensor, "B C"]:
    """Return 1 on each row's trained tokens up to its pair's shorter side, and alpha past that.

    Args:
        mask: True on trained tokens; chosen rows, then the rejected rows of the same pairs.
        alpha: in [0, 1].
    """
    chosen, rejected = mask.sum(-1).chunk(2)
    shorter = torch.minimum(chosen, rejected).repeat(2)[:, None]
    return torch.where(mask.cumsum(-1) <= shorter, 1.0, alpha)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    log_ratios = log_ratio(outputs.require("logprobs"), batch.require("ref_logprobs"), batch.mask)
    weights = tail_weights(batch.mask, alpha=config.alpha).to(log_ratios.dtype)
    chosen, rejected = (weights * log_ratios).sum(-1).chunk(2)
    losses = dpo_loss(chosen, rejected, beta=config.beta)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/ld_dpo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2409.06411", config=Config, loss=_loss)
