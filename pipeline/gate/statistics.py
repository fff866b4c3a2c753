"""The gate's statistics, over scipy and statsmodels: means of clustered values, exact bounds,
quantiles, power."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

TAIL, LONGEST = (
    50.0,
    1 / 3,
)  # with these, means of every shape in tests/test_simulation_texts.py hold 5 % from 24 values on
LEAST_SKEWED = 3  # two values are never skewed
FEW_FLIPS = 25  # changed items below which the normal approximation does not hold


class Estimate(NamedTuple):
    """A value with one-sided bounds, each at the confidence asked for; its standard error and
    degrees of freedom."""

    value: float
    low: float
    high: float
    error: float
    freedom: int


def ratio(sums: list[float], counts: list[float], confidence: float) -> Estimate:
    """sum(sums) / sum(counts) over independent clusters (windows, passages), whose members may
    depend on each other.

    Weighted least squares on the cluster means with heteroscedasticity-robust errors (HC1), which
    is the ratio estimator's linearized error (Cochran, Sampling Techniques, 6.4) and, for items,
    the clustered standard error of arXiv 2411.00640. The bound on the side of a long tail is
    widened by `tail`. One cluster has no spread: its bounds are infinite."""
    value = sum(sums) / sum(counts)
    if len(sums) < 2:
        return Estimate(value, -math.inf, math.inf, math.inf, 0)
    from scipy.stats import t
    from statsmodels.regression.linear_model import WLS

    weights, n = np.array(counts), len(sums)
    fit = WLS(np.array(sums) / weights, np.ones(n), weights=weights).fit(cov_type="HC1", use_t=True)
    error, reach = float(fit.bse[0]), float(t.ppf(confidence, n - 1))
    skew = skewness(np.array(sums) - value * weights)
    low, high = (
        value - (reach + tail(-skew, n, reach)) * error,
        value + (reach + tail(skew, n, reach)) * error,
    )
    return Estimate(value, low, high, error, n - 1)


def skewness(values: np.ndarray) -> float:
    """Of the population, estimated from the values (Fisher-Pearson, adjusted); 0 where they are all
    the same but for rounding."""
    from scipy.stats import skew

    if len(values) < LEAST_SKEWED or np.ptp(values) <= 1e-9 * np.max(np.abs(values)):
        return 0.0
    return float(skew(values, bias=False))


def tail(skew: float, n: int, reach: float) -> float:
    """Standard errors to add to Student's `reach` on the side to which n values are skewed.

    A sample that missed the tail has too small a mean and too small a spread at once, so that
    Student's bound falls short. What counts is skew / sqrt(n), which is about 1 / sqrt(k) where k
    of the n values carry the mean. The first term of the Cornish-Fisher expansion (Johnson 1978,
    JASA 73, 536-544) is (1 + 2 t^2) / 6 times it, and enough where k is 50. The fourth power is
    next to nothing there and, at k = 9 and fewer (LONGEST), what samples of a long tail need: by
    simulation, near the best that any function of the sample's skewness can do (docs/decisions.md).
    """
    uneven = min(max(0.0, skew) / math.sqrt(n), LONGEST)
    return (1 + 2 * reach**2) * (uneven / 6 + TAIL * uneven**4)


def quantile(groups: list[list[float]], level: float, confidence: float) -> Estimate:
    """A quantile of all values, its bounds from those of the share of values below it (Woodruff
    1952), clustered by group.

    The share's error is taken where a fixed part of the values lies above, so that it falls short
    less than that of a mean: the first term of the Cornish-Fisher expansion (Johnson 1978) is
    enough. A bound that would lie beyond the values is infinite."""
    from scipy.stats import t

    values = np.concatenate([np.array(group) for group in groups])
    value = float(np.quantile(values, level))
    below = [float(np.sum(np.array(group) <= value)) for group in groups]
    share = ratio(below, [float(len(group)) for group in groups], confidence)
    error = max(
        share.error, math.sqrt(level * (1 - level) / len(values))
    )  # at least that of independent values
    reach = math.inf
    if share.freedom:
        student, skew = (
            float(t.ppf(confidence, share.freedom)),
            skewness(np.array(below) / [len(group) for group in groups]),
        )
        reach = error * (student + abs(skew) * (1 + 2 * student**2) / (6 * math.sqrt(len(groups))))
    low = float(np.quantile(values, level - reach)) if level - reach > 0 else -math.inf
    high = float(np.quantile(values, level + reach)) if level + reach < 1 else math.inf
    return Estimate(value, low, high, error, share.freedom)


def score_difference(lost: int, won: int, n: int, confidence: float) -> tuple[float, float]:
    """Bounds on (items lost - items won) / n of paired right-or-wrong items, by inverting the score
    test (Tango 1998).

    Statistics in Medicine 17, 891-908. Unlike the t interval it holds its error where few items
    change, and where none does it still has a width. Neither scipy nor statsmodels has it."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf(confidence))
    edge = 1 - 1e-12
    low = (
        brentq(lambda d: tango(lost, won, n, d) - z, -edge, (lost - won) / n)
        if lost - won > -n
        else -1.0
    )
    high = (
        brentq(lambda d: tango(lost, won, n, d) + z, (lost - won) / n, edge)
        if lost - won < n
        else 1.0
    )
    return float(low), float(high)


