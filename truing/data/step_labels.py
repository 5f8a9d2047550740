"""Labels of steps from what data sets record: ratings of people, or outcomes of continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Neutral = Literal["good", "bad"]
Rollouts = Literal["soft", "hard"]


def from_ratings(ratings: Sequence[int | None], *, neutral: Neutral) -> list[float | None]:
    """Return the label of each rated step up to and including the first bad one; None after it.

    PRM800K (Lightman et al. 2023, arXiv:2305.20050) rates steps -1, 0 or 1, and its second phase stops at
    the first error: what follows is not wrong, it is unlabelled. A rating of None labels nothing.

    Args:
        ratings: of one solution's steps.
        neutral: what a 0 counts as; a neutral step is no error that ends the labels.

    Raises:
        ValueError: a rating is none of -1, 0, 1, None.
    """
    labels, over = list[float | None](), False
    for number, rating in enumerate(ratings, 1):
        if rating not in (-1, 0, 1, None) or isinstance(rating, bool):
            raise ValueError(f"step {number} is rated {rating!r}; a rating is -1, 0 or 1")
        if over or rating is None:
            labels.append(None)
            continue
        labels.append(float(rating == 1 or (rating == 0 and neutral == "good")))
        over = rating == -1
    return labels


def from_rollouts(correct: Sequence[Sequence[float]], *, how: Rollouts) -> list[float]:
    """Return a label for each step from whether continuations after it reached the right answer.

    Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935, eq. 3-4: "hard" is 1 where any of them did, "soft" is
    the share that did. Labels are relative to who continues: a strong model recovers from errors.

    Args:
        correct: for each step, 1 or 0 (or true and false) of each continuation.
        how: "soft" or "hard".

    Raises:
        ValueError: a step has no continuation.
    """
    for number, outcomes in enumerate(correct, 1):
        if not outcomes or any(o not in (0, 1) for o in outcomes):
            raise ValueError(
                f"the continuations of step {number} are {outcomes!r}; right would be some of 0, 1"
            )
    if how == "hard":
        return [float(any(outcomes)) for outcomes in correct]
    return [sum(outcomes) / len(outcomes) for outcomes in correct]
