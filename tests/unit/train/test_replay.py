"""Demonstrations beside a method's rows: neither sees the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from truing import plugins
from truing.train.batches import batch_of_pairs, batch_of_rows
from truing.train.collect import Collected
from truing.train.order import Order
from truing.train.replay import Mixed, mixed, replayed_rows, with_replay
from truing.types import Batch, Outputs, Pair, Row


def row(uid: str, length: int) -> Row:
    return Row(uid, (1, 2), tuple(range(3, 3 + length)), (True,) * length)


DEMONSTRATIONS = batch_of_rows([row("d0", 2), row("d1", 7)])
PAIRS = batch_of_pairs([Pair(str(i), row("w", 3 + i), row("l", 5)) for i in range(3)])


def example(seed: int = 0) -> tuple[Batch, Outputs]:
    """Return three pairs and two demonstrations, and log-probs of all; NaN where nothing may be read."""
    generator = torch.Generator().manual_seed(seed)
    pairs = replace(PAIRS, ref_logprobs=-torch.rand(PAIRS.mask.shape, generator=generator))
    batch = mixed(pairs, DEMONSTRATIONS)
    drawn = -torch.rand(batch.mask.shape, generator=generator)
    return batch, Outputs(torch.where(batch.mask, drawn, torch.nan).requires_grad_())


def loss_of(method: Any, config: Any, batch: Batch, outputs: Outputs, max_tokens: int) -> dict[str, float]:
    count, found = batch.count(), dict[str, float]()
    for index in batch.split_index(max_tokens):
        micro = batch.rows(index)
        terms = method.loss(outputs.rows(index, micro.mask.shape[1]), micro, config)
        sum(t.weight * t.total / count[t.unit].clamp(min=1) for t in terms).backward()
        for t in terms:
            found[t.name] = found.get(t.name, 0.0) + (t.total / count[t.unit].clamp(min=1)).item()
    return found


def test_the_parts_of_a_mixed_batch_come_back() -> None:
    batch, _ = example()
    assert batch.replay is not None
    assert batch.replay.tolist() == [False] * 6 + [True] * 2
    assert batch.ref_logprobs is not None
    assert batch.ref_logprobs[6:].isnan().all()
    assert len(set(batch.groups[6:].tolist()) | set(batch.groups[:6].tolist())) == 5
    assert batch.uids[6:] == ("d0", "d1")
    main, own = batch.main(), PAIRS
    assert torch.equal(main.completions, own.completions)
    assert torch.equal(main.mask, own.mask)
    assert main.paired
    again = replayed_rows(batch)
    assert torch.equal(again.completions, DEMONSTRATIONS.completions)
    assert not again.paired


def test_each_side_counts_in_its_own_units() -> None:
    count, alone = example()[0].count(), PAIRS.count()
    assert count.pop("replay_token") == 9
    assert {k: float(v) for k, v in count.items()} == {
        k: float(v) for k, v in alone.items() if k != "replay_token"
    }


def test_pairs_stay_whole_and_demonstrations_go_alone() -> None:
    batch, _ = example()
    assert batch.units() == [[0, 3], [1, 4], [2, 5], [6], [7]]
    for index in batch.split_index(1):
        assert index.tolist() in batch.units()


@pytest.mark.parametrize("max_tokens", [1, 12, 25, 10**6])
def test_peer_01_any_split_gives_the_same_gradient_and_the_method_s_own_loss(max_tokens: int) -> None:
    dpo = plugins.load("algorithms", "dpo").ALGORITHM
    config, method = dpo.config(), with_replay(dpo, weight=0.5)
    batch, outputs = example()
    batch = method.credit(batch, config)
    whole = loss_of(method, config, batch, outputs, 10**6)
    assert outputs.logprobs is not None
    expected = outputs.logprobs.grad
    batch, outputs = example()
    found = loss_of(method, config, method.credit(batch, config), outputs, max_tokens)
    assert found == pytest.approx(whole)
    assert outputs.logprobs is not None
    torch.testing.assert_close(outputs.logprobs.grad, expected)
    assert expected is not None
    assert expected.isfinite().all()
    own = example()[1].rows(torch.arange(6), PAIRS.mask.shape[1])
    alone = loss_of(dpo, config, batch.main(), own, 10**6)
    assert {k: v for k, v in found.items() if k != "loss/replay"} == pytest.approx(alone)


def test_the_share_is_of_the_mixed_batch_and_both_positions_are_saved() -> None:
    class Main:
        order = Order(["a"], seed=0, shuffle=False)

        def __call__(self, step: int) -> Collected:
            self.order.take(1)
            return Collected(PAIRS)

    def collector() -> Mixed:
        return Mixed(
            Main(), [row(str(i), 1 + i) for i in range(8)], Order(list("abcdefgh"), seed=1, shuffle=True), 0.4
        )

    whole = collector()
    batches = [whole(step).batch for step in range(3)]
    assert [len(b) for b in batches] == [10, 10, 10]
    stopped, resumed = collector(), collector()
    stopped(0)
    resumed.order.restore(stopped.order.state())
    assert resumed(1).batch.uids == batches[1].uids
