"""What every judge of `truing/judges/` promises; a new file is tested because it exists."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from truing import judges, plugins
from truing.errors import JudgeError
from truing.judges import Example
from truing.judges.client import Reply
from truing.judges.judging import Item, Judged
from truing.types import Message, Prompt

NAMES = judges.names()
CASES = [(n, e) for n in NAMES for e in plugins.load("judges", n).EXAMPLES]


@dataclass
class Scripted:
    """A chat model that says what it is told to, or raises it."""

    replies: list[Any]
    asked: list[Sequence[Message]] = field(default_factory=list)

    async def chat(self, messages: Sequence[Message], **options: Any) -> Reply:
        self.asked.append(messages)
        said = self.replies.pop(0)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Reply) else Reply(said)


def judged(name: str, chat: Scripted, example: Example) -> Judged:
    module = plugins.load("judges", name)
    prompt = Prompt("p", (Message("user", example.prompt),), reference=example.reference)
    item = Item(prompt, example.completions)
    found: Judged = asyncio.run(module.judge(chat, item, module.Config(**example.options)))
    return found


def good(name: str) -> Example:
    return next(e for e in plugins.load("judges", name).EXAMPLES if e.kind == "verdict")


def test_the_folder_holds_the_judges():
    assert {"pairwise", "pointwise", "reference_guided", "rubric"} <= set(NAMES)
    assert not {"client", "calibration", "health", "judging"} & set(NAMES)


@pytest.mark.parametrize(("name", "example"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_examples_hold(name: str, example: Example) -> None:
    chat = Scripted(list(example.replies))
    verdict = judged(name, chat, example).verdict
    assert (verdict.status, verdict.value) == (example.status, pytest.approx(example.value)), verdict.evidence
    assert verdict.evidence
    assert not chat.replies, "not every reply was asked for"


@pytest.mark.parametrize("name", NAMES)
def test_examples_cover_a_verdict_broken_replies_and_an_attack(name: str) -> None:
    examples = plugins.load("judges", name).EXAMPLES
    assert {e.kind for e in examples} == {"verdict", "broken", "attack"}
    assert all((e.kind == "verdict") == (e.status == "scored") for e in examples)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (JudgeError("no reply in time", "timed_out"), "timed_out"),
        (JudgeError("HTTP 500"), "failed"),
        (Reply("", refusal="I cannot help with that."), "refused"),
        (Reply("", "content_filter"), "refused"),
        (Reply("<verdict>A</verdict><verdict-1>yes</verdict-1>", "length"), "unparsable"),
        (Reply("?"), "unparsable"),
    ],
    ids=["timeout", "http", "refusal", "filter", "cut", "no verdict"],
)
def test_peer_26_a_failure_is_a_status_never_a_zero_and_never_a_tie(
    name: str, reply: Any, status: str
) -> None:
    example = good(name)
    verdict = judged(name, Scripted([reply] * 8), example).verdict
    assert (verdict.status, verdict.value) == (status, None)
    assert verdict.evidence


@pytest.mark.parametrize("name", NAMES)
def test_what_is_judged_stands_between_tags_with_a_code_that_it_cannot_hold(name: str) -> None:
    example = good(name)
    chat = Scripted(list(example.replies))
    judged(name, chat, example)
    request = chat.asked[0][-1].content
    for text in (*example.completions, example.prompt):
        assert any(f"-{code}>\n{text}\n</" in request for code in _codes(chat.asked[0][0].content)), request
    again = Scripted(list(example.replies))
    judged(name, again, example)
    assert list(again.asked[0]) == list(chat.asked[0]), "the same request twice must be one key of the cache"


def _codes(system: str) -> list[str]:
    words = system.replace(".", " ").split()
    return [w for w in words if len(w) == 16 and set(w) <= set("0123456789abcdef")]


@pytest.mark.parametrize("name", NAMES)
def test_the_words_lie_beside_the_code_and_every_name_in_them_is_filled(name: str) -> None:
    assert Path(str(plugins.load("judges", name).__file__)).with_suffix(".md").is_file()
    example = good(name)
    chat = Scripted(list(example.replies))
    judged(name, chat, example)
    assert not [m.content for m in chat.asked[0] if "$" in m.content]


@pytest.mark.parametrize("name", NAMES)
def test_options_are_checked_without_torch(name: str) -> None:
    code = (
        "import sys; from truing import plugins; "
        f"c = plugins.config_class('judges', {name!r}); c(); assert 'torch' not in sys.modules; "
        "\ntry: c(no_such_option=1)\nexcept ValueError: pass\nelse: raise SystemExit('accepted')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_votes_at_temperature_0_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="every vote is the same"):
        plugins.config_class("judges", name)(votes=3)
