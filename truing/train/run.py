"""What the loop asks of its surroundings: two structural types, no base class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from truing.types import Algorithm, Batch, Outputs, Term, Unit


@runtime_checkable
class Learner(Protocol):
    """What updates: the policy (and critic), its optimizer and its schedule."""

    def forward(self, batch: Batch, needs: frozenset[str]) -> Outputs:
        """Return logprobs, and entropy, values or scores where `needs` names them, with gradient."""
        ...

    def backward(self, loss: Tensor | float) -> None:
        """Accumulate the gradient of one micro-batch's share of the loss."""
        ...

    def optimizer_step(self) -> None:
        """Clip, step, advance the schedule, zero. Raises NonFiniteError instead of stepping on NaN."""
        ...


@runtime_checkable
class Run(Protocol):
    """Where batches come from and where results go, for one stage of training."""

    algorithm: Algorithm
    config: Any  # the algorithm's Config; `adapt` may replace it between steps
    learner: Learner
    first_step: int
    num_steps: int
    micro_batch_tokens: int

    def collect(self, step: int) -> Batch:
        """Return the batch of this step."""
        ...

    def annotate(self, batch: Batch, needs: frozenset[str]) -> Batch:
        """Fill old_logprobs, ref_logprobs and old_values where they are needed, without gradient."""
        ...

    def minibatches(self, batch: Batch) -> Iterable[Batch]:
        """Yield the batch of each optimizer step."""
        ...

    def sum_over_ranks(self, count: dict[Unit, Tensor]) -> dict[Unit, Tensor]:
        """Return the counts over all ranks; the identity on one."""
        ...

    def tally(self, terms: Sequence[Term], count: Mapping[Unit, Tensor]) -> None:
        """Add each term, divided like the loss, to the metrics of this step."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Return and reset what was tallied since the last call; the only read from the device."""
        ...

    def publish(self, step: int) -> None:
        """Give the sampler the new weights."""
        ...

    def observe(self, step: int, batch: Batch, metrics: Mapping[str, float]) -> None:
        """Log, diagnose, evaluate and checkpoint."""
        ...
