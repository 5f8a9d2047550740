"""Reward models on disk: a causal model's folder with the scalar head beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truing.errors import ModelError
from truing.math.scores import Calibration
from truing.model.heads import ScalarModel
from truing.model.load import load_model, save_model

HEAD_FILE = "scalar_head.safetensors"


def is_scalar(folder: str | Path) -> bool:
    """Return whether the folder holds a reward model."""
    return (Path(folder) / HEAD_FILE).is_file()


def save_scalar(network: ScalarModel, causal: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write the causal model whose body `network` reads, adapters merged, and its head beside it.

    Learned numbers and the calibration lie with the head; a length head is left behind.
    """
    save_model(causal, tokenizer, folder)  # type: ignore[arg-type]
    tensors = {**network.head.state_dict(), **_prefixed("numbers.", network.numbers.state_dict())}
    if network.calibration is not None:
        values = {k: torch.tensor(v, dtype=torch.float64) for k, v in asdict(network.calibration).items()}
        tensors |= _prefixed("calibration.", values)
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, folder / HEAD_FILE)


def load_scalar(
    name: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> ScalarModel:
    """Return a trained reward model; its head stays in float32.

    Raises:
        ModelError: the folder has no scalar head: it is no reward model.
    """
    if not is_scalar(name):
        raise ModelError(
            f"'{name}' is no reward model: it has no {HEAD_FILE}. Name the model folder of a reward_model "
            "stage (stage:NAME in a pipeline, RUN/STAGE/model otherwise)."
        )
    tensors = load_file(Path(name) / HEAD_FILE, device=str(device))
    numbers = {k: float(t) for k, t in _with_prefix("numbers.", tensors).items()}
    network = ScalarModel.from_causal(load_model(name, dtype=dtype, device=device).model, numbers=numbers)
    network.head.load_state_dict({k: t for k, t in tensors.items() if "." not in k})
    values = {k: float(t) for k, t in _with_prefix("calibration.", tensors).items()}
    network.calibration = Calibration(**values) if values else None
    return network


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
