"""Supervised fine-tuning: maximum likelihood of the trained tokens of demonstrations.

The language-modelling objective on completions, L = -sum_it m log pi(y_t | x, y_<t) / sum_it m, as in
Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, section 3.5. The mask is that of the target token:
it covers each trained turn with the token that closes it, and no prompt.
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

    reduction: Literal["token_mean", "seq_mean_token_mean"] = Field(
        "token_mean", description="every token weighs the same, or every row does"
    )


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    nll = -outputs.require("logprobs")
    reduction = reduce.token_mean if config.reduction == "token_mean" else reduce.seq_mean_token_mean
    return [Term("loss/nll", *reduction(nll, batch.mask))]


ALGORITHM = Algorithm(source="arXiv:2203.02155 sec. 3.5", config=Config, loss=_loss)
