"""The gate's error rates and power: exact by enumeration where counts decide, else by simulation.

How often does it pass what is as bad as the limit, and how often what is as good as the reference?
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.gate import items, statistics, texts
from pipeline.gate.limits import status
from tests import evaluations as make

CONFIDENCE = 0.95
DRAWS = 20_000

pytestmark = pytest.mark.usefixtures("quick_gate")


class Scored(NamedTuple):
    """As much of an Item as the statistics look at."""

    score: float
    cluster: str


class Pairs(list):
    """Pairs known by their identity, so that what is computed of them can be kept."""

    __hash__ = object.__hash__


@cache
def pairs(lost: int, won: int, n: int) -> Pairs:
    outcomes = [(1.0, 0.0)] * lost + [(0.0, 1.0)] * won + [(1.0, 1.0)] * (n - lost - won)
    return Pairs((Scored(a, str(i)), Scored(b, str(i))) for i, (a, b) in enumerate(outcomes))


@cache
def most_lost(won: int, n: int, margin: float, confidence: float = CONFIDENCE) -> int:
    """The most items lost that still pass, -1 if none do: by bisection, since the bound rises with every item lost."""
    passing, failing = -1, n - won
    while failing - passing > 1:
        lost = (passing + failing) // 2
        if statistics.score_difference(lost, won, n, confidence)[1] <= margin:
            passing = lost
        else:
            failing = lost
    return passing


def pass_rate(n: int, rate: float, true_drop: float, margin: float, confidence: float = CONFIDENCE) -> float:
    """How often n items pass of which this share changes: the sum over all counts of items won and lost that pass."""
    lost, won = (rate + true_drop) / 2, (rate - true_drop) / 2
    likely = range(int(binom.ppf(1e-9, n, won)), int(binom.ppf(1 - 1e-9, n, won)) + 1)
    return sum(
        binom.pmf(k, n, won) * binom.cdf(most_lost(k, n, margin, confidence), n - k, min(lost / (1 - won), 1)) for k in likely
    )


def flips(rng: np.random.Generator, n: int, rate: float, true_drop: float, draws: int = DRAWS) -> np.ndarray:
    """Items lost and won of n, in each draw."""
    lost, won = (rate + true_drop) / 2, (rate - true_drop) / 2
    return rng.multinomial(n, [lost, won, 1 - lost - won], draws)[:, :2]


def passes(found: np.ndarray, n: int, margin: float, confidence: float = CONFIDENCE) -> np.ndarray:
    most = {won: most_lost(int(won), n, margin, confidence) for won in np.unique(found[:, 1])}
    return found[:, 0] <= np.vectorize(most.get)(found[:, 1])


def allowed(draws: int, rate: float = 0.05) -> float:
    """The rate with three standard errors of the simulation itself."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / draws)


MARGINS = [(0.02, 0.01), (0.02, 0.02), (0.04, 0.01), (0.04, 0.02), (0.06, 0.02), (0.10, 0.01), (0.10, 0.04)]


@pytest.mark.parametrize("n", [500, 2500])
@pytest.mark.parametrize(("rate", "margin"), MARGINS)
def test_a_drop_at_the_margin_passes_in_one_of_twenty_at_most(n: int, rate: float, margin: float) -> None:
    """Exact: a score test is off by the steps of small counts, here by 0.1 points at most. Its simulation must agree."""
    exact = pass_rate(n, rate, margin, margin)
    assert exact <= 0.051
    found = passes(flips(np.random.default_rng(int(n * rate)), n, rate, margin), n, margin).mean()
    assert found <= allowed(DRAWS)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(0.05 * 0.95 / DRAWS))


def test_counts_alone_decide_as_the_gate_does() -> None:
    """What this file takes from statistics.score_difference is the gate's own decision on items."""
    for n, rate, margin in ((500, 0.04, 0.02), (500, 0.10, 0.02), (2500, 0.02, 0.01)):
        found = flips(np.random.default_rng(n), n, rate, margin / 2, 25)
        for (lost, won), passed in zip(found.tolist(), passes(found, n, margin).tolist(), strict=True):
            estimate, _ = items.difference(pairs(lost, won, n), CONFIDENCE)
            assert passed == (status(estimate.low, estimate.high, margin) == "PASS"), (lost, won)


def test_a_drop_at_the_margin_fails_in_one_of_twenty_at_most() -> None:
    found, counts = np.unique(flips(np.random.default_rng(5), 500, 0.06, 0.02, 4000), axis=0, return_counts=True)
    failed = [statistics.score_difference(lost, won, 500, CONFIDENCE)[0] > 0.02 for lost, won in found.tolist()]
    assert counts[failed].sum() / 4000 <= allowed(4000)


@pytest.mark.parametrize(("n", "rate"), [(1500, 0.04), (1500, 0.10), (2500, 0.02), (6000, 0.10)])
def test_power_at_the_drop_that_is_promised_as_detectable(n: int, rate: float) -> None:
    margin = statistics.detectable_drop(n, rate, CONFIDENCE)
    assert pass_rate(n, rate, 0, margin) == pytest.approx(0.80, abs=0.04)


HARD, LOST, WON = 0.5, 0.2, 0.1  # in half of the passages items are lost, in the other half won
CLUSTERED_DROP = HARD * LOST - (1 - HARD) * WON


