"""Batches of an online method: rollouts of the sampler on the next prompts, scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.batches import batch_of_rollouts
from truing.train.collect import Collected
from truing.train.conversations import Conversations
from truing.train.order import Order, seed_of
from truing.train.scoring import Scorer, require_scored, rollout_metrics
from truing.types import Prompt, Rollout


def has_spread(rewards: Sequence[float]) -> bool:
    """Return whether the rewards of a group differ."""
    return len(set(rewards)) > 1


def accuracy_within(rewards: Sequence[float], *, low: float, high: float) -> bool:
    """Return whether the share of rewards that are 0.5 or more, what counts as right, is in [low, high]."""
    share = sum(r >= 0.5 for r in rewards) / max(len(rewards), 1)
    return len(rewards) > 0 and low - 1e-9 <= share <= high + 1e-9


@dataclass(slots=True)
class Online:
    """Rollouts of the sampler on the next prompts, scored; prompts without signal are drawn anew
    where the algorithm asks for dynamic sampling (DAPO, arXiv:2503.14476 eq. 11).
    """

    prompts: Sequence[Prompt]
    prompt_tokens: Sequence[tuple[int, ...]]
    order: Order
    sampler: Sampler
    params: SamplingParams
    scorer: Scorer
    batch_size: int  # prompts of a step
    group_size: int
    seed: int
    max_resamples: int = 0  # 0: every group is trained
    keeps: Callable[[Sequence[float]], bool] = has_spread  # whether a group with these rewards is trained
    conversations: Conversations | None = None  # with an environment; else one completion is all
    greedy: bool = False  # also draw the greedy completion of each prompt; its reward is the baseline

    def __call__(self, step: int) -> Collected:
        """Return the rollouts of `batch_size` prompts.

        Raises:
            VerifierError: no rollout could be scored, so there is nothing to learn from.
        """
        groups, drawn, every = list[list[Rollout]](), 0, list[Rollout]()
        for attempt in range(self.max_resamples + 1):
            wanted = self.batch_size - len(groups)
            fresh = self._groups(step, attempt, wanted, first_group=drawn)
            drawn += wanted
            every += [r for g in fresh for r in g]
            groups += [g for g in fresh if not self.max_resamples or self.keeps(_rewards(g))]
            if len(groups) == self.batch_size:
                break
        rollouts = [r for g in groups for r in g] or every
        require_scored(step, rollouts)
        metrics = rollout_metrics(every, self.params.max_tokens)
        metrics["rollout/kept_group_share"] = len(groups) / drawn
        if not self.scorer.terms and self.scorer.score is None:  # nobody says how good they are
            metrics = {name: x for name, x in metrics.items() if not name.startswith("reward/")}
        return Collected(batch_of_rollouts(rollouts), every, metrics)

    def _groups(self, step: int, attempt: int, count: int, first_group: int) -> list[list[Rollout]]:
        index = self.order.take(count)
        params = replace(self.params, seed=seed_of(self.seed, "rollout", step, attempt))
        ids = [self.prompt_tokens[i] for i in index]
        if self.conversations is not None:
            numbers = range(first_group, first_group + count)
            asked = [self.prompts[i] for i in index]
            rollouts = self.conversations(asked, ids, params, numbers, self.group_size)
            return [rollouts[i : i + self.group_size] for i in range(0, len(rollouts), self.group_size)]
        completions = self.sampler.generate(ids, params, num_samples=self.group_size)
        places = [place for place in range(count) for _ in range(self.group_size)]
        rollouts = self.scorer(
            [self.prompts[index[place]] for place in places],
            [tuple(ids[place]) for place in places],
            [completion for group in completions for completion in group],
            [first_group + place for place in places],
        )
        if self.greedy:
            rollouts = self._beside_greedy(rollouts, index, ids, params, first_group)
        return [rollouts[i : i + self.group_size] for i in range(0, len(rollouts), self.group_size)]

    def _beside_greedy(
        self,
        rollouts: Sequence[Rollout],
        index: Sequence[int],
        ids: Sequence[tuple[int, ...]],
        params: SamplingParams,
        first_group: int,
    ) -> list[Rollout]:
        """Give each rollout the reward of its prompt's greedy completion, drawn and scored like the others.

        Where that one has none there is no baseline, and the rollouts of the prompt count as unscored.
        """
        drawn = self.sampler.generate(ids, replace(params, temperature=0.0))
        numbers = range(first_group, first_group + len(ids))
        greedy = self.scorer([self.prompts[i] for i in index], ids, [c for (c,) in drawn], numbers)
        found = list[Rollout]()
        for r in rollouts:
            best = greedy[r.group - first_group]
            facts = {
                "rollout/greedy_mean_tokens": float(len(best.completion.tokens)),
                "rollout/unscored_baseline_share": float(best.reward is None),
            }
            reward = None if best.reward is None else r.reward
            found.append(replace(r, reward=reward, baseline=best.reward, facts={**r.facts, **facts}))
        return found


def _rewards(group: Sequence[Rollout]) -> list[float]:
    return [r.reward for r in group if r.reward is not None]
