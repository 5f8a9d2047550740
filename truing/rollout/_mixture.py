"""Completions of the geometric mixture pi^(1-c) pi_ref^c of two policies, normalised token by token.

The log-partition of each policy is a constant of the position, so the mixture is the softmax of the
weighted mean of both policies' logits. It needs the logits of both at every token, so it runs both models
side by side with caches of their own, group by group: slower than the grid that the policy decodes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from truing.errors import ConfigError
from truing.rollout._decode import new_rows
from truing.rollout._plain import Reader, generate_plain
from truing.rollout._weights import WeightCopy
from truing.rollout.hf import check_prompts, completion_of, fast_dtype
from truing.rollout.sampler import SamplingParams
from truing.types import Completion


class MixtureSampler:
    """Draws from softmax(((1 - c) logits + c ref_logits) / temperature); a `truing.rollout.sampler.Sampler`.

    sampler_logprobs are the mixture's.
    """

    def __init__(
        self,
        policy: nn.Module,
        reference: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        share: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Copy the weights of both; the reference's stay as they are now, the policy's follow `publish`.

        Args:
            policy: the learner's model.
            reference: may be the policy itself, before its first update.
            tokenizer: of both.
            share: c, of the reference, in [0, 1].
            dtype: of the copies; None takes bfloat16 where the device multiplies it, else float32.

        Raises:
            ConfigError: the share is not in [0, 1].
            ModelError: a model's weights are quantized or its adapter has no merged form.
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"the mixture's share of the reference is {share}; it must be in [0, 1]")
        dtype = dtype or fast_dtype(next(policy.parameters()).device)
        self._policy, self._reference = WeightCopy(policy, dtype), WeightCopy(reference, dtype)
        self._tokenizer, self._share, self._version = tokenizer, share, 0

    def publish(self, version: int) -> None:
        """Take the policy's weights as they are now; the reference's never change."""
        self._policy.refresh()
        self._version = version

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        """Return `num_samples` completions of each prompt, in the order of the prompts.

        Raises:
            ConfigError: num_samples is below 1.
            ModelError: a prompt is empty, too long, or has ids that the model does not know.
        """
        if num_samples < 1:
            raise ConfigError(f"num_samples is {num_samples}; it must be at least 1")
        for model in (self._policy.model, self._reference.model):
            check_prompts(prompts, params, model.config.get_text_config())
        groups = [new_rows(p, num_samples, params) for p in range(len(prompts))]
        generate_plain(
            self._policy.model, prompts, groups, params,
            second=lambda: reader(self._reference.model), share=self._share,
        )  # fmt: skip
        return [[completion_of(row, self._tokenizer, self._version) for row in rows] for rows in groups]


def reader(model: Any) -> Reader:
    """Return a function of the tokens so far that gives the next token's logits and keeps the model's cache.

    It is for one group of rows that grows by a token from call to call. A family that returns no cache
    reads all tokens anew each time.
    """
    cache: Any = None

    def logits(tokens: Tensor) -> Tensor:
        nonlocal cache
        unread = tokens if cache is None else tokens[:, -1:]
        output = model(
            input_ids=unread,
            attention_mask=torch.ones_like(tokens),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = getattr(output, "past_key_values", None)
        found: Tensor = output.logits[:, -1]
        return found

    return logits
