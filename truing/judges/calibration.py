"""A judge beside people: how far it can be believed, and what a win rate is worth once its errors are known.

The labels of people are worth something where they were given without sight of the judge's, on items drawn
as the others were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from truing.evals.statistics import wilson_interval
from truing.judges.agreement import bootstrap_interval, cohen_kappa, krippendorff_alpha


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; `count` is how many items it rests on."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Bin:
    """What the judge said and what people said of the items that it put into one bin."""

    said: float
    true: float
    count: int


def share(hits: int, total: int, confidence: float = 0.95) -> Estimate:
    """Return hits / total with Wilson's interval."""
    return Estimate(hits / total, *wilson_interval(hits, total, confidence), total)


def estimate_of(
    value: float, statistic: Callable[[Sequence[int]], float], count: int, *, is_share: bool = False
) -> Estimate:
    """Return a statistic of items with its bootstrap interval.

    A share that is 0 or 1 in every resample would get an interval of no width: it gets Wilson's.
    """
    low, high = bootstrap_interval(statistic, count)
    if is_share and low == high and value in (0.0, 1.0):
        low, high = wilson_interval(round(value * count), count)
    return Estimate(value, low, high, count)


def against_people(judge: Sequence[float], people: Sequence[float]) -> dict[str, Estimate]:
    """Return how far a judge's verdicts agree with people's labels, with bootstrap intervals over items.

    "agreement" counts a tie as a label of its own, "agreement_without_ties" leaves out items that either
    side calls a tie; "cohen_kappa" and "krippendorff_alpha" take chance off. What is undefined (kappa where
    all labels are one) is left out.

    Args:
        judge: in [0, 1]; what counts is whether it is above, at or below one half.
        people: in [0, 1], of the same items.

    Raises:
        ValueError: the lengths differ or there are fewer than two items.
    """
    said, true = [_side(x) for x in judge], [_side(x) for x in people]
    if len(said) != len(true) or len(said) < 2:
        raise ValueError(f"needs two items or more with both labels, got {len(said)} and {len(true)}")
    decided = [(a, b) for a, b in zip(said, true, strict=True) if 0.5 not in (a, b)]
    same = sum(a == b for a, b in zip(said, true, strict=True))
    found = {"agreement": share(same, len(said))}
    if decided:
        found["agreement_without_ties"] = share(sum(a == b for a, b in decided), len(decided))
    statistics: dict[str, Callable[[Sequence[int]], float]] = {
        "cohen_kappa": lambda rows: cohen_kappa([said[i] for i in rows], [true[i] for i in rows]),
        "krippendorff_alpha": lambda rows: krippendorff_alpha([[said[i], true[i]] for i in rows]),
    }
    for name, statistic in statistics.items():
        value = statistic(range(len(said)))
        if not math.isnan(value):
            found[name] = estimate_of(value, statistic, len(said))
    return found


def reliability(said: Sequence[float], true: Sequence[float], *, num_bins: int = 10) -> list[Bin]:
    """Return the reliability curve: by bins of equal width of what was said, the mean said and the mean true.

    Args:
        said: probabilities in [0, 1], such as expected verdicts over log-probs.
        true: what people say, in [0, 1].
        num_bins: of [0, 1]; empty ones are left out.
    """
    members: dict[int, list[tuple[float, float]]] = {}
    for p, y in zip(said, true, strict=True):
        members.setdefault(min(int(p * num_bins), num_bins - 1), []).append((p, y))
    return [
        Bin(fmean(p for p, _ in found), fmean(y for _, y in found), len(found))
        for _, found in sorted(members.items())
    ]


def calibration_error(said: Sequence[float], true: Sequence[float], *, num_bins: int = 10) -> float:
    """Return the expected calibration error: sum_b n_b / n |said_b - true_b| over the bins of `reliability`.

    Source: Naeini, Cooper and Hauskrecht (2015), AAAI. It is biased upwards on few items.
    """
    bins = reliability(said, true, num_bins=num_bins)
    return sum(b.count * abs(b.said - b.true) for b in bins) / sum(b.count for b in bins)


