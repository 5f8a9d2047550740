"""Kahneman-Tversky optimization: a utility of single completions, each judged good or bad on its own.

Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7-8. With r = log pi/pi_ref of a completion, summed over its
tokens, and the reference point z0:
    good:  L = w_D (1 - sigmoid(beta (r - z0)))
    bad:   L = w_U (1 - sigmoid(beta (z0 - r)))
and the mean is over all rows. z0 = max(0, KL(pi, pi_ref)) is estimated by r of mismatched rows: a prompt
with the completion of another row. It is one number for the whole batch, without gradient, and
`truing.train.reference_point` computes it before the batch is split.

Differs from the paper: a label between 0 and 1 weighs both lines. kl_estimate = "none" sets z0 = 0, which is
the unpaired form of APO-zero (arXiv:2408.06266). TRL rotates completions inside the chunk that one device
gets, where a last chunk of one row is matched with itself; here no row is.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from truing.config import DataKind, Options
from truing.math.ratios import log_ratio
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of KTO."""

    data: ClassVar[DataKind] = "unpaired"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    desirable_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of good rows; aim at (this * good) / "
        "(undesirable_weight * bad) between 1 and 4/3",
    )  # fmt: skip
    undesirable_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of bad rows")
    kl_estimate: Literal["mismatched", "none"] = Field(
        "mismatched", description="the reference point: from mismatched rows, or 0 (APO-zero, unpaired)"
    )

    @model_validator(mode="after")
    def _a_class_counts(self) -> Config:
        if self.desirable_weight == 0 and self.undesirable_weight == 0:
            raise ValueError("desirable_weight and undesirable_weight are both 0: there is nothing to learn")
        return self

    def needs(self) -> frozenset[str]:
        point = {"reference_point"} if self.kl_estimate == "mismatched" else set()
        return frozenset({"logprobs", "ref_logprobs", "labels", *point})


def kto_loss(
    log_ratios: Float[Tensor, " B"],
    labels: Float[Tensor, " B"],
    reference_point: Float[Tensor, " B"],
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " B"]:
    """Return p w_D (1 - sigmoid(beta (r - z0))) + (1 - p) w_U (1 - sigmoid(beta (z0 - r))) for each row.

    Args:
        log_ratios: r, log pi(y|x) - log pi_ref(y|x) summed over trained tokens [nats].
        labels: p, how probably the completion is good, in [0, 1].
        reference_point: z0 >= 0, without gradient [nats].
        beta: > 0.
        desirable_weight: w_D, >= 0.
        undesirable_weight: w_U, >= 0.
    """
    lead = beta * (log_ratios - reference_point)
    good, bad = torch.sigmoid(-lead), torch.sigmoid(lead)
    return labels * desirable_weight * good + (1 - labels) * undesirable_weight * bad


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    ratios = log_ratio(outputs.require("logprobs"), batch.require("ref_logprobs"), batch.mask).sum(-1)
    labels = batch.require("labels").to(ratios.dtype)
    raw = torch.zeros_like(ratios)
    if config.kl_estimate == "mismatched":
        raw = batch.require("reference_point").to(ratios.dtype)
    losses = kto_loss(
        ratios, labels, raw.clamp(min=0), beta=config.beta,
        desirable_weight=config.desirable_weight, undesirable_weight=config.undesirable_weight,
    )  # fmt: skip
    terms = [Term("loss/kto", losses.sum(), "sequence"), *_metrics(config.beta * ratios.detach(), labels)]
    if config.kl_estimate == "mismatched":
        terms.append(Term("kl/reference_point", raw.sum(), "sequence", 0.0))
    return terms


def _metrics(rewards: Float[Tensor, " B"], labels: Float[Tensor, " B"]) -> list[Term]:
    return [
        Term("rewards/desirable", (labels * rewards).sum(), "desirable", 0.0),
        Term("rewards/undesirable", ((1 - labels) * rewards).sum(), "undesirable", 0.0),
        Term("rewards/desirable_share", labels.sum(), "sequence", 0.0),
    ]


ALGORITHM = Algorithm(source="arXiv:2402.01306 eq. 7-8", config=Config, loss=_loss)
