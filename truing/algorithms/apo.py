"""Anchored Preference Optimization: says of each side whether it should get likelier, or less likely.

D'Oosterlinck et al. 2024, arXiv:2408.06266, with r = beta log pi/pi_ref of the whole completion:
    zero (eq. 7)  L = 1 - sigmoid(r_w) + sigmoid(r_l)         chosen up, rejected down
    down (eq. 8)  L = sigmoid(r_w) + 1 - sigmoid(r_w - r_l)   both down, the rejected side faster
zero is for data whose chosen completions are better than what the model writes, down for data whose chosen
completions are worse. The constants, which the paper leaves out, keep the loss above 0 as in TRL.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of APO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    variant: Literal["zero", "down"] = Field(
        "zero",
        description="zero: the chosen side is better than the model; down: the model is better than both",
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def apo_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], *, variant: str
) -> Float[Tensor, " N"]:
    """Return 1 - s(r_w) + s(r_l) ("zero") or s(r_w) + 1 - s(r_w - r_l) ("down"), s the logistic function.

    Args:
        chosen: r_w, beta times the log-ratio to the reference, summed over completion tokens.
        rejected: r_l, the same for the rejected completion.
        variant: "zero" or "down".
    """
    if variant == "zero":
        return (-chosen).sigmoid() + rejected.sigmoid()
    return chosen.sigmoid() + (rejected - chosen).sigmoid()


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (config.beta * d for d in sequence_log_ratios(outputs, batch))
    losses = apo_loss(chosen, rejected, variant=config.variant)
    return [Term("loss/apo", losses.sum(), "pair"), *pair_metrics(outputs, batch, chosen, rejected)]


ALGORITHM = Algorithm(source="arXiv:2408.06266 eq. 7-8", config=Config, loss=_loss)
