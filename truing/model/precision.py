"""Low-precision compute with float32 masters: which parameters are cast, and what the optimizer keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from truing.model.heads import ScalarModel


def kept_float32(model: nn.Module) -> set[str]:
    """Return the names of parameters that stay float32: scalar heads, and what the architecture asks for.

    transformers names the latter in `_keep_in_fp32_modules_strict` (router biases, for example).
    """
    asked = {
        part
        for module in model.modules()
        for part in getattr(module, "_keep_in_fp32_modules_strict", None) or ()
    }
    names = [name for name, _ in model.named_parameters()]
    kept = {name for name in names if asked.intersection(name.split("."))}
    if isinstance(model, ScalarModel):
        kept |= {name for name in names if not name.startswith("backbone.")}
    return kept


@torch.no_grad()
def cast_parameters(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast the floating parameters in place and return the float32 masters of the trained ones by name.

    A trained parameter that is float32 after the cast is its own master. Otherwise the master is a
    float32 copy of the value from before the cast, so no digit of a float32 checkpoint is lost.
    Buffers keep their dtype: rotary frequencies in bfloat16 misplace distant tokens. Tied parameters
    stay tied.
    """
    kept = kept_float32(model)
    masters: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        target = torch.float32 if name in kept else dtype
        before = parameter.detach()
        parameter.data = before.to(target)
        if parameter.requires_grad:
            own = target == torch.float32
            masters[name] = parameter if own else before.to(torch.float32, copy=True)
    return masters
