"""Which answers are one, by the verifier's own word, and which of the found completions is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from truing.errors import ConfigError
from truing.evals.votes import weighted_majority
from truing.search._records import Choice, Path, best


@dataclass(frozen=True, slots=True)
class Reader:
    """A verifier as a reader of answers.

    Args:
        module: with `verify` and `answer(completion, config) -> str | None`.
        config: its options.
    """

    module: ModuleType
    config: Any

    def same(self, completion: str, answer: str) -> bool:
        """Return whether the verifier accepts the completion where this answer is the reference."""
        value = self.module.verify(completion, answer, self.config).value
        return value is not None and value >= 0.5

    def answer(self, completion: str) -> str | None:
        """Return the answer of a completion; None where there is none that the verifier can compare.

        An answer that the verifier does not find equal to itself is none: it cannot be parsed.
        """
        found: str | None = self.module.answer(completion, self.config)
        return found if found is not None and self.same(completion, found) else None


def reader_of(module: ModuleType, config: Any) -> Reader:
    """Return the reader of a verifier.

    Raises:
        ConfigError: the verifier cannot say what the answer of a completion is.
    """
    if not callable(getattr(module, "answer", None)):
        name = module.__name__.rpartition(".")[2]
        raise ConfigError(
            f"a vote needs a verifier that reads answers, and '{name}' has no answer(completion, config); "
            "use math_answer or exact_match, or strategies that choose the best completion"
        )
    return Reader(module, config)


def answer_classes(completions: Sequence[str], reader: Reader) -> list[int | None]:
    """Return the number of each completion's answer: the same where the verifier finds them equal.

    Numbers count from 0 in the order of appearance; None stands for no answer, which never votes.
    """
    answers = list[str]()  # the first of each class
    known = dict[str, int | None]()
    classes = list[int | None]()
    for text in completions:
        if text not in known:
            known[text] = _class_of(text, answers, reader)
        classes.append(known[text])
    return classes


def _class_of(completion: str, answers: list[str], reader: Reader) -> int | None:
    found = reader.answer(completion)
    if found is None:
        return None
    for number, answer in enumerate(answers):
        if found == answer or reader.same(completion, answer):
            return number
    answers.append(found)
    return len(answers) - 1


def choose(paths: Sequence[Path], choice: Choice, classes: Sequence[int | None] | None = None) -> Path | None:
    """Return the path of the highest value, or the one of it whose answer wins the vote; None for none.

    Args:
        paths: what a search found; those that were not scored can neither be best nor weigh.
        choice: "best", "majority" (each path one vote) or "weighted" (each its value).
        classes: of the paths' answers, where a vote is taken.
    """
    if choice == "best":
        return next(iter(best(paths, 1)), None)
    assert classes is not None
    voting = list(zip(paths, classes, strict=True))
    if choice == "weighted":
        voting = [(path, c) for path, c in voting if path.value is not None]
    weights = [path.value or 0.0 for path, _ in voting] if choice == "weighted" else None
    winner = weighted_majority([c for _, c in voting], weights)
    agreed = [path for path, c in voting if c is not None and c == winner]
    return next(iter(best(agreed, 1) or agreed), None)
