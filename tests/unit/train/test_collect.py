"""Rollouts become batches: dynamic sampling, unscored rollouts, and the order that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from truing.errors import CheckpointError, VerifierError
from truing.rewards import RewardTerm
from truing.rollout.sampler import SamplingParams
from truing.train.online import Online
from truing.train.order import Order
from truing.train.scoring import Scorer
from truing.types import Completion, Prompt, Verdict

PROMPTS = [Prompt(f"p{i}", ()) for i in range(6)]


class Scripted:
    """Samples the texts that its script holds for a prompt id, in turn."""

    def __init__(self, script: dict[int, Sequence[str]]) -> None:
        self.script, self.seeds = script, list[int]()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        self.seeds.append(params.seed)
        return [
            [Completion((7, 2), self.script[p[0]][s], (-1.0, -1.0), "stop") for s in range(num_samples)]
            for p in prompts
        ]

    def publish(self, version: int) -> None:
        raise AssertionError("collecting publishes nothing")


def verify(completion: str, reference: object, config: object) -> Verdict:
    if completion == "broken":
        return Verdict("failed", evidence="the grader died")
    return Verdict("scored", float(completion == "right"))


def collector(script: dict[int, Sequence[str]], *, max_resamples: int = 0, batch_size: int = 2) -> Online:
    return Online(
        prompts=PROMPTS,
        prompt_tokens=[(i,) for i in range(6)],
        order=Order([p.uid for p in PROMPTS], seed=0, shuffle=False),
        sampler=Scripted(script),
        params=SamplingParams(max_tokens=4, stop_token_ids=(2,)),
        scorer=Scorer([RewardTerm("answer", 1.0, verify, None)]),
        batch_size=batch_size,
        group_size=2,
        seed=0,
        max_resamples=max_resamples,
    )


def test_dynamic_sampling_draws_anew_until_every_group_has_signal() -> None:
    mixed, solved, failed = ("right", "wrong"), ("right", "right"), ("wrong", "wrong")
    online = collector({0: solved, 1: mixed, 2: failed, 3: mixed, 4: mixed, 5: mixed}, max_resamples=5)
    found = online(0)
    assert [int(p[0]) for p in found.batch.prompts] == [1, 1, 3, 3]
    assert len(set(found.batch.groups.tolist())) == 2
    assert found.metrics["rollout/kept_group_share"] == pytest.approx(2 / 4)
    assert len(set(online.sampler.seeds)) == len(online.sampler.seeds) == 3  # type: ignore[attr-defined]


def test_dynamic_sampling_gives_up_after_max_resamples_and_keeps_what_it_has() -> None:
    mixed, failed = ("right", "wrong"), ("wrong", "wrong")
    found = collector({0: mixed, **{i: failed for i in range(1, 6)}}, max_resamples=2)(0)
    assert [int(p[0]) for p in found.batch.prompts] == [0, 0]


def test_without_dynamic_sampling_dead_groups_stay() -> None:
    found = collector({i: ("wrong", "wrong") for i in range(6)})(0)
    assert len(found.batch) == 4
    assert found.metrics["reward/dead_group_share"] == 1.0


def test_peer_16_an_unscored_rollout_leaves_the_batch_and_is_counted() -> None:
    found = collector({i: ("right", "broken") for i in range(6)})(0)
    assert found.batch.require("rewards").tolist() == [1.0, 1.0]
    assert found.metrics["rollout/unscored_share"] == 0.5
    assert found.metrics["reward/mean"] == 1.0


def test_a_step_in_which_nothing_was_scored_stops_with_the_reason() -> None:
    with pytest.raises(VerifierError, match=r"answer: failed x4; the first says: the grader died"):
        collector({i: ("broken", "broken") for i in range(6)})(0)


@pytest.mark.parametrize("taken", range(9))
def test_an_order_restored_anywhere_goes_on_as_it_would_have(taken: int) -> None:
    uids = [f"row{i}" for i in range(4)]
    whole = Order(uids, seed=3, shuffle=True)
    expected = whole.take(12)
    first = Order(uids, seed=3, shuffle=True)
    begun = first.take(taken)
    second = Order(uids, seed=3, shuffle=True)
    second.restore(first.state())
    assert begun + second.take(12 - taken) == expected
    assert all(sorted(expected[i : i + 4]) == [0, 1, 2, 3] for i in (0, 4, 8))


def test_an_order_refuses_data_that_lost_a_consumed_row() -> None:
    order = Order(["a", "b"], seed=0, shuffle=False)
    order.take(1)
    with pytest.raises(CheckpointError, match="'a'"):
        Order(["b", "c"], seed=0, shuffle=False).restore(order.state())
