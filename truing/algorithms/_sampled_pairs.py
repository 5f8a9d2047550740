"""What the methods share that compare their own samples: which rows meet, and how often one beats another.

A pair is made in `credit`, before any split. Ties are ties: a group in which no two scored completions
differ gives no pair, and its share is counted. A completion without a score (reward NaN) enters nothing.
A batch without any pair becomes one pair of which nothing is trained, so that the step makes no update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truing.math.ratios import log_ratio
from truing.types import Batch, Outputs, Term

Preference = Literal["bradley_terry", "wins"]
Places = tuple[list[int], list[int]]  # row numbers of the chosen and of the rejected sides, pair by pair


def penalised_rewards(batch: Batch, *, missing_eos_penalty: float) -> Float[Tensor, " B"]:
    """Return the rewards, less the penalty where the length limit ended the completion."""
    rewards = batch.require("rewards")
    if not missing_eos_penalty:
        return rewards
    return rewards - missing_eos_penalty * batch.require("truncated").to(rewards.dtype)


def scored_groups(batch: Batch) -> list[list[int]]:
    """Return the row numbers of each group, without the rows that could not be scored."""
    missing = batch.require("rewards").isnan().tolist()
    return [[row for row in group if not missing[row]] for group in batch.units()]


def best_and_worst(
    rewards: Float[Tensor, " B"],
    groups: Sequence[Sequence[int]],
    *,
    tie_margin: float = 0.0,
    first_wins: bool = False,
) -> Places:
    """Return, for each group, its completion of highest and of lowest reward.

    Args:
        rewards: one a row.
        groups: row numbers, scored rows only.
        tie_margin: best and worst no further apart than this are a tie [reward units].
        first_wins: a tie makes the group's first completion the chosen one and its last the rejected
            one, as TRL does, where otherwise it gives no pair.
    """
    values, chosen, rejected = rewards.tolist(), list[int](), list[int]()
    for group in groups:
        if len(group) < 2:
            continue
        best, worst = max(group, key=values.__getitem__), min(group, key=values.__getitem__)
        if values[best] - values[worst] <= tie_margin:
            if not first_wins:
                continue
            best, worst = group[0], group[-1]
        chosen.append(best)
        rejected.append(worst)
    return chosen, rejected


def own_and_opponent(
    rewards: Float[Tensor, " B"], groups: Sequence[Sequence[int]], by_opponent: Bool[Tensor, " B"]
) -> Places:
    """Return pairs of the policy's i-th completion with the opponent's i-th, the better one as chosen."""
    values, theirs, chosen, rejected = rewards.tolist(), by_opponent.tolist(), list[int](), list[int]()
    for group in groups:
        own, other = [r for r in group if not theirs[r]], [r for r in group if theirs[r]]
        for pair in zip(own, other, strict=False):  # a completion whose opponent has no score stays alone
            if values[pair[0]] != values[pair[1]]:
                chosen.append(max(pair, key=values.__getitem__))
                rejected.append(min(pair, key=values.__getitem__))
    return chosen, rejected


def neighbours(rewards: Float[Tensor, " B"], groups: Sequence[Sequence[int]]) -> Places:
    """Return each group's first completion with its second, its third with its fourth, and so on.

    The better one of two is the chosen one. Ties stay: their difference of 0 is a target like any other.
    """
    values, chosen, rejected = rewards.tolist(), list[int](), list[int]()
    for group in groups:
        for pair in zip(group[::2], group[1::2], strict=False):
            chosen.append(max(pair, key=values.__getitem__))
            rejected.append(pair[0] if chosen[-1] == pair[1] else pair[1])
    return chosen, rejected


def paired(batch: Batch, places: Places, rewards: Float[Tensor, " B"]) -> Batch:
    """Return the batch of these pairs: N chosen rows, then N rejected ones, with margins and labels.

    Without any pair it is one pair with nothing to train, so that a step of nothing but ties is possible.
    """
    chosen, rejected = places
    num_groups = len(batch.units())
    kept = len(set(batch.groups[torch.tensor(chosen, dtype=torch.long)].tolist()))
    index = torch.tensor([*chosen, *rejected] or [0, 0])
    found, rewards, num_pairs = batch.rows(index), rewards[index].nan_to_num(nan=0.0), len(index) // 2
    return replace(
        found if chosen else untrained(found),
        groups=torch.arange(num_pairs).repeat(2),
        paired=True,
        margins=(rewards[:num_pairs] - rewards[num_pairs:]).repeat(2),
        labels=torch.ones_like(rewards),
        kept_share=torch.full_like(rewards, kept / num_groups),
    )


def selected(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return the batch of these rows with the share of groups kept; without rows, one that trains nothing."""
    num_groups = len(batch.units())
    found = batch.rows(torch.tensor(list(rows) or [0]))
    found = found if rows else untrained(found)
    kept = len(set(found.groups.tolist())) if rows else 0
    return replace(found, kept_share=torch.full((len(found),), kept / num_groups))


