"""Reward models on disk: a causal model's folder with the scalar head beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from truing.errors import ModelError
from truing.model.heads import ScalarModel
from truing.model.load import load_model, save_model

HEAD_FILE = "scalar_head.safetensors"


def is_scalar(folder: str | Path) -> bool:
    """Return whether the folder holds a reward model."""
    return (Path(folder) / HEAD_FILE).is_file()


def save_scalar(network: ScalarModel, causal: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write the causal model whose body `network` reads, adapters merged, and its head beside it."""
    save_model(causal, tokenizer, folder)  # type: ignore[arg-type]
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in network.head.state_dict().items()}
    save_file(head, folder / HEAD_FILE)


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
    network = ScalarModel.from_causal(load_model(name, dtype=dtype, device=device).model)
    network.head.load_state_dict(load_file(Path(name) / HEAD_FILE, device=str(device)))
    return network
