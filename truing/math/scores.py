"""What is done with a reward model's scores: calibration, removal of length, ensembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Combine = Literal["mean", "worst", "uncertainty"]


def correlation(x: Float[Tensor, " B"], y: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return Pearson's correlation; 0, with gradient 0, where either side is constant."""
    x, y = x - x.mean(), y - y.mean()
    spread = x.square().sum() * y.square().sum()
    if not bool(spread > 0):
        return (x * 0).sum()
    return (x * y).sum() / spread.sqrt()


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns raw scores r into gain (r - slope (tokens - mean) / std) + bias.

    Args:
        gain: > 0.
        bias: added last.
        length_slope: what the score gains with each standard deviation of length [raw score].
        length_mean: of the completions it was fitted on [tokens].
        length_std: of the same [tokens].
    """

    gain: float = 1.0
    bias: float = 0.0
    length_slope: float = 0.0
    length_mean: float = 0.0
    length_std: float = 1.0

    def __call__(self, scores: Float[Tensor, " B"], lengths: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the calibrated scores of completions with these lengths [tokens]."""
        longer = (lengths - self.length_mean) / self.length_std
        return self.gain * (scores - self.length_slope * longer) + self.bias


def fit_calibration(
    scores: Float[Tensor, " B"],
    lengths: Float[Tensor, " B"],
    *,
    normalise: bool = True,
    remove_length: bool = False,
) -> Calibration:
    """Return the calibration of these scores, fitted on them.

    normalise: mean 0 and variance 1 (Ziegler et al. 2019, arXiv:1909.08593, section 2.1). remove_length:
    scores and length are uncorrelated afterwards; the slope is that of least squares.

    Args:
        scores: raw, of completions such as those that will be scored.
        lengths: of the same completions [tokens].
        normalise: whether to set gain and bias.
        remove_length: whether to set the slope.

    Raises:
        ValueError: every score is the same, so no gain makes their variance 1.
    """
    mean, std = float(lengths.mean()), float(lengths.std(correction=0))
    slope = 0.0
    if remove_length and std > 0:
        slope = float(((lengths - mean) / std * (scores - scores.mean())).mean())
    found = Calibration(length_slope=slope, length_mean=mean, length_std=std if std > 0 else 1.0)
    if not normalise:
        return found
    left = found(scores, lengths)
    spread = float(left.std(correction=0))
    if not spread > 1e-12 * (1 + float(left.abs().max())):
        raise ValueError(
            f"all {len(scores)} scores are {float(left.mean()):g}, so no gain gives them variance 1: was the "
            "reward model trained at all?"
        )
    gain = 1 / spread
    return Calibration(gain, -gain * float(left.mean()), slope, found.length_mean, found.length_std)


def combine_scores(
    scores: Float[Tensor, "M B"], *, how: Combine, penalty: float = 0.0
) -> Float[Tensor, " B"]:
    """Return one score for each completion from those of M reward models.

    Coste et al. 2023, arXiv:2310.02743, section 3: "mean", "worst" (the lowest member), or "uncertainty",
    mean - penalty * variance over members. The variance divides by M: the paper's code divides by M for
    best-of-n and by M - 1 in PPO.

    Args:
        scores: of every member, each calibrated.
        how: the rule.
        penalty: of the variance, with "uncertainty".
    """
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean if how == "mean" else mean - penalty * scores.var(0, correction=0)


def disagreement(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """Return the standard deviation over members of each completion's score; it divides by M."""
    return torch.std(scores, 0, correction=0)