def untrained(batch: Batch) -> Batch:
    """Return the batch with no token to train."""
    return replace(batch, mask=torch.zeros_like(batch.mask))


def win_probabilities(
    rewards: Float[Tensor, " B"],
    groups: Sequence[Sequence[int]],
    rivals: Bool[Tensor, " B"],
    *,
    preference: Preference,
) -> Float[Tensor, " B"]:
    """Return the mean, over the rivals in its group, of P(the row beats the rival); NaN without a rival.

    Args:
        rewards: one a row.
        groups: row numbers, scored rows only.
        rivals: True on the rows that the others are compared with; no row is its own rival.
        preference: "bradley_terry" is sigmoid(r_i - r_j); "wins" is 1, 1/2 for a tie, or 0.
    """
    found = torch.full_like(rewards, torch.nan)
    for group in groups:
        rows = torch.tensor(list(group), dtype=torch.long)
        met = rivals[rows][None] & ~torch.eye(len(rows), dtype=torch.bool)
        gap = rewards[rows][:, None] - rewards[rows][None]
        wins = gap.sigmoid() if preference == "bradley_terry" else (gap.sign() + 1) / 2
        found[rows] = (wins * met).sum(1) / met.sum(1)
    return found


def round_log_ratios(outputs: Outputs, batch: Batch) -> Float[Tensor, " B"]:
    """Return log pi(y|x) - log pi_old(y|x), summed over trained tokens [nats].

    pi_old is the policy that began the batch: the reference of methods that work in rounds.
    """
    logprobs, old = outputs.require("logprobs"), batch.require("old_logprobs")
    return log_ratio(logprobs, old, batch.mask).sum(-1)


def sampling_metrics(outputs: Outputs, batch: Batch) -> list[Term]:
    """Return the share of groups that are trained, and how far sampler and learner disagree.

    The gap is a mean over the policy's own completions; what an opponent or a person wrote has none.
    In a paired batch with an opponent, every pair has exactly one side of the policy's own.
    """
    terms = list[Term]()
    if batch.kept_share is not None:
        terms.append(Term("rollout/trained_group_share", batch.kept_share.sum(), "sequence", 0.0))
    if batch.sampler_logprobs is None:
        return terms
    old = outputs.require("logprobs").detach() if batch.old_logprobs is None else batch.old_logprobs
    own = batch.mask if batch.by_opponent is None else batch.mask & ~batch.by_opponent[:, None]
    gap = log_ratio(old, batch.sampler_logprobs, own)
    mean = gap.abs().sum(-1) / own.sum(-1).clamp(min=1)
    one_side = batch.paired and batch.by_opponent is not None
    return [*terms, Term("mismatch/logprob_gap_mean", mean.sum(), "pair" if one_side else "sequence", 0.0)]
