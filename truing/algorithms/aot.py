"""Alignment via Optimal Transport: the distribution of rewards should dominate, not each pair's reward.

Melnyk et al. 2024, arXiv:2406.05882. In one dimension the optimal transport between two samples matches
equal ranks, so DPO's loss is taken on sorted numbers:
    paired    -log sigmoid(beta (sorted(S_w - S_l)_i - sorted(S_ref_w - S_ref_l)_i))
    unpaired  -log sigmoid(beta (sorted(D_w)_i - sorted(D_l)_i))
over the batch, with S = log pi of a completion and D = log pi/pi_ref. With label_smoothing it is the
conservative form, as in DPO.

Differs from the paper: ranks are those of the policy that began the batch, and the matching is kept for
every update of the batch. For the usual single update that is the paper's loss and gradient; it costs a
forward pass without gradient. TRL 1.16 sorts within the rows of one forward pass, so its loss depends on
the micro-batch; here the whole step's batch is sorted, and no split of it changes the gradient. A larger
batch_size is a finer estimate of the two distributions, and batch_size = 1 is DPO.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from truing.algorithms._pairs import pair_metrics, sequence_log_ratios, sequence_logprobs
from truing.algorithms.dpo import dpo_loss
from truing.config import DataKind, Options
from truing.types import Algorithm, Batch, Outputs, Term


class Config(Options):
    """Options of AOT."""

    data: ClassVar[DataKind] = "pairs"
    learning_rate: ClassVar[tuple[float, float]] = (5e-7, 5e-6)

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="larger stays closer to the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong")
    variant: Literal["paired", "unpaired"] = Field(
        "paired", description="paired: margins of policy and reference are matched; unpaired: the two sides"
    )

    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs", "ref_logprobs"})


def equal_ranks(values: Float[Tensor, " N"], others: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Return, for each value, the index of the other that has its rank; the optimal transport in 1-D."""
    ranks = values.argsort(stable=True).argsort()
    return others.argsort(stable=True)[ranks]


def _credit(batch: Batch, config: Config) -> Batch:
    """Return the batch with new partners: of the reference's margins, or of the rejected rows."""
    old = Outputs(logprobs=batch.require("old_logprobs"))
    if config.variant == "unpaired":
        chosen, rejected = sequence_log_ratios(old, batch)
        first = torch.arange(len(chosen), device=chosen.device)
        return batch.rows(torch.cat([first, len(chosen) + equal_ranks(chosen, rejected)]))
    policy = _margins(old, batch)
    reference = _margins(Outputs(logprobs=batch.require("ref_logprobs")), batch)
    return replace(batch, ref_margins=reference[equal_ranks(policy, reference)].repeat(2))


def _margins(outputs: Outputs, batch: Batch) -> Float[Tensor, " N"]:
    chosen, rejected = sequence_logprobs(outputs, batch)
    return chosen - rejected


def _loss(outputs: Outputs, batch: Batch, config: Config) -> list[Term]:
    chosen, rejected = sequence_log_ratios(outputs, batch)
    matched = (chosen, rejected)
    if config.variant == "paired":
        matched = _margins(outputs, batch), batch.require("ref_margins").chunk(2)[0]
    losses = dpo_loss(*matched, beta=config.beta, label_smoothing=config.label_smoothing)
    metrics = pair_metrics(outputs, batch, config.beta * chosen, config.beta * rejected)
    return [Term("loss/aot", losses.sum(), "pair"), *metrics]


ALGORITHM = Algorithm(source="arXiv:2406.05882", config=Config, loss=_loss, credit=_credit)
