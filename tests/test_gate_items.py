"""Checks on task items: pairing, the paired drop and its bounds, guard-rails, answer lengths, what
changed."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from pipeline import gate
from pipeline.gate import items, statistics
from pipeline.records import Check, Evaluation, Item, Task
from tests import evaluations as make
from tests.test_gate_statistics import linearized

NLL = np.random.default_rng(0).normal(64, 6, make.WINDOWS)
SCORES = (np.random.default_rng(1).random(400) < 0.8).astype(float)
ITEMS = {"t": (400, 400)}

pytestmark = pytest.mark.usefixtures("quick_gate")


def of(*tasks: Task, reference: bool = False) -> Evaluation:
    return (make.reference if reference else make.candidate)(NLL, list(tasks))


def checked(
    theirs: list[Task] | Task, ours: list[Task] | Task, **change: object
) -> dict[str, Check]:
    """The checks on items alone."""
    theirs, ours = ([tasks] if isinstance(tasks, Task) else tasks for tasks in (theirs, ours))
    asked = {task.name: (len(task.items), len(task.items)) for task in theirs}
    limits = make.limits(**{"items": asked, **change})
    return {
        check.name: check for check in items.checks(of(*theirs, reference=True), of(*ours), limits)
    }


def pooled(
    scores: np.ndarray, other: np.ndarray, clusters: object = None, **change: object
) -> Check:
    return checked(
        make.draws(scores, clusters=clusters), make.draws(other, clusters=clusters), **change
    )["accuracy_drop"]


THEIRS = of(make.draws(SCORES), reference=True)
OURS = of(make.draws(SCORES))
OTHER = Item.model_validate(
    {**OURS.tasks[0].items[0].model_dump(), "place": 400, "doc_id": 1400, "doc_hash": "d400"}
)


def renamed(field: str, value: object) -> object:
    return lambda found: [found[0].model_copy(update={field: value}), *found[1:]]


NOT_THE_SAME = {
    **{
        f"other {name}": renamed(name, "x")
        for name in ("task", "doc_hash", "prompt_hash", "target_hash", "tokens_hash")
    },
    "other doc_id": renamed("doc_id", 7),
    "another place": renamed("place", 400),
    "item twice": lambda found: [*found[:-1], found[0]],
    "item replaced": lambda found: [*found[:-1], OTHER],
}
NOT_ALL = {
    "one missing": lambda found: found[:-1],
    "partial draw": lambda found: found[:200],
    "more than the cap": lambda found: [*found, OTHER],
}


@pytest.mark.parametrize("name", NOT_THE_SAME)
def test_items_that_are_not_the_references_fail(name: str) -> None:
    verdict = gate.decide(
        THEIRS, make.with_items(OURS, NOT_THE_SAME[name]), None, make.limits(items=ITEMS)
    )
    assert verdict.status == "FAIL"
    assert (
        "not the reference's items"
        in next(c for c in verdict.checks if c.name == "accuracy_drop").reason
    )


@pytest.mark.parametrize("name", NOT_ALL)
def test_items_that_are_not_all_there_fail(name: str) -> None:
    verdict = gate.decide(
        THEIRS, make.with_items(OURS, NOT_ALL[name]), None, make.limits(items=ITEMS)
    )
    assert verdict.status == "FAIL"
    reason = next(c for c in verdict.checks if c.name == "accuracy_drop").reason
    assert "a partial evaluation is no PASS" in reason or "not the reference's items" in reason


def test_no_items_or_items_of_another_number_of_documents_fail() -> None:
    for broken in (make.with_items(OURS, lambda _: []), make.with_items(OURS, list, documents=401)):
        verdict = gate.decide(THEIRS, broken, None, make.limits(items=ITEMS))
        assert verdict.status == "FAIL"
        assert (
            "the reference's task has 400"
            in next(c for c in verdict.checks if c.name == "accuracy_drop").reason
        )


@pytest.mark.parametrize("count", [200, 0])
def test_all_items_means_all_that_the_reference_has(count: int) -> None:
    """With `all`, the artifact's own word for how many there are must not do."""
    everything = {"items": {"t": ("all", "all")}, "accuracy_drop": 0.05}
    assert gate.decide(THEIRS, OURS, None, make.limits(**everything)).status == "PASS"
    partial = make.with_items(OURS, lambda found: found[:count], documents=count)
    assert gate.decide(THEIRS, partial, None, make.limits(**everything)).status == "FAIL"


