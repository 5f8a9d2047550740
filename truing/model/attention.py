"""Attention over a forest: every token attends to its ancestors and to what precedes it in its node.

Three exact kernels for one rule. `flash`: one call of the CPU flash kernel per node, for the node
and all its descendants at once, merged by log-sum-exp. `flex`: one FlexAttention call with a block
mask (CUDA). `nodes`: plain attention node by node, for sliding windows, soft caps and dropout on a
CPU, and the reference that the other two are tested against.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from truing.model.forest import Families, Forest, Node

_flash_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_BLOCK = 128  # FlexAttention's own default block of queries and of keys


def attend(
    query: Float[Tensor, "1 Hq T D"],
    key: Float[Tensor, "1 Hk T D"],
    value: Float[Tensor, "1 Hk T E"],
    forest: Forest,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    block_masks: dict[int | None, BlockMask] | None = None,
) -> Float[Tensor, "1 T Hq E"]:
    """Return softmax(cap(scale * q k) + mask) v over a forest by the fastest kernel that can.

    Args:
        query: Hq is a multiple of Hk; keys and values are never repeated.
        forest: who attends to whom.
        scale: multiplies the scores.
        window: a token sees this many positions, itself included; None for all.
        softcap: cap(x) = softcap * tanh(x / softcap); None for no cap.
        dropout: probability that a weight is dropped.
        block_masks: kept from layer to layer of one pass; by window.
    """
    if window is not None and window >= forest.max_length:
        window = None
    if dropout:
        return node_attention(query, key, value, forest, scale, window, softcap, dropout)
    if query.device.type != "cpu":
        block_masks = {} if block_masks is None else block_masks
        mask = block_masks[window] = block_masks.get(window) or block_mask(forest, window)
        return tree_flex_attention(query, key, value, mask, scale, softcap, compiled=True)
    same_width = query.shape[-1] == value.shape[-1]
    if window is None and softcap is None and same_width and query.dtype != torch.float16:
        return _TreeFlash.apply(query, key, value, scale, forest.families)
    return node_attention(query, key, value, forest, scale, window, softcap)


class _TreeFlash(torch.autograd.Function):
    """Per node, the node's keys against its own and all its descendants' queries, in one causal call.

    The kernel aligns its causal mask to the top left, so descendants, which follow the node, see
    all of its keys. A token's parts (one for each ancestor and its own node) are softmaxes over
    disjoint keys: they merge by their log-sum-exp, those of all siblings at once, as they lie side
    by side. In the backward pass every part takes the merged output and log-sum-exp, which makes
    its gradient that of the whole softmax.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, families: Families
    ) -> Tensor:
        queries, keys, values = _grouped(query, key, value)
        num_groups, repeats, num_tokens, width = queries.shape
        precise = torch.float64 if query.dtype == torch.float64 else torch.float32
        merged = torch.empty((num_tokens, num_groups, repeats, width), dtype=precise).permute(1, 2, 0, 3)
        log_total = torch.empty(num_groups, repeats, num_tokens, dtype=precise)
        parts, log_parts = torch.empty_like(merged), torch.empty_like(log_total)
        for siblings in families:
            is_first = siblings[0].parent is None
            output, log_output = (merged, log_total) if is_first else (parts, log_parts)
            for node in siblings:
                own, below = slice(node.start, node.end), slice(node.start, node.stop)
                output[:, :, below], log_output[:, :, below] = _flash_forward(
                    queries[:, :, below], keys[:, :, own], values[:, :, own], 0.0, True, scale=scale
                )
            if not is_first:
                below = slice(siblings[0].start, siblings[-1].stop)
                share = torch.sigmoid(log_parts[:, :, below] - log_total[:, :, below])
                merged[:, :, below].lerp_(parts[:, :, below], share.unsqueeze(-1))
                log_total[:, :, below] = torch.logaddexp(log_total[:, :, below], log_parts[:, :, below])
        merged = merged.to(query.dtype)
        ctx.save_for_backward(query, key, value, merged, log_total)
        ctx.scale, ctx.families = scale, families
        return merged.permute(2, 0, 1, 3).reshape(1, num_tokens, num_groups * repeats, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, log_total = ctx.saved_tensors
        # In float32: the kernel's bfloat16 backward is slower, and would round the parts before they meet.
        query, key, value, merged, grad = (x.to(log_total.dtype) for x in (*saved, grad))
        queries, keys, values = _grouped(query, key, value)
        num_groups, repeats, num_tokens, width = queries.shape
        grad = grad.reshape(num_tokens, num_groups, repeats, width).permute(1, 2, 0, 3)
        grad_queries = torch.empty_like(merged)
        grad_key, grad_value = torch.empty_like(key[0]), torch.empty_like(value[0])
        for node in chain.from_iterable(ctx.families):
            own, below = slice(node.start, node.end), slice(node.start, node.stop)
            for_queries, for_keys, for_values = _flash_backward(
                grad[:, :, below],
                queries[:, :, below],
                keys[:, :, own],
                values[:, :, own],
                merged[:, :, below],
                log_total[:, :, below],
                0.0,
                True,
                scale=ctx.scale,
            )
            if node.parent is None:
                grad_queries[:, :, below] = for_queries
            else:
                grad_queries[:, :, below] += for_queries
            grad_key[:, own], grad_value[:, own] = for_keys.sum(1), for_values.sum(1)
        gradients = (grad_queries.flatten(0, 1)[None], grad_key[None], grad_value[None])
        return *(g.to(saved[0].dtype) for g in gradients), None, None


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return views [Hk, Hq/Hk, T, D]: a key head beside each of the query heads it serves, not copied."""
    num_groups, repeats = key.shape[1], query.shape[1] // key.shape[1]
    shape = (num_groups, repeats, -1, -1)
    queries = query[0].unflatten(0, (num_groups, repeats))
    return queries, key[0].unsqueeze(1).expand(shape), value[0].unsqueeze(1).expand(shape)


def node_attention(
    query: Float[Tensor, "1 Hq T D"],
    key: Float[Tensor, "1 Hk T D"],
    value: Float[Tensor, "1 Hk T E"],
    forest: Forest,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "1 T Hq E"]:
    """Return attention node by node, each with the keys of its lineage that its window can see."""
    outputs = []
    for node in forest.nodes:
        first = 0 if window is None else max(0, node.position - window + 1)
        spans = [_span(ancestor, first) for ancestor in forest.lineage(node)]
        keys, values = (torch.cat([x[:, :, span] for span in spans], 2) for x in (key, value))
        mask = None if len(node) == 1 else _lineage_mask(node, first, window, query.device)
        queries = query[:, :, node.start : node.end]
        if softcap is None:
            part = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale, enable_gqa=True
            )
        else:
            part = _capped_attention(queries, keys, values, mask, scale, softcap, dropout)
        outputs.append(part)
    return torch.cat(outputs, 2).transpose(1, 2).contiguous()


def _span(node: Node, first: int) -> slice:
    """Return where the node's tokens lie whose position is at least `first`."""
    skipped = min(max(0, first - node.position), len(node))
    return slice(node.start + skipped, node.end)


def _lineage_mask(node: Node, first: int, window: int | None, device: torch.device) -> Tensor:
    """Return who sees whom: positions [node.position, end) against positions [first, end)."""
    end = node.position + len(node)
    distance = torch.arange(node.position, end, device=device)[:, None]
    distance = distance - torch.arange(first, end, device=device)
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float,
    dropout: float,
) -> Tensor:
    """Return attention with tanh-capped scores; the softmax is in float32, as in the families that cap."""
    num_groups = key.shape[1]
    queries = query.unflatten(1, (num_groups, -1))
    scores = queries @ key.unsqueeze(2).transpose(-1, -2) * scale
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    precise = torch.float64 if query.dtype == torch.float64 else torch.float32
    weights = F.dropout(scores.softmax(-1, dtype=precise).to(query.dtype), dropout)
    return (weights @ value.unsqueeze(2)).flatten(1, 2)


