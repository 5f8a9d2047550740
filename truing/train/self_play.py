"""Batches of demonstrations, each beside completions that the policy samples for the same context (SPIN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from truing.rollout.sampler import Sampler, SamplingParams
from truing.train.batches import batch_of_pairs, padded
from truing.train.collect import Collected
from truing.train.order import Order, seed_of
from truing.types import Batch, Completion, Message, Pair, Prompt, Rollout, Row


@dataclass(slots=True)
class SelfPlay:
    """Pairs of a demonstration (chosen) and an own sample (rejected), `group_size` for each demonstration.

    Of a conversation the last trained turn is played: what stands before it is the context. A sample
    with the tokens of its demonstration teaches nothing; it is dropped and counted.
    """

    rows: Sequence[Row]
    order: Order
    sampler: Sampler
    params: SamplingParams
    decode: Callable[[Sequence[int]], str]
    batch_size: int  # demonstrations of a step
    group_size: int
    seed: int

    def __call__(self, step: int) -> Collected:
        """Return the pairs of the next `batch_size` demonstrations.

        A step in which every sample equals its demonstration gives a pair of which nothing is trained.
        """
        shown = [last_turn(self.rows[i]) for i in self.order.take(self.batch_size)]
        params = replace(self.params, seed=seed_of(self.seed, "self_play", step))
        drawn = self.sampler.generate(
            [row.prompt_tokens for row in shown], params, num_samples=self.group_size
        )
        played = [(row, c) for row, group in zip(shown, drawn, strict=True) for c in group]
        differ = [(row, c) for row, c in played if c.tokens != row.tokens]
        metrics = {
            "rollout/mean_tokens": sum(len(c.tokens) for _, c in played) / len(played),
            "rollout/truncated_share": sum(c.finish_reason == "length" for _, c in played) / len(played),
            "rollout/identical_share": 1 - len(differ) / len(played),
        }
        batch = _paired(differ or played[:1], trained=bool(differ))
        return Collected(batch, [self._rollout(i, *one) for i, one in enumerate(played)], metrics)

    def _rollout(self, number: int, row: Row, completion: Completion) -> Rollout:
        """Return what is shown of a sample; nothing scored it."""
        context = Message("user", self.decode(row.prompt_tokens))
        prompt = Prompt(row.uid, (context,), reference=self.decode(row.tokens))
        return Rollout(prompt, row.prompt_tokens, completion, number // self.group_size, {}, None)


def last_turn(row: Row) -> Row:
    """Return the row with its last run of trained tokens as the completion, and all before as the prompt."""
    stop = max(i for i, trained in enumerate(row.mask) if trained) + 1
    start = stop
    while start and row.mask[start - 1]:
        start -= 1
    return Row(
        uid=row.uid,
        prompt_tokens=row.prompt_tokens + row.tokens[:start],
        tokens=row.tokens[start:stop],
        mask=(True,) * (stop - start),
    )


def _paired(played: Sequence[tuple[Row, Completion]], *, trained: bool) -> Batch:
    pairs = [
        Pair(
            f"{row.uid}/{i}",
            chosen=replace(row, mask=(trained,) * len(row.tokens)),
            rejected=Row(row.uid, row.prompt_tokens, c.tokens, (trained,) * len(c.tokens)),
        )
        for i, (row, c) in enumerate(played)
    ]
    batch = batch_of_pairs(pairs)
    nothing = [[float("nan")] * len(row.tokens) for row, _ in played]
    logprobs = [*nothing, *(c.sampler_logprobs for _, c in played)]
    return replace(
        batch,
        by_opponent=torch.arange(len(batch)) < len(pairs),
        sampler_logprobs=padded(logprobs, dtype=torch.float32),
    )
