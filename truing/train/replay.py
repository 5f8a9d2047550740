"""Demonstrations mixed into the batches of any method, whose negative log-likelihood joins its loss.

With PPO it is PPO-ptx (Ouyang et al. 2022, arXiv:2203.02155, eq. 2). The method itself never sees the
replayed rows: they enter no baseline, no advantage, no metric and no count but their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from truing.math.reduce import masked
from truing.train.batches import batch_of_rows
from truing.train.collect import Collected, Collector
from truing.train.order import Order
from truing.types import Algorithm, Batch, Outputs, Row, Term


@dataclass(frozen=True, slots=True)
class Orders:
    """The positions in the method's own rows and in the demonstrations, saved and restored together."""

    main: Any
    replay: Order

    def state(self) -> dict[str, Any]:
        """Return both positions."""
        return {"main": self.main.state(), "replay": self.replay.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from saved positions.

        Raises:
            CheckpointError: a consumed row is not in the data any more.
        """
        self.main.restore(state["main"])
        self.replay.restore(state["replay"])


@dataclass(frozen=True, slots=True)
class Mixed:
    """A collector whose batches hold a share of demonstrations beside the method's own rows."""

    main: Collector
    demonstrations: Sequence[Row]
    replay_order: Order
    share: float  # of all rows, in (0, 1)

    @property
    def order(self) -> Orders:
        """Return the positions of both sources."""
        return Orders(self.main.order, self.replay_order)

    def __call__(self, step: int) -> Collected:
        """Return the method's batch of this step with the next demonstrations after it."""
        collected = self.main(step)
        count = max(1, round(len(collected.batch) * self.share / (1 - self.share)))
        rows = [self.demonstrations[i] for i in self.replay_order.take(count)]
        return replace(collected, batch=mixed(collected.batch, batch_of_rows(rows)))


def mixed(main: Batch, replayed: Batch) -> Batch:
    """Return one batch: the main rows, then the replayed ones, each of these a group of its own.

    What only one side has (rewards, advantages) is NaN on the other side's rows, False or -1 where it is
    no float; nobody reads it there.
    """
    width = max(main.completions.shape[1], replayed.completions.shape[1])
    joined: dict[str, Any] = {}
    for f in fields(main):
        ours, theirs = getattr(main, f.name), getattr(replayed, f.name)
        if isinstance(ours, Tensor) or isinstance(theirs, Tensor):
            joined[f.name] = _stacked(ours, theirs, len(main), len(replayed), width)
    first = int(main.groups.max()) + 1
    is_replayed = torch.arange(len(main) + len(replayed), device=main.mask.device) >= len(main)
    return replace(
        main,
        **joined
        | {
            "prompts": main.prompts + replayed.prompts,
            "uids": main.uids + replayed.uids if main.uids else (),
            "groups": torch.cat([main.groups, first + torch.arange(len(replayed)).to(main.groups)]),
            "replay": is_replayed,
        },
    )


def replayed_rows(batch: Batch) -> Batch:
    """Return the replayed rows of a mixed batch."""
    assert batch.replay is not None
    return replace(batch.rows(batch.replay.nonzero()[:, 0]), paired=False)


def with_replay(algorithm: Algorithm, *, weight: float) -> Algorithm:
    """Return the method plus `weight` times the mean NLL of the replayed tokens.

    Credit and loss of the method run on its own rows only.
    """

    def credit(batch: Batch, config: Any) -> Batch:
        return mixed(algorithm.credit(batch.main(), config), replayed_rows(batch))

    def loss(outputs: Outputs, batch: Batch, config: Any) -> list[Term]:
        assert batch.replay is not None
        own, main = (~batch.replay).nonzero()[:, 0], batch.main()
        terms = list[Term]()
        if len(main):  # a micro-batch may hold demonstrations only
            terms += algorithm.loss(outputs.rows(own, main.completions.shape[1]), main, config)
        trained = batch.mask & batch.replay[:, None]
        nll = -masked(outputs.require("logprobs"), trained).sum()
        return [*terms, Term("loss/replay", nll, "replay_token", weight)]

    return replace(algorithm, credit=credit, loss=loss)


def _stacked(ours: Tensor | None, theirs: Tensor | None, num: int, num_replayed: int, width: int) -> Tensor:
    like = ours if ours is not None else theirs
    assert like is not None
    shape = () if like.ndim == 1 else (width,)
    out = like.new_full((num + num_replayed, *shape), _filler(like.dtype))
    for part, rows in ((ours, slice(num)), (theirs, slice(num, None))):
        if part is not None:
            out[rows] = _widened(part, width)
    return out


def _widened(part: Tensor, width: int) -> Tensor:
    """Return the part with columns up to `width`, as padding has them: 0."""
    if part.ndim == 1 or part.shape[1] == width:
        return part
    return torch.cat([part, part.new_zeros(len(part), width - part.shape[1])], 1)


def _filler(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return 0.0
    return float("nan") if dtype.is_floating_point else -1.0
