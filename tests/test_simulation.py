"""The gate's error rates and power: exact by enumeration where counts decide, else by simulation.

How often does it pass what is as bad as the limit, and how often what is as good as the reference?
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom, norm

from pipeline.gate import items, looks, spending, statistics
from pipeline.gate.limits import Limits, status
from tests import evaluations as make

CONFIDENCE = 0.95
DRAWS = 20_000

pytestmark = pytest.mark.usefixtures("quick_gate")


class Scored(NamedTuple):
    """As much of an Item as the statistics look at."""

    score: float
    cluster: str
    chance: float = 0.0


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


def at_looks(sizes: list[int], held_to: Limits, rate: float, true_drop: float, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Status at each look [looks, draws] (1 PASS, -1 FAIL, 0 neither) at its own share of the error; items lost and won so far."""
    rng, margin = np.random.default_rng(len(sizes)), held_to.accuracy_drop
    totals = np.cumsum([flips(rng, size, rate, true_drop, draws) for size in np.diff([0, *sizes])], axis=0)
    found = np.zeros(totals.shape[:2])
    for look, n in enumerate(sizes):
        bounds = {
            tuple(pair): statistics.score_difference(int(pair[0]), int(pair[1]), n, held_to.confidence_at(look))
            for pair in np.unique(totals[look], axis=0)
        }
        found[look] = [(bounds[tuple(pair)][1] <= margin) - (bounds[tuple(pair)][0] > margin) for pair in totals[look]]
    return found, totals


SEQUENTIAL = make.limits(items={"t": (2000, 2000)}, sequential=True, accuracy_drop=0.02)
DOUBLING = make.limits(items={"t": (200, 1600)}, accuracy_drop=0.02)


@pytest.mark.parametrize("held_to", [SEQUENTIAL, DOUBLING], ids=["five equal parts", "doubling"])
@pytest.mark.parametrize("rate", [0.03, 0.06, 0.12])
def test_looks_together_pass_and_fail_at_the_margin_in_one_of_twenty_at_most(held_to: Limits, rate: float) -> None:
    """Whoever stops at any look that passes, or at any that fails: without sharing the error it is more than twice that."""
    sizes = [held_to.size("t", 10**6, look) for look in range(len(held_to.fractions))]
    found, totals = at_looks(sizes, held_to, rate, 0.02, 4000)
    assert (found == 1).any(axis=0).mean() <= allowed(4000)
    assert (found == -1).any(axis=0).mean() <= allowed(4000)
    unshared = [passes(lost_won, n, 0.02) for n, lost_won in zip(sizes, totals, strict=True)]
    assert np.any(unshared, axis=0).mean() > 0.08


@pytest.mark.parametrize(
    ("rate", "drop", "status", "share"),
    [
        pytest.param(0.004, 0.0, 1, 0.5, id="as good as INT8"),
        pytest.param(0.04, 0.0, 1, 0.6, id="as good as INT4"),
        pytest.param(0.12, 0.1, -1, 0.35, id="bad"),
        pytest.param(0.5, 0.45, -1, 0.2001, id="broken"),
    ],
)
def test_clearly_good_and_bad_artifacts_need_half_of_the_items(rate: float, drop: float, status: int, share: float) -> None:
    sizes = [SEQUENTIAL.size("t", 2000, look) for look in range(5)]
    found, _ = at_looks(sizes, SEQUENTIAL, rate, drop, 2000)
    decided = found != 0
    stopped = np.where(decided.any(axis=0), decided.argmax(axis=0), 4)
    assert (found[stopped, np.arange(2000)] == status).mean() > 0.97
    assert np.array(sizes)[stopped].mean() <= share * 2000


def test_giving_up_costs_little_power() -> None:
    """With 80 % power in one look: the looks cost 1 point, giving up where a PASS is unlikely about 2 more."""
    rng, draws, limits = np.random.default_rng(9), 20_000, SEQUENTIAL
    distance, fractions = norm.isf(0.05) + norm.ppf(0.8), np.array(limits.fractions)
    way = np.cumsum(rng.normal(size=(draws, 5)) / math.sqrt(5), axis=1) + distance * fractions
    bounds = norm.isf([1 - limits.confidence_at(look) for look in range(5)])
    passed, given_up = np.zeros(draws, bool), np.zeros(draws, bool)
    for look, fraction in enumerate(fractions):
        passed |= (way[:, look] >= bounds[look] * math.sqrt(fraction)) & ~given_up
        if fraction < 1:
            power = [spending.conditional_power(x, math.sqrt(fraction), fraction, norm.sf(bounds[-1]), looks.FAVOUR)
                     for x in way[:, look]]  # fmt: skip
            given_up |= ~passed & (np.array(power) < looks.UNLIKELY)
    assert 0.75 <= passed.mean() <= 0.79


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
    for name in ("difference", "_p_value", "_flips"):
        monkeypatch.setattr(items, name, cache(getattr(items, name)))
    failed = 0
    for draw in zip(*(flips(rng, n, rate, limit, draws).tolist() for _ in range(5)), strict=True):
        paired = {str(number): pairs(*flip, n) for number, flip in enumerate(draw)}
        found = items._guard_rails(paired, limits, CONFIDENCE, set(paired))
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
        failed += items._guard_rails({"t": found}, limits, CONFIDENCE, {"t"})[0].status == "FAIL"
    assert failed / draws <= allowed(draws)
