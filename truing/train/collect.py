"""Where a step's batch comes from: what collects has an order of rows and gives a batch a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from truing.train.batches import Record, batch_of
from truing.train.order import Order
from truing.types import Batch, Rollout


@dataclass(frozen=True, slots=True)
class Collected:
    """A batch, the rollouts behind it when it is online, and what collecting it showed."""

    batch: Batch
    rollouts: Sequence[Rollout] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Collector(Protocol):
    """What gives a step its batch."""

    @property
    def order(self) -> Any:
        """Return the position in the data: what has `state()` and `restore(state)`, as an Order has."""
        ...

    def __call__(self, step: int) -> Collected:
        """Return the batch of this step."""
        ...


class Offline:
    """Batches of a data set's records, `batch_size` at a time."""

    def __init__(self, records: Sequence[Record], order: Order, batch_size: int) -> None:
        """Draw from these records, all of one kind, in this order."""
        self.order, self._records, self._batch_size = order, records, batch_size

    def __call__(self, step: int) -> Collected:
        """Return the next `batch_size` records."""
        return Collected(self._batch(self.order.take(self._batch_size)))

    def every_row(self) -> Batch:
        """Return all records as one batch: what a cached reference covers."""
        return self._batch(range(len(self._records)))

    def _batch(self, index: Iterable[int]) -> Batch:
        return batch_of([self._records[i] for i in index])