def test_reference_with_fewer_items_fails() -> None:
    short = make.with_items(THEIRS, lambda found: found[:-1])
    assert gate.decide(short, OURS, None, make.limits(items=ITEMS)).status == "FAIL"
    assert (
        gate.decide(
            of(make.draws(SCORES, "other"), reference=True), OURS, None, make.limits(items=ITEMS)
        ).status
        == "FAIL"
    )


@pytest.mark.parametrize("asked", [{"t": (400, 400), "u": (400, 400)}, {"u": (400, 400)}])
def test_other_tasks_than_the_recipes_fail(asked: dict[str, tuple[int, int]]) -> None:
    verdict = gate.decide(THEIRS, OURS, None, make.limits(items=asked))
    assert verdict.status == "FAIL"
    more = of(make.draws(SCORES), make.draws(SCORES, "u"))
    assert gate.decide(THEIRS, more, None, make.limits(items=ITEMS)).status == "FAIL"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -0.2])
def test_scores_that_are_none_fail(value: float) -> None:
    broken = SCORES.copy()
    broken[3] = value
    for theirs, ours in ((SCORES, broken), (broken, SCORES), (broken, broken)):
        check = pooled(theirs, ours)
        assert (check.status, "expected 0 to 1" in check.reason) == ("FAIL", True)


def test_a_larger_draw_begins_with_the_smaller_one() -> None:
    """The reference holds all items that extension may ask for; the artifact has the first ones so
    far."""
    capped = make.limits(items={"t": (100, 400)}, accuracy_drop=0.2)
    fewer = make.with_items(OURS, lambda found: found[:100])
    assert gate.decide(THEIRS, fewer, None, capped).status == "PASS"
    others = make.with_items(OURS, lambda found: found[100:200])
    assert gate.decide(THEIRS, others, None, capped).status == "FAIL"


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (7, 0), (15, 9), (3, 20), (60, 30)])
def test_items_right_or_wrong_have_score_bounds(lost: int, won: int) -> None:
    check = pooled(SCORES, make.flipped(SCORES, lost, won))
    assert (check.value, check.low, check.high) == pytest.approx(
        ((lost - won) / 400, *statistics.score_difference(lost, won, 400, 0.95))
    )
    assert "Tango" in check.method
    assert pooled(SCORES, make.flipped(SCORES, lost, won), confidence=0.99).high > check.high


@pytest.mark.parametrize("changed", [400, 12])
def test_scores_between_right_and_wrong_have_the_paired_interval(changed: int) -> None:
    other = SCORES.copy()
    other[:changed] = np.random.default_rng(3).random(changed)
    check = pooled(SCORES, other)
    assert (check.value, check.low, check.high) == pytest.approx(
        linearized(SCORES - other, np.ones(400), 0.95)
    )
    assert "Tango" not in check.method


def test_tasks_are_pooled_by_item() -> None:
    theirs = [make.draws(np.ones(300), "a"), make.draws(np.ones(100), "b")]
    ours = [
        make.draws(make.flipped(np.ones(300), 30), "a"),
        make.draws(make.flipped(np.ones(100), 2), "b"),
    ]
    check = checked(theirs, ours)["accuracy_drop"]
    assert (check.n, check.value) == (400, pytest.approx(32 / 400))


