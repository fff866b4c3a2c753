"""Guard-rails: no single task may be shown to drop beyond its limit, by Holm's correction over all
of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.gate import statistics
from pipeline.records import Check
from tests import evaluations as make
from tests.test_gate_items import SCORES, checked

pytestmark = pytest.mark.usefixtures("quick_gate")


def holm(p_values: list[float], alpha: float) -> list[bool]:
    """Step-down by hand: the smallest against alpha / k, the next against alpha / (k - 1), until
    one is not rejected."""
    order, rejected = np.argsort(p_values), [False] * len(p_values)
    for step, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def test_guard_rails_with_holm() -> None:
    """Task by task: t test where many items flip, exact binomial where few do; Holm over all."""
    flips = {
        "a": (60, 5),
        "b": (44, 4),
        "c": (40, 8),
        "d": (18, 0),
        "e": (0, 0),
        "f": (30, 30),
        "g": (23, 0),
    }
    theirs = [make.draws(SCORES, name) for name in flips]
    ours = [make.draws(make.flipped(SCORES, *flip), name) for name, flip in flips.items()]
    found, p_values = checked(theirs, ours), []
    for (name, (lost, won)), task in zip(flips.items(), ours, strict=True):
        difference = SCORES - np.array([item.score for item in task.items])
        if lost + won >= 25:
            p_values.append(stats.ttest_1samp(difference, 0.05, alternative="greater").pvalue)
        else:
            p_values.append(statistics.lost_exceeds(lost, won, 400, 0.05))
        assert f"(p = {p_values[-1]:.2g})" in found[f"task_drop {name}"].reason, name
        assert found[f"task_drop {name}"].value == pytest.approx(difference.mean())
    beyond = dict(zip(flips, holm(p_values, 0.05), strict=True))
    # c alone would be rejected at 5 %, but not beside the others.
    assert beyond == {
        "a": True,
        "b": True,
        "c": False,
        "d": False,
        "e": False,
        "f": False,
        "g": False,
    }
    assert p_values[2] < 0.05
    statuses = {name: found[f"task_drop {name}"].status for name in flips}
    assert statuses == {
        "a": "FAIL",
        "b": "FAIL",
        "c": "INCONCLUSIVE",
        "d": "PASS",
        "e": "PASS",
        "f": "PASS",
        "g": "INCONCLUSIVE",
    }


def rail(theirs: np.ndarray, ours: np.ndarray, clusters: object = None) -> Check:
    return checked(make.draws(theirs, clusters=clusters), make.draws(ours, clusters=clusters))[
        "task_drop t"
    ]


def test_a_guard_rail_on_few_changed_items() -> None:
    """Two passages that happen to lose alike have no spread, and still prove nothing; a little lost
    is not an item lost."""
    one_of_each = np.resize([0.0, 1, 1, 1, 1], 10)
    assert rail(np.ones(10), one_of_each, np.arange(10) // 5).status == "INCONCLUSIVE"
    assert rail(np.ones(100), 1 - 0.01 * (np.arange(100) < 20)).status == "PASS"
    assert rail(np.ones(100), 1.0 * (np.arange(100) >= 20)).status == "FAIL"


def test_one_bad_task_is_no_pass_though_all_together_are() -> None:
    big, small = np.ones(5000), np.ones(60)
    theirs = [make.draws(big, "a"), make.draws(small, "b")]
    for lost, status in ((20, "FAIL"), (4, "INCONCLUSIVE"), (3, "PASS")):
        found = checked(theirs, [make.draws(big, "a"), make.draws(make.flipped(small, lost), "b")])
        assert (found["accuracy_drop"].status, found["task_drop b"].status) == ("PASS", status)
