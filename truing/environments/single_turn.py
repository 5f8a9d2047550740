"""The assistant answers once; this is also what happens without an environment."""

from __future__ import annotations

from collections.abc import Sequence

from truing.config import EnvironmentOptions
from truing.environments import Reply
from truing.types import Message, Prompt


class Config(EnvironmentOptions):
    """There are no options."""


def reply(conversation: Sequence[Message], prompt: Prompt, config: Config) -> Reply:
    """Return the end of the conversation."""
    return Reply()
