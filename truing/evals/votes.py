"""Votes over the answers of several completions, and how the scores of steps become one score.

Uesato et al. 2022, arXiv:2211.14275; Wang et al. 2022, arXiv:2203.11171 (plain majority).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import fmean
from typing import Literal, TypeVar

Aggregation = Literal["last", "min", "prod", "mean"]
Answer = TypeVar("Answer", bound=Hashable)


def aggregate_steps(scores: Sequence[float], how: Aggregation) -> float:
    """Return one score of a completion from the scores of its steps: the last, least, product or mean.

    Args:
        scores: of the steps in their order, probabilities in [0, 1].
        how: "last" where a score already judges everything up to its step; "min" and "prod" where it
            judges its own step alone.

    Raises:
        ValueError: there is no step.
    """
    if not scores:
        raise ValueError("a completion without steps has no score")
    if how == "last":
        return scores[-1]
    if how == "min":
        return min(scores)
    return math.prod(scores) if how == "prod" else fmean(scores)


def weighted_votes(
    answers: Sequence[Answer | None], scores: Sequence[float] | None = None
) -> dict[Answer, float]:
    """Return the sum of scores of each answer: sum_{i: a_i = a} s_i; a plain count without scores.

    Args:
        answers: in a canonical form, so that equal answers are equal; None cannot be parsed and never votes.
        scores: of the completions, probabilities and not logits; None counts each as 1.

    Raises:
        ValueError: there are not as many scores as answers.
    """
    weights = [1.0] * len(answers) if scores is None else list(scores)
    votes: dict[Answer, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + weight
    return votes


def weighted_majority(
    answers: Sequence[Answer | None], scores: Sequence[float] | None = None
) -> Answer | None:
    """Return the answer with the most weight, the earlier one of a tie; None where nothing could vote."""
    votes = weighted_votes(answers, scores)
    return max(votes, key=votes.__getitem__) if votes else None
