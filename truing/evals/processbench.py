"""How well a process reward model finds the first wrong step (Zheng et al. 2024, arXiv:2412.06559)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FirstErrors:
    """What ProcessBench reports; accuracies are shares in [0, 1].

    Args:
        predicted: position of the first wrong step of each solution from 0, -1 for none.
        error_accuracy: of the solutions with an error, those in which its very step was found.
        correct_accuracy: of the solutions without one, those in which none was found.
        f1: the harmonic mean of both, so a model that finds every step good has 0.
    """

    predicted: tuple[int, ...]
    error_accuracy: float
    correct_accuracy: float
    f1: float


def first_errors(
    step_scores: Sequence[Sequence[float]], gold: Sequence[int], *, threshold: float
) -> FirstErrors:
    """Return where each solution first scores below the threshold, and how often that is right.

    Args:
        step_scores: of each solution's steps, such as P(step is right).
        gold: position of the first wrong step from 0, -1 for a solution without one.
        threshold: a step below it is wrong; choose it on other solutions than these.

    Raises:
        ValueError: the lists differ in length, a position is none, a score is NaN, or a class is missing.
    """
    if len(step_scores) != len(gold):
        raise ValueError(f"{len(step_scores)} solutions are scored and {len(gold)} have an answer")
    for row, (scores, position) in enumerate(zip(step_scores, gold, strict=True), 1):
        if not -1 <= position < len(scores):
            raise ValueError(f"solution {row} has {len(scores)} steps and its first error at {position}")
        if any(math.isnan(s) for s in scores):
            raise ValueError(f"solution {row} has a step with the score NaN")
    predicted = [next((i for i, s in enumerate(scores) if s < threshold), -1) for scores in step_scores]
    hits = {True: list[bool](), False: list[bool]()}
    for found, position in zip(predicted, gold, strict=True):
        hits[position >= 0].append(found == position)
    if not hits[True] or not hits[False]:
        raise ValueError("F1 needs solutions with an error and solutions without one")
    error, correct = (sum(hits[key]) / len(hits[key]) for key in (True, False))
    f1 = 2 * error * correct / (error + correct) if error + correct else 0.0
    return FirstErrors(tuple(predicted), error, correct, f1)
