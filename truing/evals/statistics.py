"""Intervals and estimators for evaluations: pass rates, their differences, means, pass@k and best-of-n.

Everything here takes plain numbers and needs only the standard library.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean


@dataclass(frozen=True, slots=True)
class Difference:
    """Pass rate after minus before, with its interval; rates and difference are shares in [-1, 1].

    Args:
        num_prompts: prompts that count: on the same prompts those scored both times, else the smaller sample.
        gained: prompts that only the second passes; None where the samples are not paired.
        lost: prompts that only the first passes; None where the samples are not paired.
        p_value: exact McNemar test of "no change"; None where the samples are not paired.
    """

    num_prompts: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    gained: int | None = None
    lost: int | None = None
    p_value: float | None = None


def wilson_interval(passed: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return (low, high) of a proportion by the score method without continuity correction.

    Inside [0, 1] always, and of sensible width at 0 of n and n of n, where the textbook interval has none.
    Source: Wilson (1927), JASA 22:209-212; recommended by Brown, Cai and DasGupta (2001).

    Raises:
        ValueError: total is below 1, or passed is not in [0, total].
    """
    if total < 1 or not 0 <= passed <= total:
        raise ValueError(f"passed must be in [0, total] and total at least 1, got {passed} of {total}")
    z = _quantile(confidence)
    rate, weight = passed / total, z * z / total
    centre = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / total + weight / (4 * total)) / (1 + weight)
    low = 0.0 if passed == 0 else max(0.0, centre - half)
    high = 1.0 if passed == total else min(1.0, centre + half)
    return low, high


def independent_difference(
    before: tuple[int, int], after: tuple[int, int], confidence: float = 0.95
) -> Difference:
    """Return the difference of two pass rates measured on different prompts; each is (passed, total).

    Source: Newcombe (1998), Statistics in Medicine 17:873-890, method 10 (square and add of Wilson's).

    Raises:
        ValueError: a total is below 1, or passed is not in [0, total].
    """
    low, high = _square_and_add(before, after, 0.0, confidence)
    first, second = before[0] / before[1], after[0] / after[1]
    return Difference(min(before[1], after[1]), first, second, second - first, low, high)


def paired_difference(
    before: Sequence[int | None], after: Sequence[int | None], confidence: float = 0.95
) -> Difference:
    """Return the difference of two pass rates measured on the same prompts.

    The two outcomes of a prompt are correlated, so the interval is usually narrower than that of
    `independent_difference`. Prompts that either side could not score (None) are left out.
    Source: Newcombe (1998), Statistics in Medicine 17:2635-2650, method 10, with his corrected phi;
    the p-value is the exact test of McNemar (1947) on the prompts that changed.

    Args:
        before: 1 for pass, 0 for fail, None for not scored; in the order of the prompts.
        after: the same prompts in the same order.

    Raises:
        ValueError: the lengths differ, or no prompt was scored both times.
    """
    if len(before) != len(after):
        raise ValueError(f"paired outcomes must have one length, got {len(before)} and {len(after)}")
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if not pairs:
        raise ValueError("no prompt was scored both times")
    both, neither = pairs.count((1, 1)), pairs.count((0, 0))
    gained, lost = pairs.count((0, 1)), pairs.count((1, 0))
    num = both + neither + gained + lost
    if num != len(pairs):
        raise ValueError("an outcome must be 1 (pass), 0 (fail) or None (not scored)")
    phi = _corrected_phi(both, lost, gained, neither)
    low, high = _square_and_add((both + lost, num), (both + gained, num), phi, confidence)
    return Difference(
        num,
        before=(both + lost) / num,
        after=(both + gained) / num,
        difference=(gained - lost) / num,
        low=low,
        high=high,
        gained=gained,
        lost=lost,
        p_value=_mcnemar(gained, lost),
    )


