"""Looks at growing samples of items: their sizes, their share of the error, what the verdict says
of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline import gate
from pipeline.gate import statistics
from pipeline.records import Verdict
from tests import evaluations as make
from tests.test_gate_items import ITEMS, OURS, SCORES, THEIRS, checked, of

pytestmark = pytest.mark.usefixtures("quick_gate")


@pytest.mark.parametrize(
    ("asked", "fractions"),
    [
        ((400, 400), (1,)),
        ((400, 401), (400 / 401, 1)),
        ((400, 800), (0.5, 1)),
        ((400, 1601), (400 / 1601, 800 / 1601, 1600 / 1601, 1)),
    ],
)
def test_looks_share_the_error(asked: tuple[int, int], fractions: tuple[float, ...]) -> None:
    other = make.flipped(SCORES, 40, 20)
    theirs, limits = make.draws(SCORES), make.limits(items={"t": asked})
    assert limits.fractions == pytest.approx(fractions)
    check = checked(theirs, make.draws(other), items={"t": asked})["accuracy_drop"]
    error = 2 * stats.norm.sf(
        stats.norm.isf(0.025) / math.sqrt(fractions[0])
    )  # the first look may use what is spent by then
    assert (check.low, check.high) == pytest.approx(
        statistics.score_difference(40, 20, 400, 1 - error)
    )
    assert ("look 1 of" in check.method) == (len(fractions) > 1)


@pytest.mark.parametrize("cap", [100, 101, 200, 3200, 14042])
def test_looks_cover_every_doubling_there_can_be(cap: int) -> None:
    """100 items double until the cap: 100, 200, ..., 12800, 14042."""
    sizes = [100]
    while sizes[-1] < cap:
        sizes.append(min(2 * sizes[-1], cap))
    limits = make.limits(items={"t": (100, cap)})
    assert [limits.size("t", 20000, look) for look in range(len(limits.fractions))] == sizes
    assert limits.fractions == pytest.approx([size / cap for size in sizes])


def test_a_sequential_gate_looks_at_equal_parts() -> None:
    limits = make.limits(items={"t": (400, 800), "u": ("all", "all")}, sequential=True)
    assert [limits.size("t", 20000, look) for look in range(5)] == [160, 320, 480, 640, 800]
    assert [limits.size("u", 7, look) for look in range(5)] == [1, 3, 4, 6, 7]


def sequential(found: np.ndarray, **change: object) -> Verdict:
    """Of an artifact with these scores so far, which is right 2000 times in the reference."""
    held_to = make.limits(items={"t": (2000, 2000)}, sequential=True, **change)
    theirs, ours = (
        make.draws(np.ones(2000)),
        make.draws(found).model_copy(update={"documents": 2000}),
    )
    return gate.decide(of(theirs, reference=True), of(ours), None, held_to)


def test_the_record_shows_the_looks() -> None:
    """Published bounds for one-sided 0.05 and five looks do not matter here: the intervals are the
    gate's at each look's error."""
    scores = np.ones(1200)
    scores[[100, 500, 900, 901]] = 0
    verdict = sequential(scores)
    assert [look.items for look in verdict.looks] == [400, 800, 1200]
    assert [round(look.value * look.items) for look in verdict.looks] == [1, 2, 4]
    assert [look.status for look in verdict.looks] == ["INCONCLUSIVE", "PASS", "PASS"]
    for look, lost in zip(verdict.looks, (1, 2, 4), strict=True):
        assert (look.low, look.high) == pytest.approx(
            statistics.score_difference(lost, 0, look.items, 1 - look.error)
        )
    assert verdict.looks[-1].spent == pytest.approx(
        2 * stats.norm.sf(stats.norm.isf(0.025) / math.sqrt(0.6))
    )
    assert verdict.status == "PASS"
    assert gate.decide(THEIRS, OURS, None, make.limits(items=ITEMS)).looks == []


@pytest.mark.parametrize("count", [399, 401, 2001])
def test_items_of_no_look_fail(count: int) -> None:
    verdict = sequential(np.ones(count))
    assert verdict.status == "FAIL" and verdict.looks == []


def test_futile_looks_say_so() -> None:
    """A drop of 2.4 points against a limit of 2: neither PASS nor FAIL is near, and 400 items more
    will not bring a PASS."""
    scores = np.ones(1600)
    scores[::42] = 0
    verdict = sequential(scores)
    assert verdict.status == "INCONCLUSIVE"
    last = verdict.looks[-1]
    assert last.futile and last.pass_power < 0.05
    reason = next(check.reason for check in verdict.checks if check.name == "accuracy_drop")
    assert "No more items: a PASS at the last look has a probability of" in reason
    assert not sequential(np.ones(400), accuracy_drop=0.001).looks[-1].futile
