"""How a model's attention layers reach the sampler's keys and values, and the arithmetic both passes share.

The model's own forward runs over packed tokens [1, T] with no cache object and no mask. Its attention
layers call `truing_decode`, which finds the state of the pass in a context variable: a `PromptPass`
while prompts are read, a `Grid` while rows grow. So nothing of a family's modelling code is repeated.

Axes: T packed tokens, L tokens of one prompt, Hq query heads, Hk key heads, D head width, E value width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from truing.errors import ModelError

NAME = "truing_decode"


@dataclass(frozen=True, slots=True)
class Ask:
    """What an attention layer asks for besides queries, keys and values."""

    scale: float
    window: int | None = None  # keys at most window - 1 positions back are seen
    softcap: float | None = None
    sinks: Float[Tensor, " Hq"] | None = None  # logits of a key that has no value


@runtime_checkable
class Pass(Protocol):
    """The state that attention finds in the context variable."""

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 Hq T D"],
        key: Float[Tensor, "1 Hk T D"],
        value: Float[Tensor, "1 Hk T E"],
        ask: Ask,
    ) -> Float[Tensor, "1 T Hq E"]:
        """Return the attention output of one layer and keep its keys and values."""
        ...


_current: ContextVar[Pass | None] = ContextVar("truing_decode_pass", default=None)


@contextmanager
def attending(state: Pass) -> Iterator[None]:
    """Let `truing_decode` attend with this state inside the context."""
    token = _current.set(state)
    try:
        yield
    finally:
        _current.reset(token)


def decode_attention(
    module: nn.Module,
    query: Float[Tensor, "1 Hq T D"],
    key: Float[Tensor, "1 Hk T D"],
    value: Float[Tensor, "1 Hk T E"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 T Hq E"], None]:
    """Attend with the state of the pass; called by every attention layer of the model.

    Raises:
        ModelError: there is no pass, or the layer wants what a decode grid does not have.
    """
    state = _current.get()
    if state is None:
        raise ModelError(f"attention '{NAME}' works only inside the embedded sampler")
    strange = [name for name in ("position_bias", "head_mask") if others.get(name) is not None]
    if strange or attention_mask is not None or others.get("is_causal") is False:
        raise ModelError(f"{type(module).__name__} uses {', '.join(strange) or 'a mask of its own'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return state.attend(module.layer_idx, query, key, value, Ask(scale, sliding_window, softcap, s_aux)), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, decode_attention)


def causal(
    query: Float[Tensor, "1 Hq L D"],
    key: Float[Tensor, "1 Hk L D"],
    value: Float[Tensor, "1 Hk L E"],
    ask: Ask,
) -> Float[Tensor, "1 Hq L E"]:
    """Return softmax(q k / sqrt(D)) v over earlier positions of one prompt, in the layer's own terms."""
    length = query.shape[2]
    windowed = ask.window is not None and ask.window < length
    if ask.softcap is None and ask.sinks is None and not windowed:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=ask.scale, enable_gqa=True
        )
    out = query.new_empty(*query.shape[:3], value.shape[3])
    at = torch.arange(length, device=query.device)
    grouped = query[0].unflatten(0, (key.shape[1], -1))  # [Hk, rep, L, D]
    for start in range(0, length, 512):  # blocks of queries bound the scores' memory
        end = min(start + 512, length)
        first = max(0, start - ask.window + 1) if ask.window is not None else 0
        gap = at[start:end, None] - at[first:end]
        seen = (gap >= 0) & (gap < (ask.window or length))
        scores = grouped[:, :, start:end].flatten(1, 2) @ key[0, :, first:end].mT
        mask = torch.zeros_like(gap, dtype=scores.dtype).masked_fill_(~seen, -torch.inf)
        probs = masked_softmax(
            scores.view(key.shape[1], -1, end - start, end - first), mask, ask, head_axes=(0, 1)
        )
        out[0, :, start:end] = (probs.flatten(1, 2) @ value[0, :, first:end]).view(
            -1, end - start, value.shape[3]
        )
    return out


def masked_softmax(scores: Tensor, mask: Tensor, ask: Ask, *, head_axes: tuple[int, int]) -> Tensor:
    """Return softmax(cap(scale * scores) + mask) over the last axis, with the sinks in its denominator.

    Args:
        scores: products of queries and keys; any axes, two of which are key head and query of that head.
        mask: 0 where a key is seen and -inf elsewhere; broadcast.
        ask: of the layer.
        head_axes: which axes of `scores` hold key heads and their queries.
    """
    if ask.softcap is not None:
        scores = torch.tanh(scores * (ask.scale / ask.softcap)) * ask.softcap + mask
    else:
        scores = torch.add(mask, scores, alpha=ask.scale)
    if ask.sinks is None:
        return scores.softmax(-1)
    shape = [1] * scores.ndim
    for axis in head_axes:
        shape[axis] = scores.shape[axis]
    sinks = ask.sinks.to(scores.dtype).view(shape).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1].contiguous()
