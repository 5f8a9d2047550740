"""An AdamW step on a CPU, a part of a tensor at a time: what is read from memory is used while it is near.

`torch.optim.AdamW` keeps the state and its fused kernel does the arithmetic; only the order is ours. A
part's gradient becomes float32 in one small buffer, is clipped and used by the kernel, and the part's
compute copy is written, before the next part is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_PART_ELEMENTS = 2**19  # 2 MiB of float32


def step_by_parts(
    adam: torch.optim.AdamW, copies: Mapping[Tensor, Tensor], scales: Mapping[Tensor, Tensor]
) -> None:
    """Move every master that has a gradient, and write it to its low-precision copy.

    Args:
        adam: holds groups and state.
        copies: the low-precision copy of each master that has one.
        scales: divides a master's gradient; 1 where it is not named.
    """
    buffer = torch.empty(2 * _PART_ELEMENTS)
    for group in adam.param_groups:
        for master in group["params"]:
            if master.grad is None:
                continue
            state = _state(adam, master)
            state["step"] += 1
            tensors = [master, master.grad, state["exp_avg"], state["exp_avg_sq"], copies.get(master, master)]
            for part, gradient, exp_avg, exp_avg_sq, copy in zip(*map(_parts, tensors), strict=True):
                gradient = _float32(gradient, buffer)
                _kernel(group, part, gradient, exp_avg, exp_avg_sq, state["step"], scales.get(master))
                if master in copies:
                    copy.copy_(part)


def norms_by_parts(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the float32 norm of each gradient, or of each of its parts where it is not float32."""
    buffer = torch.empty(2 * _PART_ELEMENTS)
    norm = torch.linalg.vector_norm
    return [
        norm(_float32(part, buffer))
        for gradient in gradients
        for part in ([gradient] if gradient.dtype == torch.float32 else _parts(gradient))
    ]


def _float32(gradient: Tensor, buffer: Tensor) -> Tensor:
    """Return the gradient if it is float32, else its values in the buffer, where they fit."""
    if gradient.dtype == torch.float32 or gradient.numel() > len(buffer):
        return gradient.float()
    return buffer[: gradient.numel()].view(gradient.shape).copy_(gradient)


def _kernel(
    group: Mapping[str, Any],
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    scale: Tensor | None,
) -> None:
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        [parameter],
        [gradient],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        grad_scale=scale,
    )


def _state(adam: torch.optim.AdamW, parameter: Tensor) -> dict[str, Tensor]:
    """Return a parameter's state, made at its first gradient as torch makes it."""
    state: dict[str, Tensor] = adam.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return state


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """Return views of consecutive rows."""
    if x.numel() <= _PART_ELEMENTS:
        return (x,)
    return x.split(max(1, _PART_ELEMENTS * len(x) // x.numel()))
