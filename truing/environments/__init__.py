"""One file each environment: `Config` and `reply(conversation, prompt, config) -> Reply`.

An environment is what the assistant talks to: messages in, messages out, no tensors. `Config` derives from
`truing.config.EnvironmentOptions` and says how many turns there are and which of them are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from truing.types import Message, Prompt

ReplyStatus = Literal["ok", "malformed", "exhausted", "failed"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an environment says after a turn of the assistant.

    Args:
        messages: what the assistant reads next; without any, the conversation is over.
        status: "ok"; "malformed" where the turn asked for something that could not be read; "exhausted"
            where it asked for more than is allowed; "failed" where the environment itself broke: then the
            conversation is over and has no reward.
        evidence: what went wrong.
    """

    messages: tuple[Message, ...] = ()
    status: ReplyStatus = "ok"
    evidence: str = ""

    def __post_init__(self) -> None:
        if self.status == "failed" and self.messages:
            raise ValueError(f"an environment that failed says nothing more: {self}")


class Environment(Protocol):
    """The module of an environment, as the collector uses it."""

    Config: type[Any]

    def reply(self, conversation: Sequence[Message], prompt: Prompt, config: Any) -> Reply:
        """Return what follows a conversation whose last message is the assistant's.

        The same arguments give the same reply. What the assistant wrote never raises.

        Args:
            conversation: the prompt's messages, then the assistant's turns and the replies to them.
            prompt: what was asked, with its reference and metadata.
            config: the options.
        """
        ...


def turns_taken(conversation: Sequence[Message], prompt: Prompt) -> int:
    """Return how many turns the assistant has had since the prompt."""
    return sum(m.role == "assistant" for m in conversation[len(prompt.messages) :])
