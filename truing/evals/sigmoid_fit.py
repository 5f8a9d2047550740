"""Least squares of many sigmoids at once: a grid to start from, then Levenberg and Marquardt.

Marquardt 1963, SIAM Journal 11:431-441. On the grid the gain A - R_0 has a closed form, for the law is
linear in it; the refinement moves gain, log slope and log midpoint together, inside their bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
SLOPES = (0.1, 10.0)  # what a fitted slope may be; published ones are from 1 to 3
_REACH = math.log(1000.0)  # how far beyond the points a fitted midpoint may be, in log compute
_GRID = (33, 49)  # slopes, midpoints
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Sigmoids:
    """Fitted sigmoids, one entry each."""

    asymptote: Array
    slope: Array
    midpoint: Array

    def at(self, compute: Array, start: float) -> Array:
        """Return the values [sigmoids, points]."""
        share = _share(np.log(compute), np.log(self.slope), np.log(self.midpoint))
        values: Array = start + (self.asymptote - start)[:, None] * share
        return values


def fit_sigmoids(
    compute: Array, reward: Array, *, start: float, ceiling: float, guess: Sigmoids | None = None
) -> Sigmoids:
    """Return the least-squares sigmoid of each row of rewards.

    Args:
        compute: of the points, above 0.
        reward: [sigmoids, points].
        start: R_0, given.
        ceiling: bound of the asymptote.
        guess: one sigmoid that is tried as a start for every row, beside the grid's best.
    """
    logs, gains = np.log(compute), reward - start
    bounds = np.array([
        [-np.inf, ceiling - start], np.log(SLOPES), [logs.min() - _REACH, logs.max() + _REACH]
    ])  # fmt: skip
    found = _refined(logs, gains, _grid_best(logs, gains, bounds), bounds)
    if guess is not None:
        first = [guess.asymptote[0] - start, math.log(guess.slope[0]), math.log(guess.midpoint[0])]
        other = _refined(logs, gains, np.tile(first, (len(gains), 1)), bounds)
        better = _squares(logs, gains, other) < _squares(logs, gains, found)
        found = np.where(better[:, None], other, found)
    return Sigmoids(found[:, 0] + start, np.exp(found[:, 1]), np.exp(found[:, 2]))


def _share(logs: Array, log_slope: Array, log_midpoint: Array) -> Array:
    """Return 1 / (1 + (C_mid / C)^B) [sigmoids, points]."""
    power = np.exp(log_slope)[:, None] * (log_midpoint[:, None] - logs)
    share: Array = 1 / (1 + np.exp(np.clip(power, -700, 700)))
    return share


def _grid_best(logs: Array, gains: Array, bounds: Array) -> Array:
    """Return gain, log slope and log midpoint of the best grid point of each row."""
    slopes, midpoints = (np.linspace(bounds[i + 1, 0], bounds[i + 1, 1], num) for i, num in enumerate(_GRID))
    places = np.stack([a.ravel() for a in np.meshgrid(slopes, midpoints)], axis=1)
    shares = _share(logs, places[:, 0], places[:, 1])
    norms = np.maximum((shares**2).sum(1), 1e-30)
    products = gains @ shares.T
    height = np.minimum(products / norms, bounds[0, 1])
    best = (height * (height * norms - 2 * products)).argmin(1)
    return np.concatenate([height[np.arange(len(gains)), best][:, None], places[best]], axis=1)


def _squares(logs: Array, gains: Array, at: Array) -> Array:
    squares: Array = ((gains - at[:, :1] * _share(logs, at[:, 1], at[:, 2])) ** 2).sum(1)
    return squares


def _refined(logs: Array, gains: Array, at: Array, bounds: Array) -> Array:
    """Return the parameters after damped Gauss-Newton steps; a step that makes a row worse is not taken."""
    damping, squares = np.full(len(at), 1e-3), _squares(logs, gains, at)
    for _ in range(_STEPS):
        share = _share(logs, at[:, 1], at[:, 2])
        slope, bent = np.exp(at[:, 1:2]), at[:, :1] * share * (1 - share)
        jacobian = np.stack([share, bent * slope * (logs - at[:, 2:3]), -bent * slope], axis=2)
        normal = np.einsum("rni,rnj->rij", jacobian, jacobian)
        right = np.einsum("rni,rn->ri", jacobian, gains - at[:, :1] * share)
        diagonal = np.einsum("rii->ri", normal)
        damped = normal + np.einsum("ri,ij->rij", damping[:, None] * diagonal + 1e-12, np.eye(3))
        step = np.linalg.solve(damped, right[..., None])[..., 0]
        tried = np.clip(at + step, bounds[:, 0], bounds[:, 1])
        new = _squares(logs, gains, tried)
        better = new < squares
        at, squares = np.where(better[:, None], tried, at), np.where(better, new, squares)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-12, 1e12)
    return at
