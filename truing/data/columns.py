"""What a row's columns mean: every accepted layout becomes messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing.data.readers import SourceRow
from truing.errors import DataError
from truing.types import Message

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_KNOWN_ROLES = ("system", "user", "assistant", "tool")
_SYNONYMS = {
    "question": "prompt",
    "query": "prompt",
    "problem": "prompt",
    "response": "completion",
    "answer": "completion",
    "solution": "completion",
    "accepted": "chosen",
    "preferred": "chosen",
    "dispreferred": "rejected",
    "conversation": "messages",
    "chat": "messages",
}
_LAYOUTS = {
    "demonstrations": "messages (the last turn the assistant's), prompt + completion, "
    "conversations (from, value), or instruction + output",
    "pairs": "prompt + chosen + rejected, or whole conversations in chosen and rejected; if wanted, margin "
    "and preference (the probability that chosen is better)",
    "unpaired": "prompt + completion or messages, and one of label, rating (from 0 for bad to 1 for good) "
    "or thumbs (up, down)",
    "prompts": "prompt or messages (the last turn the user's), and answer or reference where a verifier "
    "needs one",
}


@dataclass(frozen=True, slots=True)
class PairColumns:
    """A preference as messages: a shared start, the two ends, how much better one is, how surely."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float
    preference: float = 1.0


def demonstration(row: SourceRow) -> tuple[tuple[Message, ...], int]:
    """Return the conversation, and the position from which assistant turns are trained.

    Of `prompt` + `completion` only the completion is trained; of `messages` every assistant turn.
    """
    keys = row.values
    if "completion" in keys and "prompt" in keys:
        prompt = _prompt_turns(row)
        return prompt + reply(row, "completion"), len(prompt)
    if "messages" in keys or "conversations" in keys:
        messages = _conversation(row)
        if messages[-1].role != "assistant":
            raise DataError(
                f"{row.where}: the last turn is '{messages[-1].role}'; a demonstration ends with 'assistant'"
            )
        return messages, 0
    if "instruction" in keys and "output" in keys:
        asked = "\n\n".join(_text(row, k) for k in ("instruction", "input") if keys.get(k))
        prompt = (*_system(row), Message("user", asked))
        return (*prompt, Message("assistant", _text(row, "output"))), len(prompt)
    raise _wrong_columns(row, "demonstrations", ("prompt", "completion", "messages", "instruction", "output"))


def unpaired(row: SourceRow) -> tuple[tuple[Message, ...], int, float]:
    """Return the conversation, where the judged reply begins, and how probably it is good.

    The judged reply is the completion, or the last turn of a conversation.
    """
    given = [k for k in ("label", "rating", "thumbs") if row.values.get(k) is not None]
    if not given:
        raise _wrong_columns(
            row, "unpaired", ("prompt", "completion", "messages", "label", "rating", "thumbs")
        )
    if len(given) > 1:
        raise DataError(f"{row.where}: {' and '.join(given)} both judge the completion; keep one column")
    messages, first = demonstration(row)
    return messages, first or len(messages) - 1, _label(row, given[0])


def _label(row: SourceRow, key: str) -> float:
    value = row.values[key]
    words = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0} | (
        {"up": 1.0, "down": 0.0} if key == "thumbs" else {}
    )
    if isinstance(value, str) and value.lower() in words:  # a .csv file holds nothing but text
        return words[value.lower()]
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    right = "'up' or 'down'" if key == "thumbs" else "true, false, or a number from 0 (bad) to 1 (good)"
    raise DataError(f"{row.where}: '{key}' is {value!r}; right would be {right}")


def pair(row: SourceRow) -> PairColumns:
    """Return the shared prompt and the two completions."""
    missing = [k for k in ("chosen", "rejected") if row.values.get(k) is None]
    if missing:
        raise _wrong_columns(row, "pairs", ("prompt", "chosen", "rejected"))
    margin = row.values.get("margin")
    if isinstance(margin, bool) or not isinstance(margin, int | float | None):
        raise DataError(f"{row.where}: 'margin' must be a number, got {margin!r}")
    prompt = _prompt_turns(row) if row.values.get("prompt") is not None else ()
    chosen, rejected = (_side(row, k, prompt) for k in ("chosen", "rejected"))
    shared = len(prompt) or _shared_turns(row, chosen, rejected)
    preference = _preference(row)
    return PairColumns(chosen[:shared], chosen[shared:], rejected[shared:], float(margin or 0.0), preference)


def _preference(row: SourceRow) -> float:
    value = row.values.get("preference")
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"{row.where}: 'preference' is {value!r}; right would be the probability that 'chosen' is "
            "better, a number from 0 to 1 (0.5 for a tie)"
        )
    return float(value)


