"""Prompts with instructions that a program can check, from a seed: what `instruction_following` verifies."""

from __future__ import annotations

import hashlib
import random
from typing import Any, Literal

from truing.errors import DataError

_SUBJECTS = (
    "a lighthouse keeper", "a morning at the market", "the first snow", "an old bridge", "learning to swim",
    "a lost umbrella", "baking bread", "a night train", "the school garden", "a broken clock", "a power cut",
    "moving to a new town", "a chess game", "a river trip", "the library cat", "planting a tree",
    "a letter from abroad", "repairing a bicycle", "a mountain hut", "the last ferry",
)  # fmt: skip
_TASKS = (
    "Write a short story about {s}.",
    "Describe {s} to a friend.",
    "Give advice about {s}.",
    "Explain what makes {s} special.",
    "Write a note for a newspaper about {s}.",
    "Write three thoughts about {s}.",
)
_WORDS = (
    "river", "stone", "window", "garden", "paper", "silver", "winter", "music", "kitchen", "yellow", "market",
    "shadow",
)  # fmt: skip
_OPENINGS = ("Long ago", "Dear friend", "To begin with", "Listen")
_ENDINGS = ("The end.", "Take care.", "That is all.")


def rows(
    count: int, seed: int, *, split: Literal["train", "test"] = "train", instructions: int = 2
) -> list[dict[str, Any]]:
    """Return `count` rows with prompt and reference; the splits share no prompt.

    Args:
        count: how many.
        seed: rows are a function of it.
        split: a prompt's text alone decides its side.
        instructions: how many in each prompt, 1 to 4; no two contradict each other.

    Raises:
        DataError: instructions is out of range, or there are not so many prompts.
    """
    if not 1 <= instructions <= 4:
        raise DataError(f"instructions: must be 1 to 4, got {instructions}")
    tries = 0
    generator, found, seen = random.Random(f"instructions/{seed}"), list[dict[str, Any]](), set[str]()
    while len(found) < count:
        tries += 1
        if tries > 1000 + 50 * count:
            raise DataError(f"instructions: there are not {count} prompts of {instructions} instructions")
        row = _row(generator, instructions)
        side = "test" if hashlib.sha256(row["prompt"].encode()).digest()[0] < 64 else "train"
        if side == split and row["prompt"] not in seen:
            seen.add(row["prompt"])
            found.append(row)
    return found


def _row(generator: random.Random, number: int) -> dict[str, Any]:
    task = generator.choice(_TASKS).format(s=generator.choice(_SUBJECTS))
    picked = [_INSTRUCTIONS[group](generator) for group in generator.sample(sorted(_INSTRUCTIONS), number)]
    return {
        "prompt": " ".join([task, *(text for text, _ in picked)]),
        "reference": [check for _, check in picked],
    }


def _length(g: random.Random) -> tuple[str, dict[str, Any]]:
    low = g.choice((20, 40, 60, 80))
    if g.random() < 0.5:
        return f"Use at least {low} words.", {"kind": "words", "at_least": low}
    sentences = g.randint(2, 6)
    return f"Use exactly {sentences} sentences.", {"kind": "sentences", "exactly": sentences}


def _keyword(g: random.Random) -> tuple[str, dict[str, Any]]:
    word = g.choice(_WORDS)
    if g.random() < 0.3:
        return f"Do not use the word '{word}'.", {"kind": "exclude", "text": word}
    times = g.randint(1, 3)
    return f"Use the word '{word}' at least {times} times.", {"kind": "include", "text": word, "times": times}


def _border(g: random.Random) -> tuple[str, dict[str, Any]]:
    if g.random() < 0.5:
        text = g.choice(_OPENINGS)
        return f"Begin with '{text}'.", {"kind": "starts_with", "text": text}
    text = g.choice(_ENDINGS)
    return f"End with '{text}'", {"kind": "ends_with", "text": text}


def _marks(g: random.Random) -> tuple[str, dict[str, Any]]:
    if g.random() < 0.5:
        return "Use no commas.", {"kind": "no_commas"}
    return "Give it a title in double angle brackets, like <<title>>.", {"kind": "title"}


_INSTRUCTIONS = {"length": _length, "keyword": _keyword, "border": _border, "marks": _marks}
