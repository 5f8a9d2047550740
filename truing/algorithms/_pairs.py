"""What the methods that learn from pairs share: log-probs and log-ratios of sequences, and their metrics."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truing.math.ratios import log_ratio
from truing.math.reduce import masked, seq_mean_token_mean
from truing.types import Batch, Outputs, Term


def sequence_logprobs(outputs: Outputs, batch: Batch) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return log pi(y|x), summed over trained tokens, of chosen and rejected [nats]."""
    chosen, rejected = masked(outputs.require("logprobs"), batch.mask).sum(-1).chunk(2)
    return chosen, rejected


def mean_logprobs(outputs: Outputs, batch: Batch) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return what `sequence_logprobs` returns over the number of trained tokens [nats per token].

    A side without trained tokens has 0.
    """
    chosen, rejected = sequence_logprobs(outputs, batch)
    chosen_tokens, rejected_tokens = batch.mask.sum(-1).clamp(min=1).chunk(2)
    return chosen / chosen_tokens, rejected / rejected_tokens


def sequence_log_ratios(outputs: Outputs, batch: Batch) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return log pi(y|x) - log pi_ref(y|x), summed over trained tokens, of chosen and rejected [nats]."""
    logprobs, reference = outputs.require("logprobs"), batch.require("ref_logprobs")
    chosen, rejected = log_ratio(logprobs, reference, batch.mask).sum(-1).chunk(2)
    return chosen, rejected


def mean_log_ratios(outputs: Outputs, batch: Batch) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return what `sequence_log_ratios` returns over the number of trained tokens [nats per token].

    A side without trained tokens has 0.
    """
    chosen, rejected = sequence_log_ratios(outputs, batch)
    chosen_tokens, rejected_tokens = batch.mask.sum(-1).clamp(min=1).chunk(2)
    return chosen / chosen_tokens, rejected / rejected_tokens


def chosen_nll(
    outputs: Outputs, batch: Batch, *, weight: float, reduction: Literal["sequence_mean", "token_mean"]
) -> Term:
    """Return -log pi of the chosen completions as a term.

    Args:
        outputs: with logprobs.
        batch: paired.
        weight: of the term.
        reduction: "sequence_mean" is the mean over pairs of -log pi(y|x) / |y|; "token_mean" is the
            mean over chosen tokens, in which a long completion weighs more.
    """
    chosen, mask = outputs.require("logprobs").chunk(2)[0], batch.mask.chunk(2)[0]
    if reduction == "token_mean":
        return Term("loss/nll", -masked(chosen, mask).sum(), "chosen_token", weight)
    total, _ = seq_mean_token_mean(-chosen, mask)
    return Term("loss/nll", total, "pair", weight)


def preferences(batch: Batch) -> Float[Tensor, " N"]:
    """Return P(chosen is better) of each pair, from its labels; 0.5 is a tie."""
    chosen, _ = batch.require("labels").chunk(2)
    return chosen


def pair_metrics(
    outputs: Outputs, batch: Batch, chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]
) -> list[Term]:
    """Return what every method of pairs logs: the rewards of both sides, and their log-probs."""
    return reward_metrics(chosen, rejected) + logprob_metrics(outputs, batch)


def reward_metrics(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]) -> list[Term]:
    """Return mean rewards of both sides, their margin, and the accuracy, in which a tie counts 1/2."""
    chosen, rejected = chosen.detach(), rejected.detach()
    wins = (chosen > rejected).to(chosen.dtype) + 0.5 * (chosen == rejected)
    return [
        Term("rewards/chosen", chosen.sum(), "pair", 0.0),
        Term("rewards/rejected", rejected.sum(), "pair", 0.0),
        Term("rewards/margin", (chosen - rejected).sum(), "pair", 0.0),
        Term("rewards/accuracy", wins.sum(), "pair", 0.0),
    ]


def logprob_metrics(outputs: Outputs, batch: Batch) -> list[Term]:
    """Return the mean log-prob of a completion [nats], of chosen and of rejected.

    Both fall in most healthy runs while the margin grows; a chosen side that falls far and fast is
    displacement of likelihood.
    """
    with torch.no_grad():
        chosen, rejected = sequence_logprobs(outputs, batch)
    return [
        Term("logprobs/chosen", chosen.sum(), "pair", 0.0),
        Term("logprobs/rejected", rejected.sum(), "pair", 0.0),
    ]
