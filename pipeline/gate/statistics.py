"""The gate's statistics, over scipy and statsmodels: means of clustered values, exact bounds, quantiles, power."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

FEW_FLIPS = 25  # below, the t interval of a paired difference is too narrow (facts of the normal approximation)
RESAMPLES = 999


class Estimate(NamedTuple):
    """A value with one-sided bounds, each at the confidence asked for; its standard error and degrees of freedom."""

    value: float
    low: float
    high: float
    error: float
    freedom: int


def ratio(sums: list[float], counts: list[float], confidence: float) -> Estimate:
    """sum(sums) / sum(counts) over independent clusters (windows, passages), whose members may depend on each other.

    Weighted least squares on the cluster means with heteroscedasticity-robust errors (HC1), which is the ratio
    estimator's linearized error (Cochran, Sampling Techniques, 6.4) and, for items, the clustered standard error of
    arXiv 2411.00640. One cluster has no spread: its bounds are infinite.
    """
    value = sum(sums) / sum(counts)
    if len(sums) < 2:
        return Estimate(value, -math.inf, math.inf, math.inf, 0)
    from statsmodels.regression.linear_model import WLS

    weights = np.array(counts)
    fit = WLS(np.array(sums) / weights, np.ones(len(sums)), weights=weights).fit(cov_type="HC1", use_t=True)
    low, high = fit.conf_int(alpha=2 * (1 - confidence))[0]
    return Estimate(value, float(low), float(high), float(fit.bse[0]), len(sums) - 1)


def quantile(groups: list[list[float]], level: float, confidence: float) -> Estimate:
    """A quantile of all values with bounds from resampling whole groups (percentile bootstrap, seeded)."""
    from scipy.stats import bootstrap

    arrays = [np.array(group) for group in groups]
    value = float(np.quantile(np.concatenate(arrays), level))
    if len(groups) < 2:
        return Estimate(value, -math.inf, math.inf, math.inf, 0)

    def statistic(picked: Any) -> float:
        return float(np.quantile(np.concatenate([arrays[i] for i in picked]), level))

    found = bootstrap((np.arange(len(arrays)),), statistic, confidence_level=2 * confidence - 1, method="percentile",
                      n_resamples=RESAMPLES, vectorized=False, rng=np.random.default_rng(0))  # fmt: skip
    interval = found.confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), float(found.standard_error), len(groups) - 1)


def exact_difference(lost: int, won: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson bounds on the share of items lost and of items won, each at half the error (Bonferroni).

    With few changed items the t interval is too narrow; with none it has no width at all.
    """
    from scipy.stats import binomtest

    # A two-sided interval at c leaves (1 - c) / 2 on each side; each of the two bounds may use half of 1 - confidence.
    bounds = [binomtest(k, n).proportion_ci(confidence_level=confidence, method="exact") for k in (lost, won)]
    return float(bounds[0].low - bounds[1].high), float(bounds[0].high - bounds[1].low)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of McNemar's test; 1 when nothing changed."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    return float(test([[0, lost], [won, 0]], exact=True).pvalue) if lost + won else 1.0


def exceeds(estimate: Estimate, limit: float) -> float:
    """One-sided p-value against the hypothesis that the true value is within the limit."""
    from scipy.stats import t

    if estimate.error == 0:
        return 0.0 if estimate.value > limit else 1.0
    return float(t.sf((estimate.value - limit) / estimate.error, estimate.freedom))


def lost_exceeds(lost: int, won: int, n: int, limit: float) -> float:
    """As `exceeds`, exact in the items lost, for few changed items; those won widen the limit."""
    from scipy.stats import binomtest

    return float(binomtest(lost, n, min(1.0, limit + won / n), alternative="greater").pvalue)


def holm(p_values: list[float], confidence: float) -> list[bool]:
    """Which hypotheses are rejected by Holm's step-down procedure at family-wise error 1 - confidence."""
    from statsmodels.stats.multitest import multipletests

    return [bool(rejected) for rejected in multipletests(p_values, alpha=1 - confidence, method="holm")[0]]


def detectable_drop(n: int, flips: float, confidence: float, power: float = 0.8) -> float:
    """The smallest margin that n paired items at this rate of changed items pass with this power, if nothing is lost."""
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(nobs=n, alpha=1 - confidence, power=power, alternative="larger")
    return float(np.squeeze(effect)) * math.sqrt(flips)


def items_needed(distance: float, deviation: float, confidence: float, power: float = 0.8) -> int:
    """How many paired items put a drop that lies `distance` within its margin beyond doubt, given the items' deviation."""
    from scipy.stats import norm

    z = norm.ppf(confidence) + norm.ppf(power)
    return math.ceil((z * deviation / distance) ** 2)
