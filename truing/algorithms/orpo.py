"""Odds ratio preference optimization: L = NLL(y_w) - lambda log sigmoid(log odds(y_w) - log odds(y_l)).

Hong, Lee and Thorne 2024, arXiv:2403.07691, eq. 6-7: imitation and preference in one stage, without a
reference policy. odds = p / (1 - p), where p = exp(S / |y|) is the probability of a completion, normalised
by its length. The likelihood is that of the chosen completions; every token of them weighs the same.

With nll_scope = "all" it is also that of their prompts, as in the authors' code and in TRL. LLaMA-Factory
takes the completions, with a mean over each first. Mean log-probs are held at or below -1e-6.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import chosen_nll, mean_logprobs, pair_metrics, sequence_logprobs
from truing.config import DataKind, Options
from truing.math.odds import log_odds
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of ORPO."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (8e-6, 8e-5)

    lambda_or: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="weight of the odds-ratio term; 0.1 to 1"
    )
    nll_scope: Literal["response", "all"] = Field(
        "response", description="tokens of the likelihood: the chosen completion, or its prompt as well"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} | ({"prompt_logprobs"} if self.nll_scope == "all" else set()))


def odds_ratio_loss(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return -log sigmoid(chosen - rejected) for each pair, of log odds [nats]."""
    return -F.logsigmoid(chosen - rejected)


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = (log_odds(side) for side in mean_logprobs(outputs, batch))
    losses = odds_ratio_loss(chosen, rejected)
    return [
        _nll(outputs, batch, config.nll_scope),
        Term("loss/odds_ratio", losses.sum(), "pair", config.lambda_or),
        *pair_metrics(outputs, batch, chosen, rejected),
    ]


def _nll(outputs: Outputs, batch: Batch, scope: str) -> Term:
    if scope == "response":
        return chosen_nll(outputs, batch, weight=1.0, reduction="token_mean")
    completions, _ = sequence_logprobs(outputs, batch)
    prompts, _ = outputs.require("prompt_logprobs").chunk(2)
    return Term("loss/nll", -(completions + prompts).sum(), "chosen_text_token")


ALGORITHM = Algorithm(source="arXiv:2403.07691 eq. 6-7", config=Config, loss=_loss)
