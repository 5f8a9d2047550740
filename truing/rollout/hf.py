"""The embedded sampler: completions from a transformers model in the learner's own process.

It keeps a copy of the weights, in bfloat16 where the hardware multiplies it, so a completion's
policy_version is the truth: nothing that happens to the learner shows before `publish`.

A prompt is read once for all its samples, and its keys and values are kept once. Rows that finish
leave the batch and waiting prompts take their place. Memory besides the copy: for each of at most
`max_rows` rows the keys and values of its own tokens and a few float32 rows of the vocabulary, and
for each prompt in the batch its keys and values, padded to the longest of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from truing.errors import ConfigError, ModelError
from truing.rollout._attention import NAME
from truing.rollout._decode import Decoding, Row, new_rows
from truing.rollout._plain import generate_plain
from truing.rollout._probe import why_not
from truing.rollout._weights import WeightCopy, twin
from truing.rollout.sampler import SamplingParams
from truing.types import Completion

_MAX_ROWS = 256  # more rows than this add latency and no throughput
_MEMORY_SHARE = 0.5  # of what is free when generate is called

logger = logging.getLogger(__name__)


class HFSampler:
    """Draws completions with a copy of the learner's weights; see `truing.rollout.sampler.Sampler`.

    Attributes:
        plain_reason: why the model decodes with its own, slower cache; None where it uses the shared one.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: torch.dtype | None = None,
        max_rows: int | None = None,
    ) -> None:
        """Copy the weights of a transformers causal language model or of a PeftModel around one.

        Args:
            model: the learner's; it is read at every publish and never written to.
            tokenizer: turns tokens into `Completion.text`.
            dtype: of the copy; None takes bfloat16 where the device multiplies it, else float32.
            max_rows: most rows decoded at once; None takes what half of the free memory holds, up to 256.

        Raises:
            ModelError: the model's weights are quantized or its adapter has no merged form.
        """
        if max_rows is not None and max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; it must be at least 1")
        self._tokenizer, self._max_rows, self._version = tokenizer, max_rows, 0
        self._copy = WeightCopy(model, dtype or fast_dtype(next(model.parameters()).device))
        self._config: Any = self._copy.model.config.get_text_config()
        with torch.inference_mode():
            self.plain_reason = why_not(twin(model))
        if self.plain_reason is None:
            self._copy.model.config._attn_implementation = NAME
        else:
            family = type(self._copy.model).__name__
            logger.warning("%s samples with its own cache, group by group: %s", family, self.plain_reason)

    def publish(self, version: int) -> None:
        """Copy the learner's weights, adapters merged, and stamp completions with this version."""
        self._copy.refresh()
        self._version = version

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        """Return `num_samples` completions of each prompt, in the order of the prompts.

        Raises:
            ModelError: a prompt is empty, longer than the model's positions allow, or has ids that
                the model does not know.
        """
        if num_samples < 1:
            raise ConfigError(f"num_samples is {num_samples}; it must be at least 1")
        check_prompts(prompts, params, self._config)
        if not prompts:
            return []
        rows = [new_rows(p, num_samples, params) for p in range(len(prompts))]
        self.grow(prompts, rows, params)
        return [[completion_of(row, self._tokenizer, self._version) for row in part] for part in rows]

    @torch.inference_mode()
    def grow(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[Sequence[Row]],
        params: SamplingParams,
    ) -> None:
        """Grow rows until each is finished; a prompt's rows may have limits and stops of their own.

        Args:
            prompts: token ids that `check_prompts` let pass.
            rows: of each prompt.
            params: temperature, top_p and top_k of all; max_tokens is the most that any row may have.
        """
        max_rows = self._max_rows or self._rows_that_fit(
            max(map(len, prompts)), params.max_tokens, max(map(len, rows))
        )
        groups = [list(part[i : i + max_rows]) for part in rows for i in range(0, len(part), max_rows)]
        if self.plain_reason:
            generate_plain(self._copy.model, prompts, groups, params)
        else:
            Decoding(self._copy.model, prompts, params).run(groups, max_rows)

    def _rows_that_fit(self, prompt_tokens: int, max_tokens: int, num_samples: int) -> int:
        """Return how many rows half of the free memory holds, at least 1."""
        config, device = self._config, self._copy.device
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * width * self._copy.model.dtype.itemsize
        row = token * (max_tokens + prompt_tokens / num_samples) + 12 * config.vocab_size
        free = (
            torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
        )
        return max(1, min(_MAX_ROWS, int(_MEMORY_SHARE * free / row)))


def completion_of(row: Row, tokenizer: PreTrainedTokenizerBase, version: int) -> Completion:
    """Return a finished row as a completion that this policy version drew."""
    reason = row.finish_reason
    assert reason is not None
    spoken = row.tokens[:-1] if reason == "stop" else row.tokens
    text = tokenizer.decode(spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Completion(tuple(row.tokens), str(text), tuple(row.logprobs), reason, version)


def check_prompts(prompts: Sequence[Sequence[int]], params: SamplingParams, config: Any) -> None:
    """Raise when a model with this config cannot continue one of the prompts.

    Raises:
        ModelError: a prompt is empty, longer than the model's positions allow, or has ids that the
            model does not know.
    """
    limit, vocabulary = _max_positions(config), config.vocab_size
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ModelError(f"prompt {i} is empty; it needs at least one token, such as the BOS token")
        if limit is not None and len(prompt) + params.max_tokens > limit:
            raise ModelError(
                f"prompt {i} has {len(prompt)} tokens and max_tokens is {params.max_tokens}, together "
                f"over the model's {limit} positions; shorten the prompt or lower max_tokens"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise ModelError(
                f"prompt {i} has ids from {min(prompt)} to {max(prompt)}; the model knows {vocabulary}"
            )


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def _max_positions(config: Any) -> int | None:
    """Return how many positions a sequence may have; None where the model sets no limit.

    Rotary frequencies that change with the length of a sequence (dynamic, longrope) would make
    earlier keys wrong, so such a model is held to the length up to which they stay.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        original = rope.get("original_max_position_embeddings")
        if original is not None:
            return int(original)
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return None if found is None else int(found)


SAMPLER = HFSampler
