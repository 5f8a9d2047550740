from __future__ import annotations

import shutil

import pytest
from pydantic import ValidationError

from truing import plugins
from truing.environments import Reply, tool_use
from truing.environments.tool_use import BINARY, TOOLS, calculate
from truing.errors import SandboxError
from truing.sandbox import sandbox
from truing.sandbox.limits import INSTALL
from truing.types import Message, Prompt

PROMPT = Prompt("p", (Message("user", "12*7?"),))


def reply_to(*said: str, **options: object) -> Reply:
    """Return the reply to the last of these turns."""
    conversation = list(PROMPT.messages)
    for text in said:
        conversation += [Message("assistant", text), Message("tool", "?")]
    return tool_use.reply(conversation[:-1], PROMPT, tool_use.Config(**options))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*7", "84"), (" (1 + 2) * -3 ", "-9"), ("7/2", "3.5"), ("168/2", "84"), ("7//2", "3"), ("-7 % 3", "2"),
        ("2**10", "1024"), ("2**-1", "0.5"), ("1e3+.5", "1000.5"), ("1/3", "0.3333333333"), ("0.1+0.2", "0.3"),
    ],
)  # fmt: skip
def test_the_calculator_computes(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "7 apples", "12*", "1/0", "0**-1", "(-8)**0.5", "9**9**9", "9**200", "10**30*10**30", "1e400", "-" * 300,
        "(" * 150 + "1" + ")" * 40, "__import__('os').system('true')", "open('x')", "a", "1,2", "[1]", "1 if 1 else 2",
        "1<2", "1&2", "'a'*9", "1j", "True", "0x10", "3 4", "\x00", "1e", "()", "2(3)",
    ],
)  # fmt: skip
def test_what_has_no_value_is_refused_before_anything_runs(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        calculate(expression)


def test_a_call_is_answered_and_a_turn_without_one_is_the_end() -> None:
    assert reply_to("I need <tool>calculator: 12*7</tool>") == Reply((Message("tool", "84"),))
    assert reply_to("It is 84.") == Reply()
    assert reply_to("<tool>calculator: 12*7</tool>", role="user") == Reply((Message("user", "84"),))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("<tool>calculator: 12*7", "0 whole calls"),
        ("12*7</tool>", "0 whole calls"),
        ("<tool>calculator: 1</tool><tool>calculator: 2</tool>", "2 whole calls"),
        ("<tool>calculator: <tool>1</tool>", "1 whole calls"),
        ("<tool>calculator: 12*7</tool> = 85", "text after the call"),
        ("<tool>12*7</tool>", "a colon"),
        ("<tool>python: 12*7</tool>", "no tool is called 'python'; there are: calculator"),
        ("<tool>calculator: 12x7</tool>", "only numbers"),
        ("<tool>calculator: 1/0</tool>", "has no value"),
    ],
)
def test_a_malformed_call_is_told_what_is_wrong_and_counted(said: str, why: str) -> None:
    found = reply_to(said)
    assert found.status == "malformed"
    assert why in found.evidence
    assert found.messages == (Message("tool", f"error: {found.evidence}"),)


def test_calls_beyond_the_limit_end_the_conversation() -> None:
    call = "<tool>calculator: 1+1</tool>"
    assert reply_to(call, call, max_calls=2).status == "ok"
    over = reply_to(call, call, call, max_calls=2)
    assert (over.status, over.messages) == ("exhausted", ())
    assert reply_to(call, call, "2", max_calls=2) == Reply()
    assert tool_use.Config(max_calls=2).max_turns() == 3


def test_the_options_know_every_tool() -> None:
    assert tool_use.Config.known == tuple(TOOLS)
    with pytest.raises(
        ValidationError, match=r"unknown tool 'calculater'. Did you mean 'calculator'\? Known"
    ):
        plugins.config_class("environments", "tool_use")(tools=["calculater"])
    with pytest.raises(ValidationError):
        tool_use.Config(tools=[])


def test_operators_are_few() -> None:
    assert sorted(op.__name__ for op in BINARY) == ["Add", "Div", "FloorDiv", "Mod", "Mult", "Pow", "Sub"]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason=INSTALL)
def test_python_runs_in_the_sandbox_and_says_what_is_wrong() -> None:
    def said(code: str) -> Reply:
        return reply_to(f"<tool>python: {code}</tool>", tools=["python"])

    assert said("print(12 * 7)") == Reply((Message("tool", "84"),))
    assert said("\nfor i in range(3):\n    print(i)\n") == Reply((Message("tool", "0\n1\n2"),))
    wrong = {
        "12 * 7": "prints nothing",
        "1 / 0": "ZeroDivisionError",
        "import os; os._exit(0)": "did not finish",
        "open('/etc/passwd').read()": "No such file",
        "print('x' * 10**7)": "",
    }
    for code, why in wrong.items():
        found = said(code)
        assert why in found.evidence and len(found.messages[0].content) < 2100
    assert said("print(open('/tmp/a', 'w').write('x'))").messages[0].content == "1"
    assert "No such file" in said("open('/tmp/a')").evidence, "each call has a fresh file system"


def test_python_is_refused_where_nothing_confines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_shared", [])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="install bubblewrap"):
        reply_to("<tool>python: print(1)</tool>", tools=["python"])
