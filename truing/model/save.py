"""Write a model that any library can load: merged weights, tokenizer and chat template."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as hf_logging

from truing.errors import ModelError


def save_model(model: PreTrainedModel | PeftModel, tokenizer: Any, folder: str | Path) -> Path:
    """Write safetensors, config, tokenizer and chat template to `folder`, and return it.

    A PeftModel is written with its adapter merged into the weights, so that what the next stage
    starts from, and takes as its reference, is the trained model and never the raw base. The live
    model is not altered. The files are written beside `folder` and renamed when they are complete;
    a folder that is there already is replaced.

    Raises:
        ModelError: the model carries an adapter that cannot be merged.
    """
    folder = Path(folder).expanduser().absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with quiet():
            (_merged(model) if isinstance(model, PeftModel) else model).save_pretrained(part)
            tokenizer.save_pretrained(part)
        _put_in_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def merged_state_dict(model: PeftModel) -> dict[str, Tensor]:
    """Return the base model's state dict with W + sum of the active adapters' deltas, under plain names.

    Tensors without an adapter are shared with the live model, not copied.

    Raises:
        ModelError: an adapter is not plain LoRA on a weight.
    """
    base = model.get_base_model()
    _refuse_unmergeable(base)
    layers = {n: m for n, m in base.named_modules() if isinstance(m, BaseTunerLayer)}
    state: dict[str, Tensor] = {}
    for key, value in base.state_dict().items():
        owner = next((n for n in _ancestors(key) if n in layers), None)
        if owner is None:
            state[key] = value
        elif key.startswith(f"{owner}.base_layer."):
            delta = _delta(layers[owner]) if key == f"{owner}.base_layer.weight" else None
            merged = value if delta is None else (value.float() + delta).to(value.dtype)
            state[key.replace(f"{owner}.base_layer.", f"{owner}.", 1)] = merged
    return state


def _ancestors(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _delta(layer: LoraLayer) -> Tensor | None:
    """Return the sum of what the active adapters add to the layer's weight; None when there is none."""
    if layer.merged or layer.disable_adapters:
        return None
    with torch.no_grad():
        deltas = [layer.get_delta_weight(a).float() for a in layer.active_adapters if a in layer.lora_A]
    return torch.stack(deltas).sum(0) if deltas else None


def _refuse_unmergeable(base: torch.nn.Module) -> None:
    for name, module in base.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            raise ModelError(f"cannot merge {name}: modules_to_save is not supported; train it without LoRA")
        if isinstance(module, BaseTunerLayer) and (
            not isinstance(module, LoraLayer)
            or not hasattr(module, "get_delta_weight")
            or any(module.use_dora.values())
            or any(module.lora_bias.values())
        ):
            raise ModelError(f"cannot merge {name}: {type(module).__name__} is not plain LoRA on a weight")


def _merged(model: PeftModel) -> PreTrainedModel:
    """Return a model of the base's class that holds the merged weights; no large copy is made."""
    base = model.get_base_model()
    with torch.device("meta"):
        plain = type(base)(copy.deepcopy(base.config))
    plain.load_state_dict(merged_state_dict(model), assign=True)
    plain.tie_weights()
    plain.generation_config = base.generation_config
    return plain


def _put_in_place(part: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, and the warning that peft's use of an old transformers name gives."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
