"""Whether a model family can run as a forest: known reasons first, then a look at what it does.

Attributes cannot tell everything about two hundred families, so a model is also tried once: four
rows that share beginnings run as a forest and padded, and the hidden states have to agree. A family
that does not agree is served by the padded path, and that is said with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from truing.errors import ModelError
from truing.model.forest import plant
from truing.model.interface import ForestPass, forest_states
from truing.model.padded import padded_states

Path = Literal["auto", "forest", "padded"]

_logger = logging.getLogger("truing")
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_TRIAL_ROWS = [[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 7, 8, 9], [10, 2, 3]]
_reasons: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()
_warned: set[type[nn.Module]] = set()


def runs_as_forest(backbone: nn.Module, path: Path = "auto") -> bool:
    """Return whether to take the forest path; a family that cannot is warned about once.

    Raises:
        ModelError: path is "forest" and the family cannot; the message says why.
    """
    if path == "padded":
        return False
    reason = why_not_forest(backbone)
    if reason is None:
        return True
    family = type(backbone)
    if path == "forest":
        raise ModelError(f"{family.__name__} cannot run as a forest: {reason}; use path='auto' or 'padded'")
    if family not in _warned:
        _warned.add(family)
        _logger.warning(
            "%s takes the padded path, where shared prompts are computed again for each row: %s",
            family.__name__,
            reason,
        )
    return False


def why_not_forest(backbone: nn.Module) -> str | None:
    """Return why this model cannot run as a forest, or None when it can; looked up once per model."""
    if backbone not in _reasons:
        _reasons[backbone] = _known_reason(backbone) or _tried_reason(backbone)
    return _reasons[backbone]


def _known_reason(backbone: nn.Module) -> str | None:
    """Return the reason that the class or its config states."""
    config: Any = getattr(backbone, "config", None)
    if config is None or not hasattr(config, "_attn_implementation"):
        return "it is not a transformers model"
    if getattr(backbone, "_is_stateful", False):
        return "it has recurrent state, which cannot branch inside one pass"
    others = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if others:
        return f"it has layers of type {', '.join(sorted(others))}"
    return None


@torch.no_grad()
def _tried_reason(backbone: Any) -> str | None:
    """Return what differs between a small forest and the same rows padded."""
    device = backbone.get_input_embeddings().weight.device
    num_words = backbone.get_input_embeddings().weight.shape[0]
    rows = [[token % num_words for token in row] for row in _TRIAL_ROWS]
    trial = ForestPass(plant(rows, device), plain=True)
    with evaluating(backbone), torch.autocast(device.type, enabled=False):
        expected, places = padded_states(backbone, rows, device)
        try:
            states = forest_states(backbone, trial)
        except (ModelError, TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
    if not trial.num_calls:
        return "its attention does not go through transformers' AttentionInterface"
    untold = trial.mask_windows - trial.windows - {None}
    if untold:
        return f"its attention layers are not told their window of {untold.pop()} tokens"
    found = torch.cat([states[path.to(device)] for path in trial.forest.paths]).float()
    wanted = torch.cat([expected[place.to(device)] for place in places]).float()
    error = ((found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-12)).median()
    bound = 1e-3 if states.dtype in (torch.float32, torch.float64) else 0.1
    if error.item() > bound:
        return f"its hidden states differ from the padded path's by {error.item():.1e} (relative)"
    return None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the context; every submodule's mode is restored."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training
