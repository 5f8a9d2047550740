"""A chat model with a name for the audit trail; what it cannot say is a status, never an empty text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.errors import JudgeError
from truing.judges.client import Chat
from truing.types import FinishReason, Message, Status


class Failed(Exception):
    """A call that gave nothing to use; `status` is unparsable, refused, timed_out or failed."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said.

    Args:
        text: its words.
        finish_reason: whether the length limit cut it.
        num_tokens: as the endpoint counts them.
        top: of each token the likeliest ones at its place with their log-probs [nats]; None where the
            endpoint reports none.
    """

    text: str
    finish_reason: FinishReason = "stop"
    num_tokens: int = 0
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that answers, judges or criticises, under the name that the trail gives it."""

    name: str
    chat: Chat

    async def say(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        top_logprobs: int = 0,
    ) -> Said:
        """Return what the model says next.

        Raises:
            Failed: no reply came, or it was a refusal that the endpoint marks as one.
        """
        try:
            reply = await self.chat.chat(
                messages, temperature=temperature, max_tokens=max_tokens, seed=seed, top_logprobs=top_logprobs
            )
        except JudgeError as error:
            raise Failed(error.status, str(error)) from error
        if reply.refusal:
            raise Failed("refused", f"it refuses: {reply.refusal}")
        top = None if reply.logprobs is None else tuple(t.top for t in reply.logprobs)
        reason: FinishReason = "length" if reply.finish_reason == "length" else "stop"
        return Said(reply.text, reason, reply.completion_tokens, top)