def test_clustered_standard_error() -> None:
    """Against arXiv 2411.00640's formula: residuals summed in each cluster, squared, summed; times
    m / (m - 1)."""
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 60, 400)
    other = np.where(rng.random(60)[clusters] < 0.3, 1 - SCORES, SCORES)
    check = pooled(SCORES, other, clusters)
    difference = SCORES - other
    residuals = np.bincount(clusters, difference - difference.mean())
    m = len(np.unique(clusters))
    reach = stats.t.ppf(0.95, m - 1) * math.sqrt((residuals**2).sum() * m / (m - 1)) / 400
    narrow, wide = sorted((check.high - check.value, check.value - check.low))
    assert (
        narrow == pytest.approx(reach) and wide > reach
    )  # the side to which the clusters are skewed
    assert "clustered" in check.method
    alone = pooled(SCORES, other)
    assert "clustered" not in alone.method
    assert alone.high < check.high


GUESSED = (np.arange(400) % 4 == 0).astype(float)  # a quarter right of four choices


@pytest.mark.parametrize("guessed", [GUESSED, np.zeros(400)], ids=["at chance", "at 0 %"])
def test_a_task_at_which_the_reference_guesses_tells_nothing(guessed: np.ndarray) -> None:
    """The artifact cannot lose what was not there: such items would only dilute the pool."""
    theirs = [make.draws(np.ones(300), "known"), make.draws(guessed, "guessed")]
    ours = [make.draws(make.flipped(np.ones(300), 12), "known"), make.draws(guessed, "guessed")]
    checks = checked(theirs, ours)
    assert (checks["accuracy_drop"].n, checks["accuracy_drop"].value) == (300, pytest.approx(0.04))
    assert checks["task_drop guessed"].reason.startswith(
        "guessed tells nothing: the reference has "
    )
    assert "tells nothing" not in checks["task_drop known"].reason


def test_tasks_that_all_tell_nothing_are_no_pass() -> None:
    check = pooled(GUESSED, GUESSED)
    assert (check.status, "tell nothing" in check.reason) == ("INCONCLUSIVE", True)


def test_a_drop_below_chance_is_a_fail_all_the_same() -> None:
    assert (
        checked([make.draws(GUESSED)], [make.draws(np.zeros(400))])["task_drop t"].status == "FAIL"
    )


def test_no_flips_among_few_items_prove_nothing() -> None:
    check, z = pooled(np.ones(20), np.ones(20)), stats.norm.ppf(0.95)
    assert check.status == "INCONCLUSIVE"
    assert check.high == pytest.approx(z**2 / (20 + z**2))


