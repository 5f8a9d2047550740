"""The assistant may call tools: `<tool>calculator: 12*7</tool>` at the end of a turn is answered with 84.

A turn without a call is the final answer. A call that cannot be read, or an expression that has no value,
is answered with what is wrong, and counted. The calculator reads an expression with Python's parser and
computes numbers, + - * / // % **, and parentheses, nothing else; no code is run. Python runs a program in
the sandbox (`truing.sandbox`), fresh for each call, and answers with what it prints.

The prompt must say how a tool is called; word_problems has the option `suffix` for that.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from truing.config import EnvironmentOptions
from truing.environments import Reply, turns_taken
from truing.environments._python import run_python
from truing.types import Message, Prompt


class Config(EnvironmentOptions):
    """Which tools there are, and how often they may be called."""

    known: ClassVar[tuple[str, ...]] = ("calculator", "python")

    tools: list[str] = Field(default=["calculator"], min_length=1, description="that may be called")
    max_calls: int = Field(4, gt=0, description="in a conversation, malformed ones included")
    role: Literal["tool", "user"] = Field(
        "tool", description="of the tool's messages; user for chat templates that know no tool"
    )

    @field_validator("tools")
    @classmethod
    def _tools_exist(cls, tools: list[str]) -> list[str]:
        for name in tools:
            if name not in cls.known:
                near = difflib.get_close_matches(name, cls.known, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"unknown tool '{name}'.{hint} Known: {', '.join(cls.known)}")
        return tools

    def max_turns(self) -> int:
        """Return one turn for each call, and one for the answer."""
        return self.max_calls + 1


_CALL = re.compile(r"<tool>(.*?)</tool>", re.DOTALL)
_TAG = re.compile(r"</?tool>")
_ARITHMETIC = re.compile(r"[0-9.eE_+\-*/%()\s]*")
_FORM = "write one call at the end of the turn, such as <tool>calculator: 12*7</tool>"
_MAX_CHARS = 200
_LARGEST = 10**40
_MAX_EXPONENT = 200

Number = int | float
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda a, b: _power(a, b),
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def reply(conversation: Sequence[Message], prompt: Prompt, config: Config) -> Reply:
    """Return what the called tool says; the end where the turn calls none or too many were called."""
    said = conversation[-1].content
    if not _TAG.search(said):
        return Reply()
    if turns_taken(conversation, prompt) > config.max_calls:
        return Reply(status="exhausted", evidence=f"more than {config.max_calls} calls")
    try:
        name, argument = _read_call(said)
        if name not in config.tools:
            raise ValueError(f"no tool is called '{name[:40]}'; there are: {', '.join(config.tools)}")
        return Reply((Message(config.role, TOOLS[name](argument)),))
    except ValueError as error:
        return Reply((Message(config.role, f"error: {error}"),), "malformed", str(error))


def calculate(expression: str) -> str:
    """Return the value of an arithmetic expression as text.

    Raises:
        ValueError: it is no arithmetic, too long, has no value (1/0), or one beyond 1e40.
    """
    text = expression.strip()
    if len(text) > _MAX_CHARS:
        raise ValueError(f"the expression has more than {_MAX_CHARS} characters")
    if not _ARITHMETIC.fullmatch(text):
        raise ValueError("only numbers, + - * / // % ** and parentheses are allowed")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the parser's limits on nesting
        raise ValueError(f"'{text[:60]}' is no arithmetic expression") from error
    except ArithmeticError as error:
        raise ValueError(f"'{text[:60]}' has no value: {error}") from error
    return str(value) if isinstance(value, int) else f"{value:.10g}"


TOOLS: dict[str, Callable[[str], str]] = {"calculator": calculate, "python": run_python}


def _read_call(said: str) -> tuple[str, str]:
    calls = list(_CALL.finditer(said))
    if len(calls) != 1 or len(_TAG.findall(said)) != 2:
        raise ValueError(f"{len(calls)} whole calls in one turn; {_FORM}")
    if said[calls[0].end() :].strip():
        raise ValueError(f"there is text after the call; {_FORM}")
    name, colon, argument = calls[0][1].partition(":")
    if not colon:
        raise ValueError(f"a call is a tool's name, a colon and its argument; {_FORM}")
    return name.strip(), argument


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value: Number = node.value
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        value = BINARY[type(node.op)](_value(node.left), _value(node.right))
    elif isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        value = UNARY[type(node.op)](_value(node.operand))
    else:
        raise ValueError("only numbers, + - * / // % ** and parentheses are allowed")
    if isinstance(value, complex) or not abs(value) <= _LARGEST:
        raise ValueError("a value is no real number, or beyond 1e40")
    return value


def _power(base: Number, exponent: Number) -> Number:
    """Return base ** exponent, refused before it is computed where it would be huge."""
    if abs(exponent) > _MAX_EXPONENT:
        raise ValueError(f"an exponent is beyond {_MAX_EXPONENT}")
    result: Number = base**exponent
    return result
