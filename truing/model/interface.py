"""The forest inside transformers: for one forward pass a model attends by the forest, then as before.

The forest travels in a context variable, not through the model's keyword arguments, so families
differ in nothing here and threads do not meet. Activation checkpointing runs layers again during
the backward pass, long after the forward pass has put the attention implementation back; its
context function puts forest and implementation in place for each layer that is run again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface

from truing.errors import ModelError
from truing.model.attention import attend, node_attention
from truing.model.forest import Forest
from truing.model.fused import fused

NAME = "truing_forest"


@dataclass(slots=True)
class ForestPass:
    """One forward pass over a forest, and what the model's attention asked for on the way.

    Args:
        forest: who attends to whom.
        plain: use the plain kernel, node by node.
    """

    forest: Forest
    plain: bool = False
    block_masks: dict[int | None, BlockMask] = field(default_factory=dict)
    num_calls: int = 0
    windows: set[int | None] = field(default_factory=set)  # that attention layers were told
    mask_windows: set[int | None] = field(default_factory=set)  # that masks were asked for


_current: ContextVar[ForestPass | None] = ContextVar("truing_forest_pass", default=None)
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


def forest_states(backbone: nn.Module, forest_pass: ForestPass) -> Float[Tensor, "T H"]:
    """Return the hidden state of every token of a forest from a transformers model without its LM head."""
    forest = forest_pass.forest
    with planted(backbone, forest_pass), _checkpoints_replanted(backbone, forest_pass):
        output = backbone(
            input_ids=forest.tokens[None],
            position_ids=forest.positions[None],
            use_cache=False,
            return_dict=True,
        )
    return output.last_hidden_state[0]


def current_forest() -> Forest | None:
    """Return the forest of the pass that is under way; None outside of one, as on the padded path."""
    current = _current.get()
    return None if current is None else current.forest


@contextmanager
def planted(backbone: nn.Module, forest_pass: ForestPass) -> Iterator[None]:
    """Let the backbone attend by the forest inside the context, and as before after it.

    Passes over one model wait for each other, since the implementation is a property of the model.
    """
    with _lock(backbone):
        config: Any = backbone.config
        previous = config._attn_implementation
        token = _current.set(forest_pass)
        config._attn_implementation = NAME
        try:
            with fused(backbone):
                yield
        finally:
            config._attn_implementation = previous
            _current.reset(token)


def _lock(backbone: nn.Module) -> threading.RLock:
    with _locks_guard:
        return _locks.setdefault(backbone, threading.RLock())


@contextmanager
def _checkpoints_replanted(backbone: nn.Module, forest_pass: ForestPass) -> Iterator[None]:
    """Let activation checkpointing, where it is on, run layers again with the forest in place."""
    layers: list[Any] = [m for m in backbone.modules() if getattr(m, "gradient_checkpointing", False)]
    if not (layers and backbone.training and torch.is_grad_enabled()):
        yield
        return
    previous = [layer._gradient_checkpointing_func for layer in layers]
    try:
        for layer, function in zip(layers, previous, strict=True):
            layer._gradient_checkpointing_func = _replanting(function, backbone, forest_pass)
        yield
    finally:
        for layer, function in zip(layers, previous, strict=True):
            layer._gradient_checkpointing_func = function


def _replanting(function: Any, backbone: nn.Module, forest_pass: ForestPass) -> Any:
    """Return the checkpointing function that also puts the forest in place for a recomputation."""
    options = getattr(function, "keywords", {})
    if options.get("use_reentrant", False):
        raise ModelError(
            "activation checkpointing with use_reentrant=True cannot run a forest; "
            'enable it with {"use_reentrant": False}'
        )
    inner = options.get("context_fn", lambda: (nullcontext(), nullcontext()))

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        first, again = inner()
        return first, _both(again, planted(backbone, forest_pass))

    return functools.partial(function, use_reentrant=False, context_fn=contexts)


@contextmanager
def _both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield


def _forest_attention(
    module: nn.Module,
    query: Float[Tensor, "1 Hq T D"],
    key: Float[Tensor, "1 Hk T D"],
    value: Float[Tensor, "1 Hk T E"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 T Hq E"], None]:
    """Attend by the forest of the current pass; called by every attention layer of the model."""
    current = _current.get()
    if current is None:
        raise ModelError(f"attention '{NAME}' is for forest passes only; use truing.model.forward")
    _refuse_unknown(module, attention_mask, others)
    current.num_calls += 1
    current.windows.add(sliding_window)
    if torch.is_autocast_enabled(query.device.type):
        compute = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(compute), key.to(compute), value.to(compute)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    kernel = node_attention if current.plain else functools.partial(attend, block_masks=current.block_masks)
    out = kernel(
        query,
        key,
        value,
        current.forest,
        scale=scale,
        window=sliding_window,
        softcap=softcap,
        dropout=dropout if module.training else 0.0,
    )
    return out, None


def _refuse_unknown(module: nn.Module, attention_mask: Tensor | None, others: dict[str, Any]) -> None:
    """Raise for what would change the attention and is not a forest's."""
    unknown = [name for name in ("s_aux", "position_bias", "head_mask") if others.get(name) is not None]
    if attention_mask is not None:
        unknown.append("a mask of the model's own")
    if not others.get("is_causal", getattr(module, "is_causal", True)):
        unknown.append("attention to later tokens")
    if unknown:
        raise ModelError(f"{type(module).__name__} uses {', '.join(unknown)}, which a forest does not have")


def _no_mask(*args: Any, local_size: int | None = None, **others: Any) -> None:
    """Stand in for transformers' mask functions: a forest needs no dense mask."""
    current = _current.get()
    if current is not None:
        current.mask_windows.add(local_size)


AttentionInterface.register(NAME, _forest_attention)
AttentionMaskInterface.register(NAME, _no_mask)
