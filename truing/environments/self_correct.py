"""The assistant answers, is asked to look again, and answers a second time.

The setting of SCoRe (Kumar et al. 2024, arXiv:2409.12917). The instruction is the same whatever the first
answer was, so it reveals nothing about it. Both turns are judged; the second one's reward is the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from truing.config import EnvironmentOptions
from truing.environments import Reply, turns_taken
from truing.types import Message, Prompt


class Config(EnvironmentOptions):
    """What is said between the two attempts."""

    judged: ClassVar[Literal["last", "every"]] = "every"

    instruction: str = Field(
        "There may be a mistake in the solution above. Check it, correct it where it needs correcting, and "
        "write the whole solution again.",
        min_length=1,
        description="the user's message after the first attempt",
    )

    def max_turns(self) -> int:
        """Return 2."""
        return 2


def reply(conversation: Sequence[Message], prompt: Prompt, config: Config) -> Reply:
    """Return the instruction after the first attempt, and the end after the second."""
    if turns_taken(conversation, prompt) < config.max_turns():
        return Reply((Message("user", config.instruction),))
    return Reply()
