"""Contrastive preference optimization: L = -log sigmoid(beta (S_w - S_l)) - nll_weight log pi(y_w|x).

Xu et al. 2024, arXiv:2401.08417: DPO with a uniform reference, so that no second model is
needed, and the likelihood of the chosen completion, which keeps the policy near the data. S is log
pi(y|x), summed over the completion's tokens. With loss = "ipo" the logistic loss gives way to
(m_w - m_l - 1 / (2 beta))^2, m = S / |y|, as in TRL's CPO trainer.

Differs from the paper: it sums the likelihood over a completion's tokens. As in the authors' code, the
default is the mean over all chosen tokens; nll_reduction = "sum" is the paper's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from truing.algorithms._pairs import chosen_nll, mean_logprobs, pair_metrics, sequence_logprobs
from truing.algorithms.dpo import dpo_loss
from truing.algorithms.ipo import ipo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of CPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (1e-6, 1e-4)
    only_with: ClassVar[dict[str, str]] = {"nll_reduction": "nll_weight"}

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="scale of the log-probs' difference")
    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid", description="sigmoid: the paper's; ipo: a target of 1 / (2 beta) nats a token"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong")
    nll_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the chosen side's likelihood; 0: none"
    )
    nll_reduction: Literal["token_mean", "sum"] = Field(
        "token_mean", description="over all chosen tokens as in the authors' code, or sums as in the paper"
    )

    @model_validator(mode="after")
    def _label_smoothing_has_use(self) -> Config:
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing does nothing with loss = 'ipo': leave it out")
        return self


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    if config.loss == "ipo":
        chosen, rejected = mean_logprobs(outputs, batch)
        losses = ipo_loss(chosen, rejected, tau=config.beta)
    else:
        chosen, rejected = sequence_logprobs(outputs, batch)
        losses = dpo_loss(chosen, rejected, beta=config.beta, label_smoothing=config.label_smoothing)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/cpo", losses.sum(), "pair"), *_nll(outputs, batch, config), *metrics]


def _nll(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    if config.nll_weight == 0:
        return []
    if config.nll_reduction == "token_mean":
        return [chosen_nll(outputs, batch, weight=config.nll_weight, reduction="token_mean")]
    chosen, _ = sequence_logprobs(outputs, batch)
    return [Term("loss/nll_per_completion", -chosen.sum(), "pair", config.nll_weight)]


ALGORITHM = Algorithm(source="arXiv:2401.08417", config=Config, loss=_loss)