def block_mask(forest: Forest, window: int | None = None) -> BlockMask:
    """Return FlexAttention's mask of a forest, from the blocks' extremes; no [T, T] tensor is made."""
    stops, positions = forest.stops, forest.positions

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = (key <= query) & (query < stops[key])
        return visible if window is None else visible & (positions[query] - positions[key] < window)

    some, every = _block_relations(forest, window)
    partial_count, partial_index = _ordered(some & ~every)
    full_count, full_index = _ordered(every)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial_index,
        full_count,
        full_index,
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(forest.num_tokens, forest.num_tokens),
    )


def _block_relations(forest: Forest, window: int | None) -> tuple[Tensor, Tensor]:
    """Return, for each block of queries and of keys, whether some may see, and whether all must see."""
    num_tokens = forest.num_tokens
    num_blocks = -(-num_tokens // _BLOCK)
    low_stop, high_stop = _extremes(forest.stops)
    first = torch.arange(num_blocks, device=forest.stops.device) * _BLOCK
    last = (first + _BLOCK).clamp(max=num_tokens) - 1
    whole = first + _BLOCK <= num_tokens
    some = (first[None] <= last[:, None]) & (first[:, None] < high_stop[None])
    every = (last[None] <= first[:, None]) & (last[:, None] < low_stop[None]) & whole[:, None] & whole[None]
    if window is not None:
        low, high = _extremes(forest.positions)
        some &= low[:, None] - high[None] < window
        every &= high[:, None] - low[None] < window
    return some, every


def _extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return each block's least and greatest value; the last block may be short."""
    missing = -len(values) % _BLOCK
    blocks = torch.cat([values, values[-1:].expand(missing)]).view(-1, _BLOCK)
    return blocks.amin(1), blocks.amax(1)


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's number of True entries and their columns first, as BlockMask wants them."""
    count = blocks.sum(1, dtype=torch.int32)
    index = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return count[None, None], index[None, None]


def tree_flex_attention(
    query: Float[Tensor, "1 Hq T D"],
    key: Float[Tensor, "1 Hk T D"],
    value: Float[Tensor, "1 Hk T E"],
    mask: BlockMask,
    scale: float,
    softcap: float | None = None,
    *,
    compiled: bool,
) -> Float[Tensor, "1 T Hq E"]:
    """Return FlexAttention under a forest's block mask; uncompiled it is slow and dense, for tests."""

    def cap(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    kernel = _compiled_flex() if compiled else flex_attention
    score_mod = None if softcap is None else cap
    out = kernel(query, key, value, score_mod=score_mod, block_mask=mask, scale=scale, enable_gqa=True)
    return out.transpose(1, 2).contiguous()


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)