def bootstrap_mean_interval(
    values: Sequence[float], confidence: float = 0.95, *, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return (low, high) of a mean by the percentile bootstrap; the same seed gives the same interval.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13. Below about 20
    values it is too narrow.

    Raises:
        ValueError: there are fewer than two values, or one is not finite.
    """
    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"needs at least two values, all finite; got {len(values)}")
    generator = random.Random(seed)
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(num_resamples))
    tail = (1 - _checked(confidence)) / 2
    return _percentile(means, tail), _percentile(means, 1 - tail)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Return 1 - C(n - c, k) / C(n, k): the chance that one of k of the n samples passes, without bias.

    Source: Chen et al. (2021), Evaluating Large Language Models Trained on Code, arXiv:2107.03374, eq. 1.

    Raises:
        ValueError: k is not in [1, num_samples], or num_passed not in [0, num_samples].
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"needs 1 <= k <= n and 0 <= c <= n, got n={num_samples}, c={num_passed}, k={k}")
    failed = num_samples - num_passed
    return 1.0 - math.comb(failed, k) / math.comb(num_samples, k)


def best_of_n_kl_bound(n: int) -> float:
    """Return log n - (n - 1) / n [nats]: at most this far is best-of-n from the policy that it draws from.

    It is exact only where rewards never tie and outcomes form a continuum; of finitely many outcomes the
    KL is smaller (`best_of_n_kl`).
    Source: Stiennon et al. 2020, arXiv:2009.01325, appendix; that it is a bound: Beirami et al. 2024,
    arXiv:2401.01879.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    return math.log(n) - (n - 1) / n


def best_of_n_distribution(probabilities: Sequence[float], n: int) -> list[float]:
    """Return how probably each outcome is the best of n draws: F_k^n - F_(k-1)^n, F the cumulated p.

    Args:
        probabilities: of the outcomes, from the least to the greatest reward, no two rewards equal.
        n: how many are drawn.

    Raises:
        ValueError: n is below 1, or the probabilities are negative or do not sum to 1.
    """
    if n < 1 or min(probabilities, default=-1.0) < 0 or abs(math.fsum(probabilities) - 1) > 1e-9:
        raise ValueError(f"needs n >= 1 and probabilities that sum to 1, got n={n}, {list(probabilities)}")
    below, found = 0.0, list[float]()
    for probability in probabilities:
        found.append((below + probability) ** n - below**n)
        below += probability
    return found


def best_of_n_kl(probabilities: Sequence[float], n: int) -> float:
    """Return the KL of best-of-n from the policy over finitely many outcomes, exactly [nats].

    Args:
        probabilities: as of `best_of_n_distribution`.
        n: how many are drawn.
    """
    chosen = best_of_n_distribution(probabilities, n)
    return math.fsum(q * math.log(q / p) for q, p in zip(chosen, probabilities, strict=True) if q > 0)


def best_of_n_reward(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """Return sum_i C(i-1, n-1) / C(N, n) gold_(i), sorted by proxy: what best-of-n by proxy earns.

    An estimate without bias: the mean, over all subsets of n of the N samples, of the gold reward of the
    sample with the highest proxy; among equal proxies each is as likely, so their gold rewards are averaged.
    Source: Nakano et al. 2021, arXiv:2112.09332, appendix; Gao et al. 2022, arXiv:2210.10760.

    Args:
        proxy: what the choice is made by, of N samples of one prompt.
        gold: what is measured, of the same samples.
        n: how many are drawn, at most N.

    Raises:
        ValueError: the lengths differ, or n is not in [1, N].
    """
    total = len(proxy)
    if len(gold) != total or not 1 <= n <= total:
        raise ValueError(f"needs 1 <= n <= N samples of both, got n={n}, {total} proxies, {len(gold)} golds")
    tied: dict[float, list[float]] = {}
    for by, value in zip(proxy, gold, strict=True):
        tied.setdefault(by, []).append(value)
    below, found = 0, 0.0
    for by in sorted(tied):
        upto = below + len(tied[by])
        chance = (math.comb(upto, n) - math.comb(below, n)) / math.comb(total, n)
        found += chance * fmean(tied[by])
        below = upto
    return found


def student_quantile(df: float, confidence: float = 0.95) -> float:
    """Return the t with P(|T| <= t) = confidence for Student's distribution with df > 0 degrees of freedom.

    Between whole numbers of degrees of freedom log t is interpolated in 1/df, a little to the wide side.

    Raises:
        ValueError: df is not above 0, or confidence not in (0, 1).
    """
    if not df > 0:
        raise ValueError(f"degrees of freedom must be above 0, got {df}")
    normal = _quantile(confidence)
    if df >= 1000:
        return normal * (1 + (normal**2 + 1) / (4 * df))
    whole = max(1, math.floor(df))
    low, high = _student(whole, confidence), _student(whole + 1, confidence)
    share = min(1.0, max(0.0, (1 / whole - 1 / df) / (1 / whole - 1 / (whole + 1))))
    return math.exp((1 - share) * math.log(low) + share * math.log(high))


def _student(df: int, confidence: float) -> float:
    """Return the quantile for a whole df by bisection of the distribution's closed form."""
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_mass(df, middle) < confidence else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _student_mass(df: int, angle: float) -> float:
    """Return P(|T| <= sqrt(df) tan(angle)); Abramowitz and Stegun (1964), 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (1.0, 1.0) if df % 2 == 0 else (cosine, cosine if df > 1 else 0.0)
    for k in range(2 if df % 2 == 0 else 3, df - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return sine * total if df % 2 == 0 else 2 / math.pi * (angle + sine * total)


def _square_and_add(
    before: tuple[int, int], after: tuple[int, int], phi: float, confidence: float
) -> tuple[float, float]:
    first, second = before[0] / before[1], after[0] / after[1]
    low_1, high_1 = wilson_interval(*before, confidence)
    low_2, high_2 = wilson_interval(*after, confidence)
    difference = second - first
    below = _norm(second - low_2, high_1 - first, phi)
    above = _norm(high_2 - second, first - low_1, phi)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _norm(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _corrected_phi(both: int, lost: int, gained: int, neither: int) -> float:
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    cross: float = both * neither - lost * gained
    if cross > 0:
        cross = max(cross - (both + lost + gained + neither) / 2, 0)
    return cross / math.sqrt(margins)


def _mcnemar(gained: int, lost: int) -> float:
    changed, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(changed, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << changed))


def _percentile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    index = min(int(position), len(ordered) - 2)
    return ordered[index] + (ordered[index + 1] - ordered[index]) * (position - index)


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + _checked(confidence)) / 2)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return confidence