def clustered(rng: np.random.Generator, passages: int, size: int) -> Pairs:
    hard, draw = rng.random((passages, 1)) < HARD, rng.random((passages, size))
    change = np.where(hard, draw < LOST, -1.0 * (draw < WON))
    return Pairs(
        (Scored(float(delta > 0), str(passage)), Scored(float(delta < 0), str(passage)))
        for passage, deltas in enumerate(change.tolist())
        for delta in deltas
    )


def test_items_that_depend_on_each_other() -> None:
    """As clusters they pass at the margin in one of twenty; taken for independent ones, far more often."""
    rng, draws = np.random.default_rng(6), 600
    with_clusters, without = [], []
    for _ in range(draws):
        found = clustered(rng, 60, 10)
        with_clusters.append(items.difference(found, CONFIDENCE)[0].high <= CLUSTERED_DROP)
        without.append(statistics.score_difference(*items._flips(found), len(found), CONFIDENCE)[1] <= CLUSTERED_DROP)
    assert np.mean(with_clusters) <= allowed(draws)
    assert np.mean(without) > 0.10


def test_extension_shares_the_error_over_its_looks() -> None:
    """At the margin, passing at any look: items are doubled as pipeline.judge does (which stops at a FAIL: it passes less yet)."""
    sizes, margin = [200, 400, 800, 1600], 0.02
    looks = make.limits(items={"t": (200, 1600)}).looks
    assert looks == len(sizes)
    rng = np.random.default_rng(7)
    totals = np.cumsum([flips(rng, size, 0.06, margin) for size in np.diff([0, *sizes])], axis=0)
    shared, unshared = (
        np.any([passes(found, n, margin, confidence) for n, found in zip(sizes, totals, strict=True)], axis=0).mean()
        for confidence in (1 - 0.05 / looks, CONFIDENCE)
    )
    assert shared <= 0.05
    assert unshared > 0.08


@pytest.mark.parametrize("windows", [5, 20])
def test_perplexity_ratio_at_its_limit(windows: int) -> None:
    """Paired windows, each with a noise of its own."""
    rng, limits, tokens, draws = np.random.default_rng(windows), make.limits(), 255, 1500
    differences = math.log(limits.perplexity_ratio) * tokens + rng.normal(0, 4, (draws, windows))
    found = [statistics.ratio(row.tolist(), [float(tokens)] * windows, CONFIDENCE) for row in differences]
    outcomes = [texts._check("x", "perplexity_ratio", estimate, None, limits).status for estimate in found]
    assert outcomes.count("PASS") / draws <= allowed(draws)
    assert outcomes.count("FAIL") / draws <= allowed(draws)


@pytest.mark.parametrize(("windows", "positions"), [(16, 32), (64, 255)], ids=["the fewest windows", "as the tiny recipe compares"])
def test_percentile_of_kl_at_its_limit(windows: int, positions: int) -> None:
    """Windows that are all alike; the limit is the true 99th percentile.

    The share above it is a small one, so its distribution is skew and the t interval a little too narrow on this side.
    """
    rng, draws, limit = np.random.default_rng(8), 1000, math.log(100)
    found = [statistics.quantile(list(rng.exponential(1, (windows, positions))), 0.99, CONFIDENCE) for _ in range(draws)]
    assert np.mean([estimate.high <= limit for estimate in found]) <= allowed(draws, 0.055)
    assert np.mean([estimate.low > limit for estimate in found]) <= allowed(draws)


RAILS = [
    pytest.param(500, 0.10, 0.05, id="many flips"),
    pytest.param(300, 0.06, 0.05, id="few flips, hardly any won"),
    pytest.param(400, 0.05, 0.01, id="few flips, many won"),
]


@pytest.mark.parametrize(("n", "rate", "limit"), RAILS)
def test_guard_rails_fail_none_of_five_tasks_at_their_limit(
    n: int, rate: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Family-wise: any FAIL among five tasks whose true drop is the limit itself."""
    rng, draws, limits = np.random.default_rng(n), 600, make.limits(task_drop=limit)
    for name in ("difference", "_p_value"):
        monkeypatch.setattr(items, name, cache(getattr(items, name)))
    failed = 0
    for draw in zip(*(flips(rng, n, rate, limit, draws).tolist() for _ in range(5)), strict=True):
        found = items._guard_rails({str(number): pairs(*flip, n) for number, flip in enumerate(draw)}, limits)
        failed += any(check.status == "FAIL" for check in found)
    assert failed / draws <= allowed(draws)


@pytest.mark.parametrize("size", [5, 10])
def test_guard_rails_on_few_passages(size: int) -> None:
    """Items that change together, few of them: a task at its limit fails in one of twenty at most."""
    rng, draws, limits, passages = np.random.default_rng(size), 300, make.limits(task_drop=0.05), 12
    failed = 0
    for _ in range(draws):
        lost = (rng.random((passages, 1)) < 0.25) & (rng.random((passages, size)) < 0.2)
        found = Pairs((Scored(1.0, str(p)), Scored(1.0 - gone, str(p))) for p, row in enumerate(lost.tolist()) for gone in row)
        failed += items._guard_rails({"t": found}, limits)[0].status == "FAIL"
    assert failed / draws <= allowed(draws)
