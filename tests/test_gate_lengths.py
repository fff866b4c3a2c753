"""The gate on the lengths of generated answers: early stops, rambling, and lengths that are
missing."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.records import Check
from tests import evaluations as make
from tests.test_gate_items import SCORES, checked, of
from tests.test_gate_statistics import linearized

LENGTHS = np.random.default_rng(3).integers(20, 60, 400)

pytestmark = pytest.mark.usefixtures("quick_gate")


def length(
    theirs: np.ndarray | None, ours: np.ndarray | None, clusters: object = None
) -> Check | None:
    tasks = (make.draws(SCORES, lengths=lengths, clusters=clusters) for lengths in (theirs, ours))
    return checked(*tasks).get("length_ratio t")


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, "PASS"),
        (0.95, "PASS"),
        (1.06, "PASS"),
        (0.89, "INCONCLUSIVE"),
        (0.5, "FAIL"),
        (1.5, "FAIL"),
    ],
)
def test_answers_as_long_as_the_references(factor: float, status: str) -> None:
    noise = np.random.default_rng(4).integers(-15, 16, 400)
    ours = np.maximum(0, np.round(LENGTHS * factor) + noise).astype(int)
    check = length(LENGTHS, ours)
    assert check is not None
    value, low, high = linearized(ours + 1.0, LENGTHS + 1.0, 0.95)
    assert (check.value, check.low, check.high) == pytest.approx((value, low, high))
    assert check.status == status, check.reason
    assert check.limit == (1.1 if value > 1 else 0.9)


def test_empty_answers() -> None:
    none = np.zeros(400, dtype=int)
    assert length(none, none).status == "PASS"  # the end token counts
    assert length(LENGTHS, none).status == "FAIL"
    assert length(none, LENGTHS).status == "FAIL"


def test_scored_tasks_have_no_length() -> None:
    assert length(None, None) is None


def test_missing_lengths_fail() -> None:
    some = make.draws(SCORES, lengths=LENGTHS)
    one = some.model_copy(
        update={
            "items": [some.items[0].model_copy(update={"generated_tokens": None}), *some.items[1:]]
        }
    )
    for theirs, ours in (
        (some, one),
        (one, some),
        (some, make.draws(SCORES)),
        (make.draws(SCORES), some),
    ):
        check = checked(theirs, ours).get("length_ratio t")
        assert check is not None
        assert (check.status, "missing" in check.reason) == ("FAIL", True)


def test_answers_about_one_passage_depend_on_each_other() -> None:
    """The same clusters as for accuracy: with whole passages stopped early the interval is the
    clustered one."""
    clusters = np.arange(400) // 20
    ours = np.where(clusters % 10 == 0, 0, LENGTHS)
    check = length(LENGTHS, ours, clusters)
    sums, counts = np.bincount(clusters, ours + 1.0), np.bincount(clusters, LENGTHS + 1.0)
    assert (check.value, check.low, check.high) == pytest.approx(linearized(sums, counts, 0.95))


def test_length_ratio_of_the_comparison() -> None:
    from pipeline.gate import pairing

    theirs, ours = (make.draws(SCORES, lengths=lengths) for lengths in (LENGTHS, LENGTHS // 2))
    found = pairing.compare(of(theirs, reference=True), of(ours))[0]
    assert found.length_ratio == pytest.approx((LENGTHS // 2 + 1).sum() / (LENGTHS + 1).sum())
