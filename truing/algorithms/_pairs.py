"""What the methods that learn from pairs share: log-ratios of sequences, and the metrics of their rewards."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truing.math.ratios import log_ratio
from truing.math.reduce import masked
from truing.types import Batch, Outputs, Term


def sequence_log_ratios(outputs: Outputs, batch: Batch) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return log pi(y|x) - log pi_ref(y|x), summed over trained tokens, of chosen and rejected [nats]."""
    logprobs, reference = outputs.require("logprobs"), batch.require("ref_logprobs")
    chosen, rejected = log_ratio(logprobs, reference, batch.mask).sum(-1).chunk(2)
    return chosen, rejected


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
    logprobs = outputs.require("logprobs").detach()
    chosen, rejected = masked(logprobs, batch.mask).sum(-1).chunk(2)
    return [
        Term("logprobs/chosen", chosen.sum(), "pair", 0.0),
        Term("logprobs/rejected", rejected.sum(), "pair", 0.0),
    ]
