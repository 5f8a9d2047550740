"""Outcome reward model: cross-entropy of the score with whether the completion is right.

Cobbe et al. 2021, arXiv:2110.14168, section 4.2 (verifiers): L = -c log sigmoid(z) - (1 - c) log sigmoid(-z).
Labels c may be soft, anywhere in [0, 1].

Differs from the paper: the label is learned at the last token, mean over completions. With every_token
it is learned after every token of the completion, mean over tokens, as in the paper's token-level
verifiers; the paper's joint language-modelling loss is left out.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from truing.algorithms._outcomes import classification_metrics, cross_entropy
from truing.config import DataKind, Options
from truing.math.reduce import masked, token_mean
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of the outcome reward model."""

    data: ClassVar[DataKind] = "unpaired"
    learning_rate: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    every_token: bool = Field(
        False, description="learn the label after every token of the completion, not only after the last"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"token_scores"} if self.every_token else {"scores"})


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    labels, mask = batch.require("labels"), batch.mask
    if config.every_token:
        logits = masked(outputs.require("token_scores"), mask)
        wide = labels[:, None].expand_as(logits)
        loss = Term("loss/outcome", *token_mean(cross_entropy(logits, wide), mask))
        return [loss, *classification_metrics(logits, wide, mask, "token")]
    scores, every = outputs.require("scores"), torch.ones_like(labels, dtype=torch.bool)
    loss = Term("loss/outcome", cross_entropy(scores, labels).sum(), "sequence")
    return [loss, *classification_metrics(scores, labels, every, "sequence")]


ALGORITHM = Algorithm(source="arXiv:2110.14168 sec. 4.2", config=Config, loss=_loss)
