"""Process reward model: cross-entropy of the score at the end of each step with whether the step is right.

Lightman et al. 2023, arXiv:2305.20050, section 2.6; Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935, eq.
2. The label of a step is learned at its last token; what is not labelled, such as the steps after the first
error in PRM800K, is not trained. Cross-entropy over two classes {bad, good} is the same loss with
z = logit(good) - logit(bad), so one number a token is enough.

Every labelled step weighs the same ("step_mean", the mean of token classifiers), or every solution does
("solution_mean").
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._outcomes import classification_metrics, cross_entropy
from truing.config import DataKind, Options
from truing.math.reduce import Reduced, masked, seq_mean_token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of the process reward model."""

    data: ClassVar[DataKind] = "steps"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    reduction: Literal["step_mean", "solution_mean"] = Field(
        "step_mean", description="every labelled step weighs the same, or every solution does"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"token_scores"})


def step_loss(
    logits: Float[Tensor, "B C"], step_labels: Float[Tensor, "B C"], labelled: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Return -c log sigmoid(z) - (1 - c) log sigmoid(-z) where a labelled step ends, and 0 elsewhere.

    Args:
        logits: z after each token; NaN may stand where nothing is labelled.
        step_labels: c, how probably the step is right, in [0, 1].
        labelled: where a labelled step ends.
    """
    return cross_entropy(masked(logits, labelled), masked(step_labels, labelled)) * labelled


def _reduce(losses: Float[Tensor, "B C"], labelled: Bool[Tensor, "B C"], reduction: str) -> Reduced:
    if reduction == "solution_mean":
        return seq_mean_token_mean(losses, labelled)
    return losses.sum(), "step"


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    logits, labels = outputs.require("token_scores"), batch.require("step_labels")
    labelled = ~torch.isnan(labels)
    losses = step_loss(logits, labels, labelled)
    return [
        Term("loss/steps", *_reduce(losses, labelled, config.reduction)),
        *classification_metrics(masked(logits, labelled), labels, labelled, "step"),
    ]


ALGORITHM = Algorithm(source="arXiv:2305.20050 sec. 2.6; arXiv:2312.08935 eq. 2", config=Config, loss=_loss)
