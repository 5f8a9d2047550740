"""Length-normalised DPO: L = -log sigmoid(beta (D_w/|y_w| - D_l/|y_l|)) for each pair.

D = log pi/pi_ref of a completion and |y| its number of trained tokens. Ahrabian et al. 2024,
arXiv:2407.15229; the variant that Lambert et al. 2024 (Tulu 3), arXiv:2411.15124, section 5, train with,
whose beta = 5 is the default. A mean per token is some hundred times smaller than a sum, so DPO's usual
beta of 0.1 leaves the loss at ln 2.

TRL 1.16 (sigmoid_norm) optimises the same and logs rewards of summed log-ratios; here rewards/* are the
means that the loss sees, times beta.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from truing.algorithms._pairs import mean_log_ratios, pair_metrics
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of length-normalised DPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="scale of the mean log-ratio per token; 2 to 10 is usual"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = mean_log_ratios(outputs, batch)
    losses = dpo_loss(chosen, rejected, beta=config.beta)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/ln_dpo", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2407.15229; arXiv:2411.15124 section 5", config=Config, loss=_loss)
