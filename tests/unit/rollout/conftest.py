"""Tiny random models of the families, with weights large enough that attention matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 97
SHARED = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {
        "tie_word_embeddings": False,
        "sliding_window": 6,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {
        "tie_word_embeddings": False,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
}


@pytest.fixture(scope="session")
def numbers() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose text is the ids."""
    words = models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    def make(family: str = "llama", seed: int = 0, **more: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        transformers.logging.set_verbosity_error()
        options = SHARED | FAMILIES.get(family, {}) | more
        config = AutoConfig.for_model(family, **options)
        return AutoModelForCausalLM.from_config(config).eval()

    return make
