"""Group-sequential looks at growing samples: how much of the error each may spend (Lan and DeMets
1983).

The spending function is Lan and DeMets' form of O'Brien and Fleming's boundaries (Biometrika 70,
659-663): hardly anything is spent early, so that the last look has nearly the whole. The bounds
follow by recursive numeric integration of the density of those that have not stopped (Armitage,
McPherson and Rowe 1969)."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

# of Gauss-Legendre integration; the bounds of the published tables come out to all their digits
NODES = 200
SIGMAS = 9  # below so many standard deviations there is nothing to integrate


def spent(error: float, fraction: float) -> float:
    """What may have been spent of a one-sided `error` once this fraction of the information is
    there."""
    from scipy.stats import norm

    return float(2 * norm.sf(norm.isf(error / 2) / math.sqrt(fraction)))


def _excess(
    bound: float, points: np.ndarray, density: np.ndarray, step: float, wanted: float
) -> float:
    """Probability to cross the bound in this step, beyond what is wanted."""
    from scipy.stats import norm

    return float(density @ norm.sf((bound - points) / step)) - wanted


@cache
def errors(error: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """The one-sided error of each look alone, so that all together make `error`. Fractions of the
    information rise to 1."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    per_look, before, time = [], 0.0, 0.0
    points, density = (
        np.zeros(1),
        np.ones(1),
    )  # of the Brownian motion's value, weighted; it starts at 0
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    for fraction in fractions:
        total, step = spent(error, fraction), math.sqrt(fraction - time)
        bound = float(
            brentq(_excess, 0, SIGMAS, args=(points, density, step, total - before), xtol=1e-12)
        )
        per_look.append(float(norm.sf(bound / math.sqrt(fraction))))
        low = -SIGMAS * math.sqrt(fraction)
        here = low + (bound - low) * (nodes + 1) / 2
        density = (
            (norm.pdf((here[:, None] - points) / step) / step)
            @ density
            * weights
            * (bound - low)
            / 2
        )
        points, before, time = here, total, fraction
    return tuple(per_look)


def conditional_power(
    distance: float, error: float, fraction: float, last: float, favour: float = 0
) -> float:
    """Probability that the last look, whose error alone is `last`, passes the limit that is
    `distance` from the estimate.

    `error` is the estimate's standard error at this fraction of the information. What is still to
    come is taken to go on as the estimate says, moved by `favour` standard errors (Lan and Wittes
    1988, Biometrics 44, 579-585)."""
    from scipy.stats import norm

    if error == 0 or not math.isfinite(error):
        return 1.0
    value = distance / error * math.sqrt(fraction)
    drift = value / fraction + favour / math.sqrt(fraction)
    return float(
        norm.sf((norm.isf(last) - value - drift * (1 - fraction)) / math.sqrt(1 - fraction))
    )
