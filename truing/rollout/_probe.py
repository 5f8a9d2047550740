"""Does a model compute the same through the decode grid as by itself? Asked once, of the model."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from truing.errors import ModelError
from truing.rollout._attention import Ask, decode_attention
from truing.rollout._decode import forward
from truing.rollout._kv import Grid, PromptPass

_PROBE = "truing_decode_probe"
_PROMPTS = (5, 3)  # lengths of the prompts that are tried
_STEPS = 2  # tokens after them

_mask_windows: ContextVar[set[int] | None] = ContextVar("truing_mask_windows", default=None)


def _note_mask(*args: Any, local_size: int | None = None, **others: Any) -> None:
    """Stand in for transformers' mask functions: the grid needs no mask, only to know of its window."""
    windows = _mask_windows.get()
    if windows is not None and local_size is not None:
        windows.add(local_size)


AttentionInterface.register(_PROBE, decode_attention)
AttentionMaskInterface.register(_PROBE, _note_mask)


@dataclass(slots=True)
class _Listener:
    """A prompt pass that also notes the windows that attention layers were told."""

    prompts: PromptPass
    windows: set[int | None] = field(default_factory=set)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, ask: Ask) -> Tensor:
        self.windows.add(ask.window)
        return self.prompts.attend(layer, query, key, value, ask)


def why_not(model: Any) -> str | None:
    """Return why this model cannot decode on the grid, or None where it can.

    Besides what the model says of itself, a few tokens go through both ways and must get the same
    logits: what a family adds to attention and the grid does not know does not pass unseen. In
    float32 they agree to 1e-3 of their spread; a model in lower precision is held to twice the
    difference between two attention implementations of its own.

    Args:
        model: a transformers causal language model whose config is nobody else's; it is left as it was.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention does not go through transformers' AttentionInterface"
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return "its forward has no logits_to_keep"
    config, before = model.config, model.config._attn_implementation
    tokens = torch.arange(sum(_PROMPTS) + len(_PROMPTS) * _STEPS, device=model.device) + 1
    rows = list((tokens % config.get_text_config().vocab_size).split([n + _STEPS for n in _PROMPTS]))
    expected = _plain_logits(model, rows)
    limit = 1e-3
    if model.dtype != torch.float32:
        config._attn_implementation = "eager"
        limit = max(0.1, 2 * _distance(_plain_logits(model, rows), expected))
    config._attn_implementation = _PROBE
    windows = _mask_windows.set(set())
    try:
        return _difference(model, rows, expected, limit)
    except (ModelError, RuntimeError, TypeError, ValueError) as error:
        return f"its forward over packed tokens fails: {type(error).__name__}: {error}"
    finally:
        _mask_windows.reset(windows)
        config._attn_implementation = before


def _plain_logits(model: Any, rows: list[Tensor]) -> Float[Tensor, "P V"]:
    return torch.stack([model(input_ids=row[None], use_cache=False).logits[0, -1].float() for row in rows])


def _distance(found: Float[Tensor, "P V"], expected: Float[Tensor, "P V"]) -> float:
    """Return the root mean square difference as a share of the spread; a shift of all logits is none."""
    gap = found - expected
    return float((gap - gap.mean(-1, keepdim=True)).square().mean().sqrt() / expected.std())


def _difference(model: Any, rows: list[Tensor], expected: Float[Tensor, "P V"], limit: float) -> str | None:
    prompts, device = PromptPass(_PROMPTS), expected.device
    listener = _Listener(prompts)
    inputs = torch.cat([row[:-_STEPS] for row in rows])
    forward(model, listener, inputs, torch.cat([torch.arange(n, device=device) for n in _PROMPTS]))
    if len(prompts.layers) != model.config.get_text_config().num_hidden_layers:
        return f"only {len(prompts.layers)} of its layers attend with keys and values"
    untold = (_mask_windows.get() or set()) - listener.windows
    if untold:
        return f"its masks have a window of {sorted(untold)} that its attention layers are not told"
    grid = Grid(slots=1, max_tokens=_STEPS, device=device)
    grid.admit(prompts)
    for step in range(-_STEPS, 0):
        found = forward(model, grid, torch.stack([row[step] for row in rows]), grid.advance())
    error = _distance(found.float(), expected)
    return (
        None if error <= limit else f"its logits differ by {error:.2g} of their spread from its own forward"
    )
