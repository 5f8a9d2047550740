"""Small arithmetic word problems from a seed, with worked solutions: a task that tiny models can learn.

Train and test problems are disjoint by construction: a problem's text alone decides its side.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from truing.errors import DataError

Operation = Literal["add", "subtract", "multiply"]
OPERATIONS: tuple[Operation, ...] = ("add", "subtract", "multiply")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NAMES = _words(
    "Ada Amir Anna Ben Bo Carla Chen Dana David Elif Emma Eva Finn Grace Hana Hugo Ines Ivan Jack Jin Kofi "
    "Lena Leo Lina Luis Maya Mei Mia Mila Nia Noah Nora Omar Otto Pia Ravi Rosa Sam Sara Tara Tom Uma Vera "
    "Will Yara Zoe"
)
_ITEMS = _words(
    "apples bananas beads books buttons cards candles coins cookies cups dolls eggs flowers kites lemons "
    "marbles muffins oranges peaches pears pencils pens pies plates plums rocks shells stamps stickers toys"
)
_HOLDERS = ("bags", "boxes", "baskets", "jars", "trays", "shelves", "packs", "drawers")

_OPEN_COUNT = (
    "{name} has {n} {items}.",
    "{name} starts the day with {n} {items}.",
    "There are {n} {items} on {name}'s table.",
    "{name} counts {n} {items}.",
)
_OPEN_PRODUCT = (
    "{name} has {k} {holders} with {n} {items} in each.",
    "{name} fills {k} {holders} and puts {n} {items} in each.",
    "There are {k} {holders} in {name}'s room, and each holds {n} {items}.",
    "{name} buys {k} {holders} of {n} {items} each.",
)
_NEXT: dict[Operation, tuple[str, ...]] = {
    "add": (
        "{friend} gives {name} {n} more {items}.",
        "Then {name} buys {n} more {items}.",
        "Later, {name} finds {n} {items}.",
        "{friend} brings {n} more {items}.",
    ),
    "subtract": (
        "{name} gives {n} {items} to {friend}.",
        "Then {name} loses {n} {items}.",
        "{friend} takes {n} of the {items}.",
        "{name} sells {n} {items}.",
    ),
    "multiply": (
        "A week later there are {n} times as many {items}.",
        "Then the number of {items} becomes {n} times as large.",
    ),
}
_QUESTIONS = (
    "How many {items} are there now?",
    "How many {items} does that make in the end?",
    "What is the number of {items} now?",
)
_WORKED = {
    "add": "Add {n}: {before} + {n} = {after}.",
    "subtract": "Take away {n}: {before} - {n} = {after}.",
    "multiply": "Multiply by {n}: {before} * {n} = {after}.",
}
_ASK = "Give the final answer in \\boxed{}."
_MAX_TRIES_PER_ROW = 2000


def rows(
    count: int,
    seed: int,
    *,
    steps: int | Sequence[int] = (1, 2),
    operations: Sequence[Operation] = OPERATIONS,
    max_number: int = 20,
    max_factor: int = 6,
    worked: bool = False,
    split: Literal["train", "test"] = "train",
    suffix: str = "",
) -> Iterator[dict[str, Any]]:
    """Yield `count` different problems: prompt, answer and, if `worked`, a completion in short steps.

    Args:
        count: how many rows.
        seed: the rows are a function of the seed and the options.
        steps: how many operations a problem takes, or the choices, drawn evenly.
        operations: which operations occur.
        max_number: largest number that is added, subtracted or started with.
        max_factor: largest factor of a multiplication.
        worked: add the column `completion`, a solution of a line for each step that ends in \\boxed{answer}.
        split: "train" or "test"; about one problem in five is a test problem, whatever the options.
        suffix: more text at the end of every prompt, such as how a tool is called.

    Raises:
        DataError: an option is out of range, or there are fewer than `count` problems of this kind.
    """
    choices = [steps] if isinstance(steps, int) else list(steps)
    _check(choices, operations, max_number, max_factor, split)
    rng = random.Random(f"{seed} {split}")
    seen: set[str] = set()
    for _ in range(count):
        for _ in range(_MAX_TRIES_PER_ROW):
            text, lines, answer = _problem(rng, rng.choice(choices), operations, max_number, max_factor)
            if split_of(text) == split and text not in seen:
                break
        else:
            raise DataError(
                f"word_problems: only {len(seen)} different problems found, {count} asked for; "
                "raise max_number, steps or operations"
            )
        seen.add(text)
        row: dict[str, Any] = {"prompt": " ".join(filter(None, (text, _ASK, suffix))), "answer": str(answer)}
        if worked:
            row["completion"] = "\n".join([*lines, f"The answer is \\boxed{{{answer}}}."])
        yield row


def split_of(text: str) -> Literal["train", "test"]:
    """Return the side of a problem: "test" when the sha256 of its text is divisible by 5."""
    return "test" if int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0 else "train"


def _problem(
    rng: random.Random, num_steps: int, operations: Sequence[Operation], max_number: int, max_factor: int
) -> tuple[str, list[str], int]:
    """Return (text, worked steps, answer) of one random problem."""
    name, friend = rng.sample(_NAMES, 2)
    words = {"name": name, "friend": friend, "items": rng.choice(_ITEMS), "holders": rng.choice(_HOLDERS)}
    total, told, lines = rng.randint(2, max_number), list[str](), list[str]()
    drawn = [rng.choice(list(operations)) for _ in range(num_steps)]
    if drawn[0] == "multiply":
        k = rng.randint(2, max_factor)
        told.append(rng.choice(_OPEN_PRODUCT).format(**words, k=k, n=total))
        lines.append(f"There are {k} times {total} {words['items']}: {k} * {total} = {k * total}.")
        total, drawn = k * total, drawn[1:]
    else:
        told.append(rng.choice(_OPEN_COUNT).format(**words, n=total))
        lines.append(f"There are {total} {words['items']}.")
    for choice in drawn:
        operation: Operation = "add" if choice == "subtract" and total < 2 else choice  # nothing to take away
        number, after = _apply(rng, operation, total, max_number, max_factor)
        told.append(rng.choice(_NEXT[operation]).format(**words, n=number))
        lines.append(_WORKED[operation].format(before=total, n=number, after=after))
        total = after
    told.append(rng.choice(_QUESTIONS).format(**words))
    return " ".join(told), lines, total


def _apply(
    rng: random.Random, operation: Operation, total: int, max_number: int, max_factor: int
) -> tuple[int, int]:
    """Return a random operand and the result, which stays positive."""
    if operation == "add":
        number = rng.randint(2, max_number)
        return number, total + number
    if operation == "subtract":
        number = rng.randint(1, min(max_number, total - 1))
        return number, total - number
    number = rng.randint(2, max_factor)
    return number, total * number


def _check(
    steps: Sequence[int], operations: Sequence[str], max_number: int, max_factor: int, split: str
) -> None:
    unknown = sorted(set(operations) - set(OPERATIONS))
    problems = {
        f"steps must be 1 or more, got {list(steps)}": not steps or min(steps) < 1,
        f"operations must be some of {list(OPERATIONS)}, got {list(operations)}": unknown or not operations,
        f"max_number must be 2 or more, got {max_number}": max_number < 2,
        f"max_factor must be 2 or more, got {max_factor}": max_factor < 2,
        f"split must be 'train' or 'test', got {split!r}": split not in ("train", "test"),
    }
    for message, wrong in problems.items():
        if wrong:
            raise DataError(f"word_problems: {message}")
