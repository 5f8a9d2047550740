from __future__ import annotations

import pytest

from truing.environments import Reply, self_correct, single_turn, turns_taken
from truing.types import Message, Prompt

PROMPT = Prompt(
    "p", (Message("user", "2+2?"), Message("assistant", "let me think"), Message("user", "well?")), "4"
)


def test_turns_are_counted_from_the_end_of_the_prompt() -> None:
    assert turns_taken(PROMPT.messages, PROMPT) == 0
    assert turns_taken([*PROMPT.messages, Message("assistant", "4")], PROMPT) == 1


def test_a_single_turn_is_the_end() -> None:
    said = [*PROMPT.messages, Message("assistant", "4")]
    assert single_turn.reply(said, PROMPT, single_turn.Config()) == Reply()
    assert single_turn.Config().max_turns() == 1


@pytest.mark.parametrize("answer", ["4", "5", ""])
def test_the_second_attempt_is_asked_for_in_the_same_words_whatever_the_first_was(answer: str) -> None:
    config = self_correct.Config(instruction="Look again.")
    said = [*PROMPT.messages, Message("assistant", answer)]
    asked = self_correct.reply(said, PROMPT, config)
    assert asked == Reply((Message("user", "Look again."),))
    after = [*said, *asked.messages, Message("assistant", "4")]
    assert self_correct.reply(after, PROMPT, config) == Reply()


def test_a_failed_environment_says_nothing_more() -> None:
    with pytest.raises(ValueError, match="says nothing more"):
        Reply((Message("tool", "x"),), "failed", "broke")
