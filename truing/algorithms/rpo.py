"""DPO with a likelihood term: L = -log sigmoid(beta d) + nll_weight * NLL(chosen).

Pang et al. 2024 (Iterative Reasoning Preference Optimization), arXiv:2404.19733, eq. 1: d is DPO's, and
the NLL is -log pi(y_w|x) / |y_w|, averaged over pairs. It keeps the chosen completion likely, which DPO
alone does not: its margin may grow while both sides fall.

Differs from the paper: one round. The paper's iterations are recipes of several stages, each with new
pairs and the stage before as reference. Liu et al. 2024 (RPO), arXiv:2405.16436, use the same sum with
other constants: nll_weight = 0.005 and beta = 0.01.

TRL 1.16 (loss types sigmoid and sft) averages the NLL over the chosen tokens of the batch, which is
nll_reduction = "token_mean" here: long completions then weigh more.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from truing.algorithms._pairs import chosen_nll, pair_metrics, sequence_log_ratios
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of DPO with a likelihood term."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    nll_weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="weight of the chosen side's NLL")
    nll_reduction: Literal["sequence_mean", "token_mean"] = Field(
        "sequence_mean", description="every completion weighs the same (the paper), or every token (TRL)"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "ref_logprobs"})


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    losses = dpo_loss(chosen, rejected, beta=config.beta)
    nll = chosen_nll(outputs, batch, weight=config.nll_weight, reduction=config.nll_reduction)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/dpo", losses.sum(), "pair"), nll, *metrics]


ALGORITHM = Algorithm(source="arXiv:2404.19733 eq. 1", config=Config, loss=_loss)
