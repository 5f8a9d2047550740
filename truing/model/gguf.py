"""A GGUF file, dequantised once to a plain folder that every later load reads."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing.model.save import quiet, save_model

CONVERTER = 1  # part of the cache key: raise it when what `convert` writes changes


def convert(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file to `folder`: float32 safetensors, tokenizer and chat template.

    The weights are the dequantised ones: exact values of a quantised model, not of its original.
    """
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):  # a model that says so refuses to be trained
        del config.quantization_config
    with torch.device("meta"):
        plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    save_model(plain, tokenizer, folder)
