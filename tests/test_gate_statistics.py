"""The gate's statistics, each against an independent computation or a published example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq, minimize_scalar

from pipeline.gate import statistics


def linearized(
    sums: np.ndarray, counts: np.ndarray, confidence: float
) -> tuple[float, float, float]:
    """Cochran, Sampling Techniques, 6.4: the ratio estimator's variance is that of its residuals
    over the mean count.

    On the side to which the residuals are skewed it reaches further.
    """
    m, value = len(sums), sums.sum() / counts.sum()
    residuals = sums - value * counts
    error = math.sqrt(np.sum(residuals**2) / (m - 1) / m) / counts.mean()
    student, skew = stats.t.ppf(confidence, m - 1), stats.skew(residuals, bias=False)
    uneven = min(abs(skew) / math.sqrt(m), 1 / 3)
    further = (1 + 2 * student**2) * (uneven / 6 + 50 * uneven**4)
    below, above = (student + further * (sign * skew > 0) for sign in (-1, 1))
    return value, value - below * error, value + above * error


def test_ratio_is_the_linearized_ratio_estimator() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, 40).astype(float)
    sums = rng.lognormal(0.3, 1, 40) * counts
    estimate = statistics.ratio(sums.tolist(), counts.tolist(), 0.9)
    value, low, high = linearized(sums, counts, 0.9)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, low, high))
    assert estimate.freedom == 39
    assert estimate.error == pytest.approx((value - low) / stats.t.ppf(0.9, 39))
    mirrored = statistics.ratio((-sums).tolist(), counts.tolist(), 0.9)
    assert (mirrored.low, mirrored.high) == pytest.approx((-high, -low))
    assert high - value > value - low


def test_ratio_of_equal_counts_is_the_t_interval_of_the_mean() -> None:
    values = stats.norm.ppf((np.arange(25) + 0.5) / 25)  # not skewed at all
    estimate = statistics.ratio(values.tolist(), [1.0] * 25, 0.95)
    assert (estimate.low, estimate.high) == pytest.approx(
        stats.t.interval(0.9, 24, values.mean(), stats.sem(values))
    )


def test_values_that_are_all_the_same_have_no_skewness() -> None:
    assert statistics.ratio([0.1 * 3] * 20, [3.0] * 20, 0.95)[:3] == pytest.approx((0.1, 0.1, 0.1))


def test_one_cluster_bounds_nothing() -> None:
    assert statistics.ratio([3.0], [4.0], 0.95)[:3] == (0.75, -math.inf, math.inf)
    assert statistics.quantile([[1.0, 2.0, 3.0]], 0.5, 0.95)[:3] == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        pytest.param(
            np.arange(100).reshape(10, 10).T, math.sqrt(0.25 / 100), id="each group like the others"
        ),
        pytest.param(
            np.arange(100).reshape(10, 10),
            math.sqrt(10 * 0.25 / 9 / 10),
            id="five groups below the median",
        ),
    ],
)
def test_quantile_by_hand(groups: np.ndarray, error: float) -> None:
    """The median of 0 to 99, by Woodruff. Its error is that of independent values where the groups
    show none between them."""
    found = statistics.quantile(groups.tolist(), 0.5, 0.95)
    reach = stats.t.ppf(0.95, 9) * error
    assert found == pytest.approx((49.5, 99 * (0.5 - reach), 99 * (0.5 + reach), error, 9))


def test_quantile_of_groups_of_any_size() -> None:
    rng = np.random.default_rng(3)
    groups = [
        rng.exponential(scale, count)
        for scale, count in zip(rng.uniform(0.5, 3, 40), rng.integers(5, 30, 40), strict=True)
    ]
    values = np.concatenate(groups)
    found, value = statistics.quantile(groups, 0.9, 0.95), np.quantile(values, 0.9)
    below, counts = (
        np.array([(g <= value).sum() for g in groups]),
        np.array([len(g) for g in groups]),
    )
    residuals, student = below - below.sum() / counts.sum() * counts, stats.t.ppf(0.95, 39)
    error = math.sqrt((residuals**2).sum() / 39 / 40) / counts.mean()
    reach = error * (
        student
        + abs(stats.skew(below / counts, bias=False)) * (1 + 2 * student**2) / 6 / math.sqrt(40)
    )
    expected = [np.quantile(values, level) for level in (0.9, 0.9 - reach, 0.9 + reach)]
    assert found[:3] == pytest.approx(tuple(expected))


def test_a_bound_beyond_all_values_is_infinite() -> None:
    groups = np.random.default_rng(4).random((5, 10)).tolist()
    assert statistics.quantile(groups, 0.99, 0.95).high == math.inf
    assert statistics.quantile(groups, 0.99, 0.95).low > 0
    assert statistics.quantile(groups, 0.01, 0.95).low == -math.inf


def test_two_windows_that_happen_to_agree_know_little() -> None:
    """Three of the highest values lie in each: no spread between the two, and yet no narrow
    bounds."""
    values = np.linspace(0, 1, 512)
    assert (
        statistics.quantile([values[::2].tolist(), values[1::2].tolist()], 0.99, 0.95).high
        == math.inf
    )


def score(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's statistic with the share of items won where the likelihood is highest, found by
    search."""

    def loss(won_share: float) -> float:
        shares = (won_share + difference, won_share, 1 - difference - 2 * won_share)
        terms = [(k, p) for k, p in zip((lost, won, n - lost - won), shares, strict=True) if k]
        return -sum(k * math.log(p) for k, p in terms) if all(p > 0 for _, p in terms) else 1e300

    space = (max(0.0, -difference), (1 - difference) / 2)
    won_share = minimize_scalar(loss, bounds=space, method="bounded", options={"xatol": 1e-12}).x
    return (lost - won - n * difference) / math.sqrt(
        n * (2 * won_share + difference - difference**2)
    )