def corrected_rate(
    judge: Sequence[bool], known_judge: Sequence[bool], known_people: Sequence[bool], confidence: float = 0.95
) -> Estimate:
    """Return the rate that people would find, from a judge's rate and its known errors.

        rate = (p + specificity - 1) / (sensitivity + specificity - 1), within [0, 1]

    The interval holds the uncertainty of the judge's rate and of both error rates: it is wider than the
    judge's own, and grows without bound as the judge gets no better than chance.
    Source: Rogan and Gladen (1978), American Journal of Epidemiology 107:71-76; interval: Lang and Reiczigel
    (2014), Preventive Veterinary Medicine 113:13-22.

    Args:
        judge: what the judge says of items without a label of people.
        known_judge: what it says of items with one.
        known_people: their labels.

    Raises:
        ValueError: a class has no label, or the judge is no better than chance on the known items.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    of_true = [j for j, h in zip(known_judge, known_people, strict=True) if h]
    of_false = [not j for j, h in zip(known_judge, known_people, strict=True) if not h]
    if not judge or not of_true or not of_false:
        raise ValueError(
            f"needs judged items ({len(judge)}) and known items that people call true ({len(of_true)}) "
            f"and false ({len(of_false)})"
        )
    rate, sensitivity, specificity = fmean(judge), fmean(of_true), fmean(of_false)
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"the judge is no better than chance on the known items (sensitivity {sensitivity:.3f}, "
            f"specificity {specificity:.3f}): its rate says nothing about people's"
        )
    value = (rate + specificity - 1) / (sensitivity + specificity - 1)
    low, high = _lang_reiczigel(
        (rate, len(judge)), (sensitivity, len(of_true)), (specificity, len(of_false)), z
    )
    return Estimate(min(max(value, 0.0), 1.0), low, high, len(judge))


def prediction_powered_mean(
    judge: Sequence[float],
    known_judge: Sequence[float],
    known_people: Sequence[float],
    confidence: float = 0.95,
) -> Estimate:
    """Return w mean(judge) + mean(people - w judge): people's mean, ties and all, from few labels.

    The verdicts count with the weight that makes the interval shortest, so a useless judge does no harm.
    Unlike `corrected_rate` it needs known items that are drawn as the others are.
    Source: Angelopoulos et al. 2023, arXiv:2301.09633; the weight: arXiv:2311.01453, with one mean.

    Args:
        judge: verdicts in [0, 1] of items without a label of people.
        known_judge: verdicts of items with one.
        known_people: their labels in [0, 1].

    Raises:
        ValueError: there are fewer than two items of either kind.
    """
    if len(judge) < 2 or len(known_judge) < 2:
        raise ValueError(
            f"needs two items of either kind, got {len(judge)} judged and {len(known_judge)} known"
        )
    n, m = len(known_judge), len(judge)
    mean_j, mean_h = fmean(known_judge), fmean(known_people)
    pooled = [*judge, *known_judge]
    spread = sum((x - fmean(pooled)) ** 2 for x in pooled) / (len(pooled) - 1)
    common = sum((j - mean_j) * (h - mean_h) for j, h in zip(known_judge, known_people, strict=True)) / (
        n - 1
    )
    weight = 0.0 if spread == 0 else min(max(common / (spread * (1 + n / m)), 0.0), 1.0)
    rest = [h - weight * j for j, h in zip(known_judge, known_people, strict=True)]
    value = weight * fmean(judge) + fmean(rest)
    of_rest = sum((r - fmean(rest)) ** 2 for r in rest) / (n - 1)
    error = math.sqrt(weight * weight * spread / m + of_rest / n)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), n + m)


def _lang_reiczigel(
    rate: tuple[float, int], sensitivity: tuple[float, int], specificity: tuple[float, int], z: float
) -> tuple[float, float]:
    (p, n), (se, n_se), (sp, n_sp) = rate, sensitivity, specificity
    p, n_p = (n * p + z * z / 2) / (n + z * z), n + z * z
    se, m_se = (n_se * se + 1) / (n_se + 2), n_se + 2
    sp, m_sp = (n_sp * sp + 1) / (n_sp + 2), n_sp + 2
    gain = se + sp - 1
    if gain <= 0:
        return 0.0, 1.0
    true = min(max((p + sp - 1) / gain, 0.0), 1.0)
    of_se, of_sp = se * (1 - se) / m_se, sp * (1 - sp) / m_sp
    shift = 2 * z * z * (true * of_se - (1 - true) * of_sp)
    half = z * math.sqrt(p * (1 - p) / n_p + (1 - true) ** 2 * of_sp + true**2 * of_se) / gain
    return min(max(true + shift - half, 0.0), 1.0), min(max(true + shift + half, 0.0), 1.0)


def _side(value: float) -> float:
    return 0.5 if value == 0.5 else float(value > 0.5)
