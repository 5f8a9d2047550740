"""The sampler's own copy of the learner's weights: made once, refreshed in place at every publish."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from truing.errors import ModelError

_ROWS_EXPECTED = 64  # a hint for the packed layout; any number of rows works


class PackedLinear(nn.Module):
    """x W^T + b in bfloat16 on a CPU, with W kept in the layout that its matrix product reads.

    A plain `nn.Linear` brings W into that layout again in every call, which for a few rows costs
    more than the product.
    """

    packed: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Take the place of this layer; `load` brings the weights."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias.data if linear.bias is not None else None

    def load(self, weight: Tensor, bias: Tensor | None) -> None:
        """Replace the weights."""
        plain = weight.detach().to(torch.bfloat16).contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(plain, _ROWS_EXPECTED)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """Return x W^T + b."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def twin(learner: nn.Module) -> Any:
    """Return the learner's model with its very weights and adapters, but a config and hooks of its own."""
    base = _base(learner)
    model = copy.deepcopy(base, {id(p): p for p in base.parameters()})
    _without_hooks(model)
    return model.eval()


class WeightCopy:
    """A model with the learner's architecture and its own weights, config and attention implementation.

    `model` is in eval mode and has no hooks; adapters are merged into it, in float32 before the cast.
    It costs the memory of the weights in `dtype` once, and the learner is never written to.
    """

    def __init__(self, learner: nn.Module, dtype: torch.dtype) -> None:
        """Copy the weights of a transformers model, or of a PeftModel around one.

        Raises:
            ModelError: the adapter has no merged form (prompt tuning), or the weights are quantized.
        """
        self._learner = _base(learner)
        self.model = _structure(self._learner, dtype)
        if self.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            _pack(self.model)
        self.refresh()

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the learner's weights as they are now, all of them: nothing is assumed unchanged."""
        for name, module in self.model.named_modules():
            own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
            if not own and not isinstance(module, PackedLinear):
                continue
            source = _find(self._learner, name)
            if isinstance(module, PackedLinear):
                module.load(source.weight, source.bias)
            else:
                for key, tensor in own.items():
                    tensor.copy_(getattr(source, key))


def _base(learner: nn.Module) -> Any:
    if not isinstance(learner, PeftModel):
        return learner
    config = learner.peft_config[learner.active_adapter]
    if config.is_prompt_learning:
        raise ModelError(f"the embedded sampler cannot merge a {config.peft_type} adapter; use LoRA")
    return learner.get_base_model()


def _structure(learner: PreTrainedModel, dtype: torch.dtype) -> Any:
    """Return a model like the learner's, with empty parameters of its own in `dtype` and no adapters."""
    strict = set(getattr(learner, "_keep_in_fp32_modules_strict", None) or ())
    memo: dict[int, Any] = {}
    for name, parameter in learner.named_parameters():
        if not parameter.is_floating_point():
            raise ModelError(
                f"the embedded sampler needs floating-point weights; {name} is {parameter.dtype}"
            )
        kept = strict.intersection(name.split("."))
        fresh = torch.empty_like(parameter, dtype=torch.float32 if kept else dtype, requires_grad=False)
        memo[id(parameter)] = nn.Parameter(fresh, requires_grad=False)
    model = copy.deepcopy(learner, memo)
    _replace(model, lambda m: isinstance(m, BaseTunerLayer), lambda m: m.get_base_layer())
    _replace(model, lambda m: isinstance(m, AuxiliaryTrainingWrapper), lambda m: m.original_module)
    _without_hooks(model)
    model.generation_config = GenerationConfig()  # the recipe says how to sample, not the checkpoint
    return model.eval()


def _without_hooks(model: nn.Module) -> None:
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


def _pack(model: nn.Module) -> None:
    def packs(module: nn.Module) -> bool:
        return type(module) is nn.Linear and module.weight.dtype == torch.bfloat16

    _replace(model, packs, PackedLinear)


def _replace(model: nn.Module, which: Any, make: Any) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if which(child):
                setattr(parent, name, make(child))


def _find(root: nn.Module, path: str) -> Any:
    """Return the learner's module at a path of the copy, seen through what peft wraps around modules."""
    module = _unwrapped(root)
    for part in path.split(".") if path else ():
        module = _unwrapped(getattr(module, part))
    return module


def _unwrapped(module: Any) -> Any:
    """Return a module with its adapter merged into a float32 copy, and others as they are."""
    if isinstance(module, ModulesToSaveWrapper):
        return module.modules_to_save[module.active_adapters[0]]
    if isinstance(module, AuxiliaryTrainingWrapper):
        raise ModelError(
            f"the embedded sampler cannot merge a {type(module).__name__}; leave it out of the adapter"
        )
    if not isinstance(module, BaseTunerLayer):
        return module
    merged: Any = copy.deepcopy(module).float()
    merged.merge(safe_merge=True)
    return merged.get_base_layer()