FLIPS = [
    (0, 0, 20),
    (7, 0, 400),
    (15, 9, 400),
    (3, 20, 400),
    (60, 30, 400),
    (0, 9, 50),
    (20, 0, 20),
    (1, 0, 1),
    (10, 10, 20),
]


@pytest.mark.parametrize(("lost", "won", "n"), FLIPS)
@pytest.mark.parametrize("confidence", [0.95, 0.9875])
def test_score_bounds_against_a_search_of_the_likelihood(
    lost: int, won: int, n: int, confidence: float
) -> None:
    found, value, z = (
        statistics.score_difference(lost, won, n, confidence),
        (lost - won) / n,
        stats.norm.ppf(confidence),
    )
    edge = 1 - 1e-6
    low = (
        brentq(lambda d: score(lost, won, n, d) - z, -edge, min(value, edge)) if value > -1 else -1
    )
    high = brentq(lambda d: score(lost, won, n, d) + z, max(value, -edge), edge) if value < 1 else 1
    assert found == pytest.approx((low, high), abs=1e-6)


def test_score_bounds_as_published() -> None:
    """Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014), table II; without changed items
    it is Wilson's interval."""
    assert statistics.score_difference(1, 7, 21, 0.975) == pytest.approx((-0.517, -0.026), abs=5e-4)
    z = stats.norm.ppf(0.95)
    assert statistics.score_difference(0, 0, 50, 0.95)[1] == pytest.approx(z**2 / (50 + z**2))
    one_sided = stats.binomtest(8, 90).proportion_ci(0.90, method="wilson")
    assert statistics.score_difference(8, 0, 90, 0.95) == pytest.approx(
        (one_sided.low, one_sided.high)
    )


def test_score_bounds_hold_everywhere() -> None:
    """In order, within -1 to 1, the same with lost and won exchanged, and rising with each item
    lost."""
    for n in (1, 2, 5, 20, 100):
        for won in range(0, n + 1, max(1, n // 10)):
            before = -1.0
            for lost in range(0, n - won + 1, max(1, n // 10)):
                low, high = statistics.score_difference(lost, won, n, 0.95)
                assert -1 <= low <= (lost - won) / n <= high <= 1
                assert statistics.score_difference(won, lost, n, 0.95) == pytest.approx(
                    (-high, -low), abs=1e-9
                )
                assert high > before
                before = high


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (7, 0), (15, 9), (3, 20)])
def test_exact_bounds(lost: int, won: int) -> None:
    """Clopper-Pearson in closed form, quantiles of beta, 2.5 % for each share at a confidence of 95
    %."""
    low, high = (
        (stats.beta.ppf(0.025, k, 401 - k) if k else 0, stats.beta.ppf(0.975, k + 1, 400 - k))
        for k in (lost, won)
    )
    assert statistics.exact_difference(lost, won, 400, 0.95) == pytest.approx(
        (low[0] - high[1], low[1] - high[0])
    )


def test_p_value_of_few_changed_items() -> None:
    """The error at which the exact lower bound is the limit; never less than twice the binomial
    tail of the items lost."""
    assert statistics.lost_exceeds(18, 0, 100, 0.1) > 2 * stats.binom.sf(17, 100, 0.1)
    for lost, won in ((18, 0), (18, 3), (24, 0)):
        error = statistics.lost_exceeds(lost, won, 100, 0.05)
        low = stats.beta.ppf(error / 2, lost, 101 - lost) - stats.beta.ppf(
            1 - error / 2, won + 1, 100 - won
        )
        assert low == pytest.approx(0.05, abs=1e-6)
    assert statistics.lost_exceeds(0, 0, 100, 0.05) == 1.0
    assert statistics.lost_exceeds(5, 0, 100, 0.05) == 1.0


def test_p_value_by_t() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, 80)
    estimate = statistics.ratio(values.tolist(), [1.0] * 80, 0.95)
    assert statistics.exceeds(estimate, 0.05) == pytest.approx(
        stats.ttest_1samp(values, 0.05, alternative="greater").pvalue
    )
    nothing_known = statistics.ratio([3.0], [4.0], 0.95)
    assert statistics.exceeds(nothing_known, 0.05) == 1.0


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (5, 5), (30, 11), (0, 9)])
def test_mcnemar_against_the_binomial_test(lost: int, won: int) -> None:
    expected = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert statistics.mcnemar(lost, won) == pytest.approx(expected)


@pytest.mark.parametrize(("rate", "published"), [(0.02, 1237), (0.04, 2473), (0.10, 6183)])
def test_items_needed_for_a_margin_of_one_point(rate: float, published: int) -> None:
    needed = statistics.items_needed(0.01, math.sqrt(rate), 0.95)
    assert needed == pytest.approx(published, rel=0.01)
    assert statistics.detectable_drop(needed, rate, 0.95) == pytest.approx(0.01, rel=0.01)
