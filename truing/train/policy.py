"""A trained policy to talk to, loaded when it is first used."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from truing.data.chat import render_prompt
from truing.model.load import eos_token_ids, load_model
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams
from truing.types import Completion, Message


class Policy:
    """A model by name with its tokenizer and a sampler."""

    def __init__(self, name: str) -> None:
        """Name a folder, a hub id or an alias; nothing is loaded yet."""
        self.name = name

    @cached_property
    def _parts(self) -> tuple[Any, Any, HFSampler]:
        loaded = load_model(self.name)
        return loaded.model, loaded.tokenizer, HFSampler(loaded.model, loaded.tokenizer)

    def complete(
        self, prompt: str | list[Message], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 0
    ) -> Completion:
        """Return the completion of a user's text or of a conversation; temperature 0 is greedy."""
        model, tokenizer, sampler = self._parts
        messages = [Message("user", prompt)] if isinstance(prompt, str) else prompt
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            stop_token_ids=eos_token_ids(model, tokenizer),
            seed=seed,
        )
        return sampler.generate([render_prompt(tokenizer, messages)], params)[0][0]

    def generate(self, prompt: str | list[Message], **options: Any) -> str:
        """Return the text of `complete` without its stop token."""
        return self.complete(prompt, **options).text