def tango(lost: int, won: int, n: int, difference: float) -> float:
    """The score statistic against a true difference, with the share of items won at its restricted
    maximum likelihood."""
    a, b = 2 * n, -lost - won + (2 * n - lost + won) * difference
    c = -won * difference * (1 - difference)
    won_share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * won_share + difference * (1 - difference))
    distance = lost - won - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def exact_difference(lost: int, won: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson bounds on the share of items lost and of items won, each at half the error
    (Bonferroni).

    Wider than need be, but sure for any number of items.
    """
    from scipy.stats import binomtest

    # A two-sided interval at c leaves (1 - c) / 2 on each side; each of the two bounds may use half
    # of 1 - confidence.
    bounds = [
        binomtest(k, n).proportion_ci(confidence_level=confidence, method="exact")
        for k in (lost, won)
    ]
    return float(bounds[0].low - bounds[1].high), float(bounds[0].high - bounds[1].low)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of McNemar's test; 1 when nothing changed."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    return float(test([[0, lost], [won, 0]], exact=True).pvalue) if lost + won else 1.0


def exceeds(estimate: Estimate, limit: float) -> float:
    """One-sided p-value against the hypothesis that the true value is within the limit; 1 if
    nothing is known of its error."""
    from scipy.stats import t

    if not math.isfinite(estimate.error):
        return 1.0
    if estimate.error == 0:
        return 0.0 if estimate.value > limit else 1.0
    return float(t.sf((estimate.value - limit) / estimate.error, estimate.freedom))


def lost_exceeds(lost: int, won: int, n: int, limit: float) -> float:
    """As `exceeds`, for few changed items: the error at which the exact lower bound meets the
    limit."""
    from scipy.optimize import brentq

    def distance(error: float) -> float:
        return exact_difference(lost, won, n, 1 - error)[0] - limit

    smallest, largest = 1e-9, 0.49
    if distance(largest) <= 0:
        return 1.0
    return smallest if distance(smallest) > 0 else float(brentq(distance, smallest, largest))


def holm(p_values: list[float], confidence: float) -> list[bool]:
    """Which hypotheses are rejected by Holm's step-down procedure at family-wise error 1 -
    confidence."""
    from statsmodels.stats.multitest import multipletests

    return [
        bool(rejected)
        for rejected in multipletests(p_values, alpha=1 - confidence, method="holm")[0]
    ]


def detectable_drop(n: int, flips: float, confidence: float, power: float = 0.8) -> float:
    """The smallest margin that n paired items at this rate of changed items pass with this power,
    if nothing is lost."""
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(
        nobs=n, alpha=1 - confidence, power=power, alternative="larger"
    )
    return float(np.squeeze(effect)) * math.sqrt(flips)


def items_needed(distance: float, deviation: float, confidence: float, power: float = 0.8) -> int:
    """How many paired items put a drop that lies `distance` within its margin beyond doubt, given
    the items' deviation."""
    from scipy.stats import norm

    z = norm.ppf(confidence) + norm.ppf(power)
    return math.ceil((z * deviation / distance) ** 2)
