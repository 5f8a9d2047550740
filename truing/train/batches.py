"""Rows, pairs and rollouts become a Batch: ragged prompts, right-padded completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from truing.errors import DataError
from truing.types import Batch, Pair, Ranking, Rollout, Row

Record = Row | Pair | Ranking


def padded(
    rows: Sequence[Sequence[int | float]], *, dtype: torch.dtype, fill: float = 0.0
) -> Shaped[Tensor, "B C"]:
    """Return the rows as one tensor [B, C], padded on the right with `fill`."""
    width = max((len(r) for r in rows), default=0)
    out = torch.full((len(rows), width), fill, dtype=dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=dtype)
    return out


def batch_of(records: Sequence[Record]) -> Batch:
    """Return the batch of records of one kind."""
    pairs = [r for r in records if isinstance(r, Pair)]
    rankings = [r for r in records if isinstance(r, Ranking)]
    rows = [r for r in records if isinstance(r, Row)]
    if len(records) not in (len(pairs), len(rankings), len(rows)):
        raise DataError("rows, pairs and rankings do not mix in one batch")
    if pairs:
        return batch_of_pairs(pairs)
    return batch_of_rankings(rankings) if rankings else batch_of_rows(rows)


def batch_of_rows(rows: Sequence[Row]) -> Batch:
    """Return the batch of rows, each a group of its own; with labels where every row has them.

    Raises:
        DataError: some rows are labelled and some are not.
    """
    for name in ("label", "step_labels"):
        given = sum(getattr(r, name) is not None for r in rows)
        if given not in (0, len(rows)):
            raise DataError(f"{given} of {len(rows)} rows have a {name}; all or none must")
    labels = [r.label for r in rows if r.label is not None]
    steps = [r.step_labels for r in rows if r.step_labels is not None]
    return Batch(
        prompts=tuple(torch.tensor(r.prompt_tokens, dtype=torch.long) for r in rows),
        completions=padded([r.tokens for r in rows], dtype=torch.long),
        lengths=torch.tensor([len(r.tokens) for r in rows]),
        mask=padded([r.mask for r in rows], dtype=torch.bool),
        groups=torch.arange(len(rows)),
        uids=tuple(r.uid for r in rows),
        labels=torch.tensor(labels, dtype=torch.float32) if labels else None,
        step_labels=padded(steps, dtype=torch.float32, fill=float("nan")) if steps else None,
    )


def batch_of_pairs(pairs: Sequence[Pair]) -> Batch:
    """Return a paired batch: N chosen rows, then the N rejected rows of the same pairs."""
    batch = batch_of_rows([p.chosen for p in pairs] + [p.rejected for p in pairs])
    return replace(
        batch,
        groups=torch.arange(len(pairs)).repeat(2),
        paired=True,
        uids=tuple(f"{p.uid}/chosen" for p in pairs) + tuple(f"{p.uid}/rejected" for p in pairs),
        margins=torch.tensor([p.margin for p in pairs] * 2),
        labels=torch.tensor([p.preference for p in pairs] * 2),
    )


def batch_of_rankings(rankings: Sequence[Ranking]) -> Batch:
    """Return the batch of all completions of the rankings; a ranking is a group."""
    batch = batch_of_rows([row for r in rankings for row in r.rows])
    return replace(
        batch,
        groups=torch.tensor([i for i, r in enumerate(rankings) for _ in r.rows]),
        uids=tuple(f"{r.uid}/{k}" for r in rankings for k in range(len(r.rows))),
        ranks=torch.tensor([rank for r in rankings for rank in r.ranks]),
    )


def batch_of_rollouts(rollouts: Sequence[Rollout]) -> Batch:
    """Return the batch of the rollouts that have a reward; the others are the caller's to count."""
    kept = [r for r in rollouts if r.reward is not None]
    tokens = [r.completion.tokens for r in kept]
    batch = _whole_completions(kept, tokens)
    baselines = [r.baseline for r in kept if r.baseline is not None]
    if baselines:
        batch = replace(batch, baselines=torch.tensor(baselines, dtype=torch.float32))
    return _with_turns(batch, kept) if any(r.turns for r in kept) else batch


def _whole_completions(kept: Sequence[Rollout], tokens: Sequence[Sequence[int]]) -> Batch:
    return Batch(
        prompts=tuple(torch.tensor(r.prompt_tokens, dtype=torch.long) for r in kept),
        completions=padded(tokens, dtype=torch.long),
        lengths=torch.tensor([len(t) for t in tokens]),
        mask=padded([[True] * len(t) for t in tokens], dtype=torch.bool),
        groups=torch.tensor([r.group for r in kept]),
        uids=tuple(f"{r.prompt.uid}/{i}" for i, r in enumerate(kept)),
        truncated=torch.tensor([r.completion.finish_reason == "length" for r in kept]),
        rewards=torch.tensor([r.reward for r in kept], dtype=torch.float32),
        sampler_logprobs=padded([r.completion.sampler_logprobs for r in kept], dtype=torch.float32),
    )


def _with_turns(batch: Batch, rollouts: Sequence[Rollout]) -> Batch:
    """Return the batch with only the assistant's turns trained, each token's turn and each turn's reward."""
    turns = torch.full_like(batch.completions, -1)
    rewards = torch.full(batch.completions.shape, float("nan"))
    for row, rollout in enumerate(rollouts):
        for number, turn in enumerate(rollout.turns):
            turns[row, turn.start : turn.stop] = number
            if turn.reward is not None:
                rewards[row, turn.stop - 1] = turn.reward
    return replace(batch, mask=turns >= 0, turns=turns, turn_rewards=rewards)
