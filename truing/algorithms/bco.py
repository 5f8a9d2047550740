"""Binary Classifier Optimization of pairs: each side is classified as good or bad on its own.

Jung et al. 2024, arXiv:2404.04656: L = -log sigmoid(r_w - shift) - log sigmoid(-(r_l - shift)), with
r = beta log pi/pi_ref of the whole completion. It bounds the DPO loss from above, and the bound is tightest
where shift lies midway between the mean rewards of both sides. `shift` is a moving average of that middle,
updated after each step; it begins at 0, which is exact while the policy is the reference.

Differs from the paper: here every good completion has a bad one of its prompt, and one stage keeps the
shift between its steps in the method's options, where a checkpoint finds it. The decay is ours.

TRL 1.16's pair form (bco_pair) has no shift: that is shift_decay = 1 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of BCO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    reward_shift: float = Field(
        0.0,
        allow_inf_nan=False,
        description="what both rewards are compared with at first; shift_decay below 1 moves it",
        json_schema_extra={"signed": True},
    )
    shift_decay: float = Field(
        0.9,
        ge=0,
        le=1,
        description="weight of the past in the shift: 0 is the last step alone, 1 never moves",
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def bco_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, shift: float
) -> Float[Tensor, " N"]:
    """Return -log sigmoid(r_w - shift) - log sigmoid(-(r_l - shift)) for each pair.

    Args:
        chosen: r_w, beta times the log-ratio to the reference, summed over completion tokens.
        rejected: r_l, the same for the rejected completion.
        shift: the reward at which a completion is as likely good as bad.
    """
    return -F.logsigmoid(chosen - shift) - F.logsigmoid(shift - rejected)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (config.beta * d for d in sequence_log_ratios(outputs, batch))
    losses = bco_loss(chosen, rejected, shift=config.reward_shift)
    shift = torch.full_like(losses.detach(), config.reward_shift)
    return [
        Term("loss/bco", losses.sum(), "pair"),
        Term("rewards/shift", shift.sum(), "pair", 0.0),
        *pair_metrics(outputs, batch, chosen, rejected),
    ]


def _adapt(config: Config, metrics: Mapping[str, float]) -> Config:
    """Return the config whose shift has moved towards the middle of this step's rewards."""
    middle = (metrics["rewards/chosen"] + metrics["rewards/rejected"]) / 2
    shift = config.shift_decay * config.reward_shift + (1 - config.shift_decay) * middle
    return config.model_copy(update={"reward_shift": shift})


ALGORITHM = Algorithm(source="arXiv:2404.04656", config=Config, loss=_loss, adapt=_adapt)
