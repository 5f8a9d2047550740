"""Supervised fine-tuning: maximum likelihood of the trained tokens of demonstrations.

The language-modelling objective on completions, L = -sum_it m log pi(y_t | x, y_<t) / sum_it m, as in
Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, section 3.5. The mask is that of the target token:
it covers each trained turn with the token that closes it, and no prompt.

With loss = "dft" each token's negative log-likelihood is weighed by its own probability, without gradient
through the weight (Wu et al. 2025, arXiv:2508.05629): the gradient is that of -p, so tokens that the
model finds impossible pull less.

neftune_alpha adds uniform noise to the input embeddings of training passes (Jain et al. 2023,
arXiv:2310.05914, algorithm 1): alpha / sqrt(L d) times a draw from (-1, 1), for a row of L tokens and
embeddings of width d. L is the row's own length, as in the authors' code; transformers takes the padded one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from truing.config import DataKind, Options
from truing.math import reduce
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of supervised fine-tuning."""

    data: ClassVar[DataKind] = "demonstrations"
    learning_rate: ClassVar[tuple[float, float]] = (2e-5, 2e-4)

    loss: Literal["nll", "dft"] = Field(
        "nll", description="negative log-likelihood, or weighed by each token's probability (DFT)"
    )
    reduction: Literal["token_mean", "seq_mean_token_mean"] = Field(
        "token_mean", description="every token weighs the same, or every row does"
    )
    neftune_alpha: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="noise on the embeddings of training passes (NEFTune); 5 is usual when on, 0: none",
        json_schema_extra={"read_by": "learner"},
    )


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    nll = -outputs.require("logprobs")
    reduction = reduce.token_mean if config.reduction == "token_mean" else reduce.seq_mean_token_mean
    if config.loss == "nll":
        return [Term("loss/nll", *reduction(nll, batch.mask))]
    weighed = reduce.masked(-nll.detach(), batch.mask).exp() * nll
    plain = Term("loss/nll", *reduction(nll.detach(), batch.mask), 0.0)
    return [Term("loss/dft", *reduction(weighed, batch.mask)), plain]


ALGORITHM = Algorithm(source="arXiv:2203.02155 sec. 3.5", config=Config, loss=_loss)