def test_few_passages_bound_what_none_of_them_showed() -> None:
    """20 passages miss what sits in 14 % of all in one of twenty cases, and no item changed in
    any."""
    clusters = np.arange(400) // 20
    check, unseen = pooled(SCORES, SCORES, clusters), 1 - 0.05 ** (1 / 20)
    assert (check.status, check.low, check.high) == (
        "INCONCLUSIVE",
        pytest.approx(-unseen),
        pytest.approx(unseen),
    )
    assert (
        "They share 20 passages, and damage in some that were not drawn may be that much: draw"
        " from 149" in check.reason
    )
    together = SCORES.copy()
    together[np.flatnonzero(SCORES * (clusters == 0))[:15]] = 0
    assert pooled(SCORES, together, clusters).high >= 15 / 400 + unseen
    assert pooled(SCORES, SCORES, np.arange(400) // 2).status == "PASS"


def test_items_of_one_single_cluster_decide_nothing() -> None:
    for lost in (0, 40):
        check = pooled(SCORES, make.flipped(SCORES, lost), np.zeros(400))
        assert check.status == "INCONCLUSIVE"
        assert (check.low, check.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(("others", "status"), [([], None), ([0], "PASS"), ([200], "FAIL")])
def test_a_task_in_one_cluster_is_not_shown_to_be_beyond_its_limit(
    others: list[int], status: str | None
) -> None:
    """It has no standard error; 30 items lost and 30 won are no drop at all."""
    theirs = [
        make.draws(SCORES, clusters=np.zeros(400)),
        *(make.draws(SCORES, "u") for _ in others),
    ]
    ours = [make.draws(make.flipped(SCORES, 30, 30), clusters=np.zeros(400))]
    found = checked(
        theirs,
        ours + [make.draws(make.flipped(SCORES, lost), "u") for lost in others],
        confidence=0.95,
    )
    assert found["task_drop t"].status == "PASS", found["task_drop t"].reason
    if others:
        assert found["task_drop u"].status == status


@pytest.mark.parametrize(("lost", "status"), [(15, "PASS"), (55, "INCONCLUSIVE"), (200, "FAIL")])
def test_three_outcomes_of_accuracy(lost: int, status: str) -> None:
    scores = np.ones(3000)
    check = pooled(scores, make.flipped(scores, lost))
    assert check.status == status
    needed = re.search(r"About (\d+) items would decide it", check.reason)
    assert bool(needed) == (status == "INCONCLUSIVE")
    if needed:
        z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
        deviation = np.std(scores - make.flipped(scores, lost), ddof=1)
        assert int(needed.group(1)) == math.ceil((z * deviation / (0.02 - 55 / 3000)) ** 2)


def test_an_estimate_beyond_the_limit_is_not_mended_by_items() -> None:
    check = pooled(np.ones(1000), make.flipped(np.ones(1000), 25))
    assert check.status == "INCONCLUSIVE"
    assert "more items would rather confirm a FAIL" in check.reason


def test_mcnemar_recovery_and_what_changed() -> None:
    ours = of(make.draws(make.flipped(SCORES, 12, 3)))
    task = gate.decide(THEIRS, ours, None, make.limits(items=ITEMS)).tasks[0]
    right = SCORES.mean()
    assert task.mcnemar_p == pytest.approx(stats.binomtest(3, 15, 0.5).pvalue)
    assert task.recovery == pytest.approx((right - 9 / 400 - 0.25) / (right - 0.25))
    assert (task.n, task.reference_accuracy, task.accuracy) == (
        400,
        pytest.approx(right),
        pytest.approx(right - 9 / 400),
    )
    assert task.lost == [f"t/{1000 + place}" for place in np.flatnonzero(SCORES)[:12]]
    assert task.won == [f"t/{1000 + place}" for place in np.flatnonzero(SCORES == 0)[:3]]
    assert task.length_ratio is None


def test_no_recovery_above_a_reference_that_guesses() -> None:
    quarter = np.resize([1.0, 0, 0, 0], 400)
    task = gate.decide(
        of(make.draws(quarter), reference=True),
        of(make.draws(quarter)),
        None,
        make.limits(items=ITEMS),
    ).tasks[0]
    assert math.isnan(task.recovery)


@pytest.mark.parametrize("items_count", [50, 150, 500])
def test_scores_between_0_and_1_pass_no_more_often_than_allowed(items_count: int) -> None:
    """A drop as large as the limit: a few answers lost as a whole, under small changes of all."""
    random, limit, rounds = np.random.default_rng(0), 0.03, 400
    passed = 0
    for _ in range(rounds):
        theirs = random.uniform(0.3, 1, items_count)
        ours = np.clip(theirs + random.normal(0, 0.01, items_count), 0, 1)
        ours = np.where(random.random(items_count) < limit / theirs.mean(), 0, ours)
        pairs = list(zip(make.draws(theirs).items, make.draws(ours).items, strict=True))
        passed += items.difference(pairs, 0.95)[0].high <= limit
    assert passed / rounds <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / rounds)


def test_scores_between_0_and_1_that_hardly_change_pass() -> None:
    theirs = np.random.default_rng(0).uniform(0.3, 1, 500)
    ours = np.clip(theirs + np.random.default_rng(1).normal(0, 0.01, 500), 0, 1)
    assert pooled(theirs, ours, accuracy_drop=0.01).status == "PASS"
    assert pooled(theirs, ours * 0.9, accuracy_drop=0.01).status == "FAIL"


def test_items_scored_by_another_metric_are_no_pair() -> None:
    ours = make.draws(SCORES).model_copy(update={"filter": "flexible-extract"})
    assert (
        "scored by acc (flexible-extract), the reference by acc (none)"
        in checked(make.draws(SCORES), ours)["accuracy_drop"].reason
    )
