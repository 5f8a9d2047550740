"""Completions become scored rollouts: verdicts of every term, a reward model's scores, and their metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from truing.errors import VerifierError
from truing.math.scores import disagreement
from truing.rewards import RewardTerm, combine, judge_all
from truing.train.batches import batch_of_rollouts
from truing.types import Batch, Completion, Prompt, Rollout


class Score(Protocol):
    """Reward models: `truing.train.reward_models.RewardModels`."""

    def members(self, batch: Batch) -> torch.Tensor:
        """Return the score [M, B] that each of M models gives each row."""
        ...

    def combine(self, members: torch.Tensor) -> torch.Tensor:
        """Return the score [B] of each row."""
        ...


@dataclass(frozen=True, slots=True)
class Scorer:
    """What says how good completions are.

    Args:
        terms: verifiers with their weights; without any, every reward starts from 0.
        score: reward models, whose score of a completion is added to the terms' sum.
    """

    terms: Sequence[RewardTerm]
    score: Score | None = None

    def __call__(
        self,
        prompts: Sequence[Prompt],
        prompt_tokens: Sequence[tuple[int, ...]],
        completions: Sequence[Completion],
        groups: Sequence[int],
    ) -> list[Rollout]:
        """Return one rollout a completion; its reward is None where a term could not be scored."""
        weights = {t.name: t.weight for t in self.terms}
        verdicts = judge_all(self.terms, prompts, completions)
        rollouts = [
            Rollout(prompt, tuple(ids), completion, group, said, combine(said, weights))
            for prompt, ids, completion, group, said in zip(
                prompts, prompt_tokens, completions, groups, verdicts, strict=True
            )
        ]
        return self._add_scores(rollouts)

    def _add_scores(self, rollouts: list[Rollout]) -> list[Rollout]:
        scored = [i for i, r in enumerate(rollouts) if r.reward is not None]
        if self.score is None or not scored:
            return rollouts
        members = self.score.members(batch_of_rollouts([rollouts[i] for i in scored]))
        scores, spread = self.score.combine(members).tolist(), disagreement(members).tolist()
        for i, score, std in zip(scored, scores, spread, strict=True):
            base, facts = rollouts[i].reward, rollouts[i].facts
            assert base is not None
            if len(members) > 1:
                facts = {**facts, "reward/member_std": std}
            rollouts[i] = replace(rollouts[i], reward=base + score, facts=facts)
        return rollouts


def require_scored(step: int, rollouts: Sequence[Rollout]) -> None:
    """Raise when no rollout has a reward.

    Raises:
        VerifierError: there is nothing to learn from; the message counts the statuses.
    """
    if not any(r.reward is not None for r in rollouts):
        raise VerifierError(f"step {step}: none of {len(rollouts)} rollouts was scored: {_why(rollouts)}")


def _why(rollouts: Sequence[Rollout]) -> str:
    found = [(n, v.status, v.evidence) for r in rollouts for n, v in r.verdicts.items() if v.value is None]
    counts = Counter((name, status) for name, status, _ in found)
    first = f"; the first says: {found[0][2]}" if found else ""
    return ", ".join(f"{name}: {status} x{num}" for (name, status), num in counts.items()) + first


def _mean(values: Sequence[int | float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def rollout_metrics(rollouts: Sequence[Rollout], max_tokens: int) -> dict[str, float]:
    """Return rewards, lengths and shares of a step's rollouts, by metric name."""
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
    for name in dict.fromkeys(name for r in rollouts for name in r.facts):
        out[name] = _mean([r.facts[name] for r in rollouts if name in r.facts])
    for name in rollouts[0].verdicts:
        values: list[Any] = [r.verdicts[name].value for r in rollouts]
        out[f"reward/{name}_mean"] = _mean([v for v in values if v is not None])
    return out