def prompt(row: SourceRow) -> tuple[Message, ...]:
    """Return the messages that a completion answers."""
    if row.values.get("prompt") is not None:
        messages = _prompt_turns(row)
    elif "messages" in row.values or "conversations" in row.values:
        messages = _conversation(row)
    elif row.values.get("instruction") is not None:
        asked = "\n\n".join(_text(row, k) for k in ("instruction", "input") if row.values.get(k))
        messages = (*_system(row), Message("user", asked))
    else:
        raise _wrong_columns(row, "prompts", ("prompt", "messages"))
    if messages[-1].role == "assistant":
        raise DataError(f"{row.where}: the last turn is the assistant's; a prompt ends with user or tool")
    return messages


def _side(row: SourceRow, key: str, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a whole conversation; a side that repeats the prompt's turns is not doubled."""
    if isinstance(row.values[key], str):
        if not prompt:
            raise DataError(f"{row.where}: '{key}' is text without a 'prompt'; add one, or use messages")
        return (*prompt, Message("assistant", row.values[key]))
    turns = _turns(row, key)
    whole = turns if turns[: len(prompt)] == prompt else prompt + turns
    if whole[-1].role != "assistant":
        raise DataError(f"{row.where}: '{key}' ends with a turn of '{whole[-1].role}', not 'assistant'")
    return whole


def _shared_turns(row: SourceRow, chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    if same == 0:
        raise DataError(
            f"{row.where}: 'chosen' and 'rejected' share no first turn; a pair answers one prompt "
            f"(they begin with {chosen[0].content[:40]!r} and {rejected[0].content[:40]!r})"
        )
    if chosen[same].role != "assistant" or rejected[same].role != "assistant":
        raise DataError(
            f"{row.where}: 'chosen' and 'rejected' first differ in turn {same + 1}, not an assistant's"
        )
    return same


def _prompt_turns(row: SourceRow) -> tuple[Message, ...]:
    if isinstance(row.values["prompt"], str):
        return (*_system(row), Message("user", row.values["prompt"]))
    return (*_system(row), *_turns(row, "prompt"))


def reply(row: SourceRow, key: str) -> tuple[Message, ...]:
    """Return the turns of a completion, which is text or ends with the assistant's turn."""
    if isinstance(row.values[key], str):
        return (Message("assistant", row.values[key]),)
    turns = _turns(row, key)
    if turns[-1].role != "assistant":
        raise DataError(f"{row.where}: '{key}' ends with a turn of '{turns[-1].role}', not 'assistant'")
    return turns


def _conversation(row: SourceRow) -> tuple[Message, ...]:
    turns = _turns(row, "messages" if "messages" in row.values else "conversations")
    return turns if turns[0].role == "system" else (*_system(row), *turns)


def _system(row: SourceRow) -> tuple[Message, ...]:
    return (Message("system", _text(row, "system")),) if row.values.get("system") else ()


def _text(row: SourceRow, key: str) -> str:
    value = row.values[key]
    if not isinstance(value, str):
        raise DataError(f"{row.where}: '{key}' must be text, got {type(value).__name__}: {str(value)[:60]}")
    return value


def _turns(row: SourceRow, key: str) -> tuple[Message, ...]:
    value = row.values[key]
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{row.where}: '{key}' must be a list of turns with role and content, got {str(value)[:60]!r}"
        )
    return tuple(_turn(row, key, n, turn) for n, turn in enumerate(value, 1))


def _turn(row: SourceRow, key: str, number: int, turn: Any) -> Message:
    """Return one turn, from (role, content) or ShareGPT's (from, value)."""
    where = f"{row.where}: '{key}' turn {number}"
    if not isinstance(turn, dict):
        raise DataError(f"{where} must be an object with role and content, got {str(turn)[:60]!r}")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(
            f"{where} needs text in role and content (or from and value); its keys are {sorted(turn)}"
            + ("; tool calls and lists of parts are not supported" if role == "assistant" else "")
        )
    role = _ROLES.get(role, role)
    if role not in _KNOWN_ROLES:
        near = difflib.get_close_matches(role, [*_KNOWN_ROLES, *_ROLES], n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise DataError(f"{where} has role '{role}'; known: {', '.join(_KNOWN_ROLES)}.{hint}")
    return Message(role, content)


def _wrong_columns(row: SourceRow, kind: str, wanted: Sequence[str]) -> DataError:
    found = [k for k, v in row.values.items() if v is not None]
    hints = []
    for key in found:
        if key in wanted:
            continue
        synonym = _SYNONYMS.get(key.lower())
        near = [synonym] if synonym in wanted else difflib.get_close_matches(key.lower(), wanted, n=1)
        if near and near[0] not in found:
            hints.append(f"did you mean '{near[0]}' where it says '{key}'?")
    return DataError(
        f"{row.where}: columns {found} are not those of {kind}: {_LAYOUTS[kind]}. {' '.join(hints)}".rstrip()
    )
