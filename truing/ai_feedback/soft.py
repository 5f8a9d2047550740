"""From a model's answer to a probability that one completion is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

COT_CLAMP = (0.4, 0.6)  # what a label after reasoning is clamped to (Bai et al. 2022, section 4.1)
_AROUND = " \t\n()[]{}*_'\"`.:,;"


def soft_label(logprob_a: float, logprob_b: float, *, clamp: tuple[float, float] | None = None) -> float:
    """Return P(A) = exp(a) / (exp(a) + exp(b)), clamped where a range is given.

    Bai et al. 2022 (Constitutional AI), arXiv:2212.08073, section 4.1.

    Args:
        logprob_a: of the answer "A" [nats].
        logprob_b: of the answer "B" [nats].
        clamp: least and greatest label; labels after a chain of thought are close to 0 and 1, and the
            paper clamps them to 0.4 and 0.6.
    """
    gap = logprob_a - logprob_b
    p = 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))
    return p if clamp is None else min(max(p, clamp[0]), clamp[1])


def label_logprobs(
    top: Iterable[tuple[str, float]], labels: Sequence[str] = ("A", "B")
) -> tuple[float, ...] | None:
    """Return the log-prob of each label among a position's likeliest tokens, or None when none is there.

    Tokens that differ in case, blanks and brackets ("A", " a", "(A") are one label, and their
    probabilities add. A label that is not listed has at most the probability of the least likely token
    that is: it gets that much, which moves the answer towards a tie.

    Args:
        top: token texts with their log-probs [nats].
        labels: what a token may say.
    """
    listed = list(top)
    found = [[x for token, x in listed if token.strip(_AROUND).upper() == label] for label in labels]
    if not any(found):
        return None
    least = min(x for _, x in listed)
    return tuple(_log_sum_exp(xs) if xs else least for xs in found)


def _log_sum_exp(values: Sequence[float]) -> float:
    high = max(values)
    return high + math.log(sum(math.exp(x - high) for x in values))


def both_orders(p_first: float, p_second: float) -> float:
    """Return P(the first completion is better), of P(A) as it stood first and P(A) as it stood second."""
    return (p_first + (1 - p_second)) / 2


def both_orders_log_odds(p_first: float, p_second: float) -> float:
    """Return the same with log-odds averaged: sigmoid((logit p_first - logit p_second) / 2).

    A judge that adds a constant to the log-odds of what stands first gives exactly what it would give
    without; the mean of probabilities shrinks its label towards a tie instead.
    """
    return soft_label((_logit(p_first) - _logit(p_second)) / 2, 0.0)


def _logit(p: float) -> float:
    p = min(max(p, 1e-12), 1 - 1e-12)
    return math.log(p / (1 - p))


def vote_share(votes: Sequence[float]) -> float | None:
    """Return the mean of votes of 1 (A), 0 (B) or 0.5 (tie); None without any."""
    return sum(votes) / len(votes) if votes else None
