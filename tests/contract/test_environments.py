"""What every environment of `truing/environments/` promises; a new file is tested because it exists."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from truing import plugins
from truing.config import EnvironmentOptions
from truing.environments import Reply, turns_taken
from truing.types import Message, Prompt

NAMES = plugins.names("environments")
each = pytest.mark.parametrize("name", NAMES)
PROMPT = Prompt("p", (Message("system", "be brief"), Message("user", "what is 12 * 7?")), "84")
SAID = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="<tool>/calculator: 0129.+-*%()e\n", max_size=60),
    st.text(alphabet="0129.+-*/%()e ", max_size=40).map(lambda s: f"<tool>calculator: {s}</tool>"),
)


def talk(name: str, said: list[str], prompt: Prompt = PROMPT) -> tuple[list[Reply], list[Message]]:
    """Return the replies to these turns, and the conversation, up to where the environment ends it."""
    module = plugins.load("environments", name)
    config, conversation, replies = module.Config(), list(prompt.messages), list[Reply]()
    for text in said:
        conversation.append(Message("assistant", text))
        replies.append(module.reply(conversation, prompt, config))
        if not replies[-1].messages:
            break
        conversation += replies[-1].messages
    return replies, conversation


@each
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(said=st.lists(SAID, min_size=8, max_size=8))
def test_whatever_is_said_gets_the_same_reply_twice_and_comes_to_an_end(name: str, said: list[str]) -> None:
    replies, conversation = talk(name, said)
    assert (replies, conversation) == talk(name, said)
    config = plugins.load("environments", name).Config()
    assert turns_taken(conversation, PROMPT) <= config.max_turns() + 1
    assert not replies[-1].messages
    assert all(m.role != "assistant" and m.content for r in replies for m in r.messages)
    assert all(r.evidence for r in replies if r.status != "ok")


@each
def test_a_reply_does_not_reveal_the_reference(name: str) -> None:
    said = ["I say 84.", "84"]
    assert talk(name, said)[0] == talk(name, said, Prompt("p", PROMPT.messages, "85"))[0]


@each
def test_options_are_described_and_checked_without_torch(name: str) -> None:
    config = plugins.load("environments", name).Config
    assert issubclass(config, EnvironmentOptions)
    assert all(f.description for f in config.model_fields.values())
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        config(no_such_option=1)
    code = (
        "import sys; from truing import plugins; "
        f"c = plugins.config_class('environments', {name!r}); c().max_turns(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
