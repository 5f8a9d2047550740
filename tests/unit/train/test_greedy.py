"""Online draws and scores the greedy completion of each prompt where a method needs baselines (ReMax)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from truing.errors import VerifierError
from truing.rewards import RewardTerm
from truing.rollout.sampler import SamplingParams
from truing.train.online import Online
from truing.train.order import Order
from truing.train.scoring import Scorer
from truing.types import Completion, Prompt, Verdict

PROMPTS = [Prompt(f"p{i}", ()) for i in range(4)]


class Scripted:
    """Samples the texts of a prompt in turn, and its greedy text at temperature 0."""

    def __init__(self, sampled: Sequence[str], greedy: dict[int, str]) -> None:
        self.sampled, self.greedy, self.asked = sampled, greedy, list[tuple[int, float, int]]()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        self.asked.append((len(prompts), params.temperature, params.max_tokens))
        found = list[list[Completion]]()
        for p in prompts:
            texts = self.sampled if params.temperature else [self.greedy[p[0]]]
            found.append([Completion((7,) * len(texts[i]), texts[i], (-1.0,) * len(texts[i]), "stop")
                          for i in range(num_samples)])  # fmt: skip
        return found

    def publish(self, version: int) -> None:
        raise AssertionError("collecting publishes nothing")


def verify(completion: str, reference: object, config: object) -> Verdict:
    return Verdict("failed") if completion == "broken" else Verdict("scored", float(len(completion)))


def collector(sampler: Scripted, *, terms: bool = True, greedy: bool = True) -> Online:
    return Online(
        prompts=PROMPTS,
        prompt_tokens=[(i,) for i in range(4)],
        order=Order([p.uid for p in PROMPTS], seed=0, shuffle=False),
        sampler=sampler,
        params=SamplingParams(max_tokens=9, stop_token_ids=(2,)),
        scorer=Scorer([RewardTerm("answer", 1.0, verify, None)] if terms else []),
        batch_size=2,
        group_size=2,
        seed=0,
        greedy=greedy,
    )


def test_every_row_has_the_reward_of_its_prompt_s_greedy_completion() -> None:
    sampler = Scripted(["a", "bbb"], {0: "cc", 1: "dddd"})
    found = collector(sampler)(0)
    assert found.batch.require("baselines").tolist() == [2.0, 2.0, 4.0, 4.0]
    assert found.batch.require("rewards").tolist() == [1.0, 3.0, 1.0, 3.0]
    assert sampler.asked == [(2, 1.0, 9), (2, 0.0, 9)]  # the same limit; one for each prompt
    assert found.metrics["rollout/greedy_mean_tokens"] == 3.0
    assert found.metrics["rollout/unscored_baseline_share"] == 0.0
    assert found.metrics["rollout/mean_tokens"] == 2.0  # greedy completions are not trained


def test_peer_16_a_greedy_completion_without_a_score_leaves_its_group_unscored_and_is_counted() -> None:
    found = collector(Scripted(["a", "bbb"], {0: "broken", 1: "dddd"}))(0)
    assert found.batch.require("baselines").tolist() == [4.0, 4.0]
    assert [int(p[0]) for p in found.batch.prompts] == [1, 1]
    assert found.metrics["rollout/unscored_baseline_share"] == 0.5
    assert found.metrics["rollout/unscored_share"] == 0.5


def test_without_any_baseline_the_step_stops() -> None:
    with pytest.raises(VerifierError, match="none of 4 rollouts was scored"):
        collector(Scripted(["a", "bbb"], {0: "broken", 1: "broken"}))(0)


def test_without_a_need_nothing_greedy_is_drawn() -> None:
    sampler = Scripted(["a", "bbb"], {})
    assert collector(sampler, greedy=False)(0).batch.baselines is None
    assert len(sampler.asked) == 1


def test_where_nobody_scores_no_reward_is_reported() -> None:
    found = collector(Scripted(["a", "bbb"], {}), terms=False, greedy=False)(0)
    assert not [name for name in found.metrics if name.startswith("reward/")]
    assert found.metrics["rollout/mean_tokens"] == 2.0
