"""Completions become scored rollouts: verdicts of every term, a reward model's scores, and their metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Protocol

import torch

from truing.errors import VerifierError
from truing.math.scores import disagreement
from truing.rewards import SCORES, AnyTerm, BatchTerm, JudgeTerm, RewardTerm, ScoreTerm, compose, judge_all
from truing.terms import Written
from truing.train.batches import batch_of_rollouts
from truing.types import Batch, Completion, Prompt, Rollout, Verdict


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
        terms: of the reward, see `truing.rewards`; without any, every reward is 0.
        score: reward models, whose score is the term `reward_model`.
    """

    terms: Sequence[AnyTerm]
    score: Score | None = None

    def __call__(
        self,
        prompts: Sequence[Prompt],
        prompt_tokens: Sequence[tuple[int, ...]],
        completions: Sequence[Completion],
        groups: Sequence[int],
    ) -> list[Rollout]:
        """Return one rollout a completion; its reward is None where a term could not be scored."""
        said = judge_all([t for t in self.terms if isinstance(t, RewardTerm)], prompts, completions)
        rollouts = [
            Rollout(prompt, tuple(ids), completion, group, verdicts, _provisional(verdicts))
            for prompt, ids, completion, group, verdicts in zip(
                prompts, prompt_tokens, completions, groups, said, strict=True
            )
        ]
        rollouts = self._measured(self._scored(self._judged(rollouts)))
        composed = compose(self._terms(), [r.verdicts for r in rollouts], groups)
        return [
            replace(r, reward=c.reward, facts={**r.facts, **c.facts})
            for r, c in zip(rollouts, composed, strict=True)
        ]

    def _terms(self) -> list[AnyTerm]:
        listed = any(isinstance(t, ScoreTerm) for t in self.terms)
        return [*self.terms] if listed or self.score is None else [*self.terms, ScoreTerm()]

    def _judged(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Return the rollouts with what judges say of those that are scored so far."""
        for term in self.terms:
            if isinstance(term, JudgeTerm):
                asked = [i for i, r in enumerate(rollouts) if r.reward is not None]
                said = term.verdicts(
                    [rollouts[i].prompt for i in asked], [rollouts[i].completion for i in asked]
                )
                for i, verdict in zip(asked, said, strict=True):
                    rollouts[i] = _said(rollouts[i], term.name, verdict)
        return rollouts

    def _scored(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Return the rollouts with the reward models' verdict on those that verifiers could score."""
        scored = [i for i, r in enumerate(rollouts) if r.reward is not None]
        if self.score is None or not scored:
            return rollouts
        members = self.score.members(batch_of_rollouts([rollouts[i] for i in scored]))
        scores, spread = self.score.combine(members).tolist(), disagreement(members).tolist()
        for i, score, std in zip(scored, scores, spread, strict=True):
            facts = {"reward/member_std": std} if len(members) > 1 else {}
            verdict = Verdict("scored", score) if isfinite(score) else Verdict("failed", evidence=str(score))
            rollouts[i] = _said(rollouts[i], SCORES, verdict, facts)
        return rollouts

    def _measured(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Return the rollouts with what batch terms measure of those that are scored so far."""
        for term in self.terms:
            if isinstance(term, BatchTerm):
                scored = [i for i, r in enumerate(rollouts) if r.reward is not None]
                written = [_written(rollouts[i]) for i in scored]
                values = term.measure(written, term.config) if scored else []
                for i, value in zip(scored, values, strict=True):
                    verdict = value if isinstance(value, Verdict) else Verdict("scored", value)
                    rollouts[i] = _said(rollouts[i], term.name, verdict)
        return rollouts


def _provisional(verdicts: Mapping[str, Verdict]) -> float | None:
    """Return 0 while nothing stands against a reward, and None for a completion that will have none."""
    return None if any(v.value is None for v in verdicts.values()) else 0.0


def _said(rollout: Rollout, name: str, verdict: Verdict, facts: Mapping[str, float] | None = None) -> Rollout:
    verdicts = {**rollout.verdicts, name: verdict}
    return replace(
        rollout, verdicts=verdicts, reward=_provisional(verdicts), facts={**rollout.facts, **(facts or {})}
    )


def _written(rollout: Rollout) -> Written:
    values = {name: v.value for name, v in rollout.verdicts.items() if v.value is not None}
    return Written(rollout.completion, rollout.group, values, rollout.prompt)


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
    for name in dict.fromkeys(name for r in rollouts for name in r.verdicts):
        said = [r.verdicts[name].value for r in rollouts if name in r.verdicts]
        out[f"reward/{name}_mean"] = _mean([v for v in said if v is not None])
    return out
