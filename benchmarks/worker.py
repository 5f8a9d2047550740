"""A process of one side: `python -m benchmarks.worker SIDE WORK DTYPE VARIANT`, driven over a pipe."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks.gate import Gate
from benchmarks.work import MODEL, Dimensions, works


def dimensions(config: Any) -> Dimensions:
    """Return what FLOP counts need of a transformers config."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Dimensions(
        config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads,
        config.num_key_value_heads, head_dim, config.vocab_size,
    )  # fmt: skip


def main(side: str, work_name: str, dtype_name: str, variant: str) -> None:
    """Load one side and serve steps until the coordinator stops."""
    warnings.simplefilter("ignore")
    gate = Gate()
    torch.manual_seed(0)
    work, dtype = works()[work_name], getattr(torch, dtype_name)
    if side == "truing":
        from benchmarks import ours

        ours.run(gate, work, dtype)
    elif side == "trl":
        from benchmarks import peer
        from truing.model.names import locate

        peer.run(gate, work, dtype, variant, str(locate(MODEL)))
    else:
        from benchmarks import machine

        machine.run(gate, dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
