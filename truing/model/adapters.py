"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) by peft: add, switch off, merge."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from truing.errors import ConfigError, ModelError
from truing.model.save import quiet


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
    seed: int = 0,
) -> PeftModel:
    """Return the model with an adapter W + (alpha / rank) B A on each target, frozen elsewhere.

    B starts at 0, so the adapted model equals the model. A is drawn from `seed`; the global random
    state is left as it was. The model is wrapped in place: its layers are the wrapped ones now.

    Args:
        model: a transformers model without an adapter.
        rank: r, the inner size of the adapter.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: on the adapter's input, in [0, 1), while training.
        target_modules: peft's choice: "all-linear", a regular expression, or ends of module names.
        seed: of the draw of A.

    Raises:
        ModelError: the model has an adapter already.
        ConfigError: no module matches `target_modules`.
    """
    if is_adapted(model):
        raise ModelError("the model has an adapter already: merge it first (truing.model.adapters.merged)")
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft annotates int and divides
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
    )
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), quiet():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"lora.target_modules = {target_modules!r}: {error}{_linear_names(model)}"
            ) from error


def is_adapted(model: nn.Module) -> bool:
    """Return whether the model carries a peft adapter."""
    return isinstance(model, PeftModel)


@contextmanager
def disabled_adapter(model: nn.Module) -> Iterator[nn.Module]:
    """Run the block with the adapter off: the model is its base inside, and itself again after.

    Raises:
        ModelError: the model has no adapter to switch off.
    """
    if not isinstance(model, PeftModel):
        raise ModelError(f"{type(model).__name__} has no adapter to switch off; add one with add_lora")
    with model.disable_adapter():
        yield model


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """Return a copy with the adapter folded into the weights, or the model itself when it has none.

    The sum W + (alpha / rank) B A is taken in float32 and cast back, so a low-precision base takes
    one rounding. The model is untouched.
    """
    if not isinstance(model, PeftModel):
        return model
    base = copy.deepcopy(model)
    dtypes = {_plain(name): p.dtype for name, p in base.named_parameters() if ".lora_" not in name}
    for parameter in base.parameters():
        parameter.data = parameter.data.float() if parameter.is_floating_point() else parameter.data
    plain: nn.Module = base.merge_and_unload()
    for name, parameter in plain.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return plain


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _linear_names(model: nn.Module) -> str:
    ends = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
    return f" Linear layers of this model: {', '.join(ends)}."
