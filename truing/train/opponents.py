"""Batches in which another policy draws half of each group: the reference, or its mixture with the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from truing import plugins
from truing.errors import ConfigError
from truing.model.load import Loaded, load_model
from truing.rollout._mixture import MixtureSampler
from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.batches import batch_of_rollouts
from truing.train.collect import Collected
from truing.train.order import Order, seed_of
from truing.train.scoring import Scorer, require_scored, rollout_metrics
from truing.types import Completion, Prompt, Rollout


@dataclass(slots=True)
class Fixed:
    """A sampler whose weights stay what they were: the reference."""

    sampler: Sampler

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        """Return the sampler's completions."""
        return self.sampler.generate(prompts, params, num_samples=num_samples)

    def publish(self, version: int) -> None:
        """Keep the weights: the reference does not follow the policy."""


@dataclass(slots=True)
class Opposed:
    """Groups whose first half is the policy's and whose second half is an opponent's, all scored alike.

    A group of odd size has one more of the policy's. The rollouts' metrics are of the policy's own.
    """

    prompts: Sequence[Prompt]
    prompt_tokens: Sequence[tuple[int, ...]]
    order: Order
    sampler: Sampler
    opponent: Sampler
    params: SamplingParams
    scorer: Scorer
    batch_size: int  # prompts of a step
    group_size: int
    seed: int

    def __call__(self, step: int) -> Collected:
        """Return the rollouts of `batch_size` prompts; batch.by_opponent tells who drew which.

        Raises:
            VerifierError: no rollout could be scored, so there is nothing to learn from.
        """
        index = self.order.take(self.batch_size)
        ids = [self.prompt_tokens[i] for i in index]
        num_theirs = self.group_size // 2
        own = self._drawn(self.sampler, "rollout", step, ids, self.group_size - num_theirs)
        self.opponent.publish(step)  # a mixture takes the policy as it is now
        theirs = self._drawn(self.opponent, "opponent", step, ids, num_theirs)
        places = [place for place in range(len(index)) for _ in range(self.group_size)]
        rollouts = self.scorer(
            [self.prompts[index[place]] for place in places],
            [ids[place] for place in places],
            [c for pair in zip(own, theirs, strict=True) for side in pair for c in side],
            places,
        )
        require_scored(step, rollouts)
        sides = [i % self.group_size >= self.group_size - num_theirs for i in range(len(rollouts))]
        return self._collected(rollouts, sides)

    def _drawn(
        self, sampler: Sampler, who: str, step: int, ids: Sequence[tuple[int, ...]], count: int
    ) -> list[list[Completion]]:
        params = replace(self.params, seed=seed_of(self.seed, who, step))
        return sampler.generate(ids, params, num_samples=count)

    def _collected(self, rollouts: Sequence[Rollout], by_opponent: Sequence[bool]) -> Collected:
        both = list(zip(rollouts, by_opponent, strict=True))
        metrics = rollout_metrics([r for r, theirs in both if not theirs], self.params.max_tokens)
        rewards = [r.reward for r, theirs in both if theirs and r.reward is not None]
        if rewards:
            metrics["reward/opponent_mean"] = sum(rewards) / len(rewards)
        flags = torch.tensor([theirs for r, theirs in both if r.reward is not None])
        batch = replace(batch_of_rollouts(rollouts), by_opponent=flags)
        return Collected(batch, [r for r, theirs in both if not theirs], metrics)


def make_opponent(
    kind: Literal["reference", "mixture"],
    policy: nn.Module,
    *,
    reference: str,
    start: Loaded,
    engine: str,
    dtype: torch.dtype,
    share: float = 1.0,
) -> Sampler:
    """Return what draws the opponent's half; call it before any update and before a checkpoint is loaded.

    It holds its own copy of the reference's weights in `dtype`, and a mixture one more of the policy's.

    Args:
        kind: the reference itself, or its geometric mixture with the policy.
        policy: the model about to be trained.
        reference: "copy" or "base", which both are the policy as it is now, or another model's name.
        start: where the policy came from; its tokenizer turns tokens into text.
        engine: module of truing/rollout/ that samples from the reference.
        dtype: of compute.
        share: of the reference in the mixture.

    Raises:
        ConfigError: a mixture is asked of an engine that gives no logits.
    """
    fixed = policy
    if reference not in ("copy", "base"):
        fixed = load_model(reference, dtype=dtype, device=next(policy.parameters()).device).model
    if kind == "mixture":
        if engine != "hf":
            raise ConfigError(
                f"sampler.engine: a mixture needs the logits of both policies, which '{engine}' does not "
                "give; use 'hf'"
            )
        return MixtureSampler(policy, fixed, start.tokenizer, share=share, dtype=dtype)
    made: Sampler = plugins.load("rollout", engine).SAMPLER(fixed, start.tokenizer, dtype=dtype)
    return Fixed(made)
