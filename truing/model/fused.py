"""Backward passes written by hand, on a CPU, for what most decoders are made of.

RMSNorm, the gated MLP and linear layers compute what transformers' modules compute, with fewer
passes over memory. A module takes part only when it runs the same code as Llama's (its class may
have another name), holds parameters of one type, and has no hooks or adapters; all else runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward
_silu_backward = torch.ops.aten.silu_backward.grad_input
_THIN, _FEW_ROWS = 128, 1024  # measured; see _outer
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def fused(backbone: nn.Module) -> Iterator[None]:
    """Let the modules of the backbone that are known run fused inside the context, and as before after it.

    The caller keeps other threads from entering it for the same model. Outside a CPU and inside
    autocast nothing changes.
    """
    replaced: list[nn.Module] = []
    try:
        for module in backbone.modules():
            forward = _fused_forward(module)
            if forward is not None:
                module.__dict__["forward"] = forward
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]


def _fused_forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a module's fused forward; None where it has none."""
    if "forward" in vars(module) or torch.is_autocast_enabled("cpu"):
        return None
    if _same_code(module, LlamaRMSNorm):
        weight: Any = module.weight
        if _on_cpu(weight, (torch.float32, torch.bfloat16)):
            return partial(_rms_norm, module)
    elif _same_code(module, LlamaMLP) and isinstance(module.act_fn, (nn.SiLU, SiLUActivation)):
        if all(_is_plain(m) and m.bias is None for m in (module.gate_proj, module.up_proj, module.down_proj)):
            return partial(_gated_mlp, module)
    elif _is_plain(module) and module.weight.dtype == torch.bfloat16:
        return partial(_linear, module)
    return None


def _same_code(module: nn.Module, known: type[nn.Module]) -> bool:
    """Return whether a module's forward is the known one, or a copy of it in another family's file."""
    code, wanted = type(module).forward.__code__, known.forward.__code__
    names = ("co_code", "co_consts", "co_names", "co_freevars")
    return all(getattr(code, name) == getattr(wanted, name) for name in names)


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is a linear layer on the CPU that trains and that nobody listens to."""
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    watched = any(getattr(module, hooks) for hooks in _HOOKS)
    types = (torch.float32, torch.bfloat16)
    return not watched and module.weight.requires_grad and _on_cpu(module.weight, types)


def _on_cpu(weight: Tensor, dtypes: tuple[torch.dtype, ...]) -> bool:
    return weight.device.type == "cpu" and weight.dtype in dtypes


def _rms_norm(module: Any, hidden: Float[Tensor, "*T H"]) -> Float[Tensor, "*T H"]:
    if hidden.dtype != module.weight.dtype:
        return type(module).forward(module, hidden)  # type: ignore[no-any-return]
    return _RmsNorm.apply(hidden, module.weight, module.variance_epsilon)  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps), rounded where transformers rounds.

    Its gradient is that of a layer norm of mean 0, for which there is a kernel, but for the term that
    the mean would have sent back: scale * mean(weight * grad), which is added again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(len(weight)).add_(eps).rsqrt_()
        out = wide * scale if wide is x else wide.mul_(scale).to(x.dtype)
        ctx.save_for_backward(x, weight, scale)
        return out.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        width = len(weight)
        rows, grads, scale = x.reshape(-1, width), grad.reshape(-1, width), scale.reshape(-1, 1)
        grad_weight = torch.mm(scale.T.to(x.dtype), grads * rows)[0] if ctx.needs_input_grad[1] else None
        mean, only_input = torch.zeros_like(scale), [True, False, False]
        grad_x = _layer_norm_backward(grads, rows, [width], mean, scale, weight.float(), None, only_input)[0]
        shared = torch.mv(grads, weight).unsqueeze(1).mul(scale).div_(width)
        return grad_x.add_(shared.to(x.dtype)).view_as(x), grad_weight, None


def _linear(module: nn.Linear, x: Float[Tensor, "*T I"]) -> Float[Tensor, "*T O"]:
    if x.dtype != module.weight.dtype or not torch.is_grad_enabled():
        return F.linear(x, module.weight, module.bias)
    return _Linear.apply(x, module.weight, module.bias)  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    """x @ weight.T + bias, with the weight's gradient from `_outer`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grads = grad.reshape(-1, len(weight))
        grad_x = (grads @ weight).view_as(x) if ctx.needs_input_grad[0] else None
        grad_bias = grads.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, _outer(grads, x.reshape(-1, x.shape[-1])), grad_bias


def _gated_mlp(module: Any, x: Float[Tensor, "*T H"]) -> Float[Tensor, "*T H"]:
    weights = [m.weight for m in (module.gate_proj, module.up_proj, module.down_proj)]
    if any(w.dtype != x.dtype for w in weights) or not torch.is_grad_enabled():
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    return _GatedMlp.apply(x, *weights)  # type: ignore[no-any-return]


class _GatedMlp(torch.autograd.Function):
    """(silu(x @ gate.T) * (x @ up.T)) @ down.T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        gates, ups = rows @ gate.T, rows @ up.T
        active = F.silu(gates)
        product = active * ups
        ctx.save_for_backward(x, gate, up, down, gates, ups, active, product)
        return (product @ down.T).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, down, gates, ups, active, product = ctx.saved_tensors
        rows, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, len(down))
        grad_product = grads @ down
        grad_ups = grad_product * active
        grad_active = grad_product.mul_(ups)
        grad_gates = _silu_backward(grad_active, gates, grad_input=grad_active)
        grad_x = (grad_gates @ gate).addmm_(grad_ups, up).view_as(x) if ctx.needs_input_grad[0] else None
        return grad_x, _outer(grad_gates, rows), _outer(grad_ups, rows), _outer(grads, product)


def _outer(grads: Float[Tensor, "T O"], rows: Float[Tensor, "T I"]) -> Float[Tensor, "O I"]:
    """Return grads.T @ rows.

    AMX multiplies bfloat16 matrices at half speed when the left one is transposed in place. A transposed
    copy pays, of the narrower factor where there are many rows, unless the product is thin, as an adapter's.
    """
    num_rows, num_out = grads.shape
    num_in = rows.shape[1]
    if grads.dtype != torch.bfloat16 or min(num_in, num_out) < _THIN or not _has_amx():
        return grads.T @ rows
    if num_out <= num_in or num_rows <= _FEW_ROWS:
        return grads.T.contiguous() @ rows
    return (rows.T.contiguous() @ grads).T.contiguous()


@cache
def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())
