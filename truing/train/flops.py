"""How much arithmetic a step costs, estimated: what runs of different methods are compared by.

Of every token a network reads, each weight costs 2 floating-point operations forward and, where it
trains, 4 backward (2 where it is frozen inside an adapted network): Kaplan et al. 2020, arXiv:2001.08361,
section 2.1. A prefix that rows share is read once, as the forest does. Attention's own products,
recomputation under activation checkpointing and evaluations are left out; a reward model counts as a
network of the policy's size, and a cached reference as if it were computed anew once, in step 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from truing.types import Batch, Rollout


def forward_flops(network: nn.Module) -> float:
    """Return the operations a token costs forward: 2 for each weight, look-ups of embeddings aside."""
    return 2.0 * sum(p.numel() for p in _weights(network))


def update_flops(network: nn.Module) -> float:
    """Return the operations a token costs with its gradient: 6 for a trained weight, 4 for a frozen one."""
    return sum((6.0 if p.requires_grad else 4.0) * p.numel() for p in _weights(network))


def packed_tokens(batch: Batch) -> int:
    """Return the tokens that one pass over the batch reads: a prompt that a group shares counts once."""
    prompts = {(g, tuple(p.tolist())) for g, p in zip(batch.groups.tolist(), batch.prompts, strict=True)}
    return sum(len(p) for _, p in prompts) + int(batch.lengths.sum())


def sampled_tokens(rollouts: Sequence[Rollout]) -> int:
    """Return the tokens that the sampler read and drew: each prompt once for its group."""
    prompts = {(r.group, r.prompt_tokens) for r in rollouts}
    return sum(len(p) for _, p in prompts) + drawn_tokens(rollouts)


def drawn_tokens(rollouts: Sequence[Rollout]) -> int:
    """Return the completion tokens that the sampler drew, those that are not trained included."""
    return sum(len(r.completion.tokens) for r in rollouts)


def step_flops(
    networks: Mapping[str, nn.Module],
    batch: Batch,
    rollouts: Sequence[Rollout] = (),
    *,
    num_epochs: int = 1,
    live_reference: bool = True,
    reward_model: bool = False,
) -> float:
    """Return the operations of one step: sampling, scoring, annotation and updates.

    Args:
        networks: what trains, by name: policy, critic, scorer.
        batch: as the loss saw it: what annotation filled tells what it cost.
        rollouts: everything that was sampled for the step.
        num_epochs: passes over the batch.
        live_reference: ref_logprobs come from a forward pass, not from a cache.
        reward_model: the rollouts were scored by a reward model.
    """
    main = forward_flops(networks["policy"] if "policy" in networks else next(iter(networks.values())))
    packed, sampled = packed_tokens(batch), sampled_tokens(rollouts)
    annotated = (batch.old_logprobs is not None) + (live_reference and batch.ref_logprobs is not None)
    total = packed * main * annotated + sampled * main * (1 + reward_model)
    if batch.old_values is not None and "critic" in networks:
        total += packed * forward_flops(networks["critic"])
    return total + num_epochs * packed * sum(update_flops(n) for n in networks.values())


def _weights(network: nn.Module) -> Iterable[nn.Parameter]:
    """Yield the weights that are multiplied: all but embeddings that are only looked up."""
    looked_up = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    multiplied = {id(m.weight) for m in network.modules() if isinstance(m, nn.Linear)}
    return (p for p in network.parameters() if id(p) not in looked_up - multiplied)
