"""A chat model in this process, over the embedded sampler: what is asked at once is decoded together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from truing.errors import JudgeError, ModelError
from truing.judges.client import Reply, TokenLogprob
from truing.model.load import fingerprint, load_model
from truing.serve.engine import Busy, Engine
from truing.types import Message


class LocalChat:
    """A model by name, decoded by a thread of its own."""

    def __init__(self, name: str) -> None:
        """Load a folder, a hub id or an alias.

        Raises:
            ModelError: it cannot be found or loaded.
        """
        self.name, self._engine = name, Engine(name)

    def fingerprint(self) -> str:
        """Return the hash of the weights, read once more: what a cached reply is a reply of."""
        loaded = load_model(self.name)
        return fingerprint(loaded.model, loaded.tokenizer)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int | None = None,
        top_logprobs: int = 0,
    ) -> Reply:
        """Return the reply; the log-probs are of the full softmax at the temperature.

        Raises:
            JudgeError: the conversation is longer than the model's positions, or too many requests wait.
        """
        try:
            ask, future = self._engine.ask(
                messages, temperature=temperature, max_tokens=max_tokens, seed=seed, num_top=top_logprobs
            )
        except Busy as error:
            raise JudgeError(f"{self.name}: {error}", retry=True) from error
        except ModelError as error:
            raise JudgeError(f"{self.name}: {error}") from error
        answer = (await asyncio.wrap_future(future))[0]
        logprobs = None
        if top_logprobs:
            logprobs = tuple(
                TokenLogprob(
                    self._text(token), logprob, tuple((self._text(t), x) for t, x in top if x > -math.inf)
                )
                for token, logprob, top in zip(answer.tokens, answer.logprobs, answer.top, strict=True)
            )
        return Reply(answer.text, answer.finish_reason, logprobs, len(ask.prompt), answer.num_drawn)

    async def close(self) -> None:
        """Finish what runs and end the thread."""
        await asyncio.to_thread(self._engine.close)

    def _text(self, token: int) -> str:
        return str(self._engine.tokenizer.decode([token], clean_up_tokenization_spaces=False))
