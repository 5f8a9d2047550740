"""Where a step's batch comes from: rows of a data set, or rollouts scored by verifiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch

from truing.errors import VerifierError
from truing.rewards import RewardTerm, combine, judge_all
from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.batches import batch_of_pairs, batch_of_rollouts, batch_of_rows
from truing.train.order import Order, seed_of
from truing.types import Batch, Pair, Prompt, Rollout, Row

Score = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Collected:
    """A batch, the rollouts behind it when it is online, and what collecting it showed."""

    batch: Batch
    rollouts: Sequence[Rollout] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Collector(Protocol):
    """What gives a step its batch."""

    order: Order

    def __call__(self, step: int) -> Collected:
        """Return the batch of this step."""
        ...


class Offline:
    """Batches of demonstrations or of pairs, `batch_size` at a time."""

    def __init__(self, rows: Sequence[Row] | Sequence[Pair], order: Order, batch_size: int) -> None:
        """Draw from these rows in this order."""
        self.order, self._rows, self._batch_size = order, rows, batch_size

    def __call__(self, step: int) -> Collected:
        """Return the next `batch_size` rows or pairs."""
        return Collected(self._batch(self.order.take(self._batch_size)))

    def every_row(self) -> Batch:
        """Return all rows or pairs as one batch: what a cached reference covers."""
        return self._batch(range(len(self._rows)))

    def _batch(self, index: Iterable[int]) -> Batch:
        picked = [self._rows[i] for i in index]
        pairs = [p for p in picked if isinstance(p, Pair)]
        return batch_of_pairs(pairs) if pairs else batch_of_rows([r for r in picked if isinstance(r, Row)])


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
    terms: Sequence[RewardTerm]
    batch_size: int  # prompts of a step
    group_size: int
    seed: int
    score: Score | None = None  # a reward model's score of each row
    max_resamples: int = 0  # 0: no dynamic sampling

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
            groups += [g for g in fresh if not self.max_resamples or _has_signal(g)]
            if len(groups) == self.batch_size:
                break
        rollouts = [r for g in groups for r in g] or every
        if not any(r.reward is not None for r in rollouts):
            raise VerifierError(f"step {step}: none of {len(rollouts)} rollouts was scored: {_why(rollouts)}")
        metrics = _metrics(every, self.params.max_tokens)
        metrics["rollout/kept_group_share"] = len(groups) / drawn
        return Collected(batch_of_rollouts(rollouts), every, metrics)

    def _groups(self, step: int, attempt: int, count: int, first_group: int) -> list[list[Rollout]]:
        index = self.order.take(count)
        params = replace(self.params, seed=seed_of(self.seed, "rollout", step, attempt))
        ids = [self.prompt_tokens[i] for i in index]
        completions = self.sampler.generate(ids, params, num_samples=self.group_size)
        prompts = [self.prompts[i] for i in index for _ in range(self.group_size)]
        flat = [c for group in completions for c in group]
        verdicts = judge_all(self.terms, prompts, flat)
        weights = {t.name: t.weight for t in self.terms}
        rollouts = list[Rollout]()
        for i, (prompt, completion, said) in enumerate(zip(prompts, flat, verdicts, strict=True)):
            place = i // self.group_size
            reward = combine(said, weights)
            rollouts.append(Rollout(prompt, tuple(ids[place]), completion, first_group + place, said, reward))
        rollouts = self._add_scores(rollouts)
        return [rollouts[i : i + self.group_size] for i in range(0, len(rollouts), self.group_size)]

    def _add_scores(self, rollouts: list[Rollout]) -> list[Rollout]:
        scored = [i for i, r in enumerate(rollouts) if r.reward is not None]
        if self.score is None or not scored:
            return rollouts
        scores = self.score(batch_of_rollouts([rollouts[i] for i in scored])).tolist()
        for i, score in zip(scored, scores, strict=True):
            base = rollouts[i].reward
            assert base is not None
            rollouts[i] = replace(rollouts[i], reward=base + score)
        return rollouts


def _has_signal(group: Sequence[Rollout]) -> bool:
    return len({r.reward for r in group if r.reward is not None}) > 1


def _why(rollouts: Sequence[Rollout]) -> str:
    found = [(n, v.status, v.evidence) for r in rollouts for n, v in r.verdicts.items() if v.value is None]
    counts = Counter((name, status) for name, status, _ in found)
    first = f"; the first says: {found[0][2]}" if found else ""
    return ", ".join(f"{name}: {status} x{num}" for (name, status), num in counts.items()) + first


def _mean(values: Sequence[int | float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _metrics(rollouts: Sequence[Rollout], max_tokens: int) -> dict[str, float]:
    rewards = [r.reward for r in rollouts if r.reward is not None]
    mean = _mean(rewards)
    groups: dict[int, set[float]] = {}
    for r in rollouts:
        if r.reward is not None:
            groups.setdefault(r.group, set()).add(r.reward)
    out = {
        "reward/mean": mean,
        "reward/std": _mean([(x - mean) ** 2 for x in rewards]) ** 0.5,
        "reward/dead_group_share": _mean([float(len(s) == 1) for s in groups.values()]),
        "rollout/mean_tokens": _mean([len(r.completion.tokens) for r in rollouts]),
        "rollout/truncated_share": _mean([float(r.completion.finish_reason == "length") for r in rollouts]),
        "rollout/unscored_share": 1 - len(rewards) / len(rollouts),
    }
    for name in rollouts[0].verdicts:
        values: list[Any] = [r.verdicts[name].value for r in rollouts]
        out[f"reward/{name}_mean"] = _mean([v for v in values if v is not None])
    return out
