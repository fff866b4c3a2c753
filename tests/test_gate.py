"""The gate's numbers against independent computations, and every way in which it must not pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline import gate
from pipeline.records import Evaluation, Item, Perplexity, Task, Window

LIMITS = gate.Limits(perplexity_ratio=1.05, accuracy_drop=0.02, confidence=0.95)


def evaluation(nll: np.ndarray, scores: np.ndarray, tokens: int = 100, variant: str = "v") -> Evaluation:
    windows = [Window(nll_nats=float(value), tokens=tokens) for value in nll]
    same = {"task": "t", "prompt_hash": "p", "target_hash": "t", "tokens_hash": "i"}
    items = [Item(doc_id=i, doc_hash=f"d{i}", score=float(s), **same) for i, s in enumerate(scores)]
    return Evaluation(
        recipe="r",
        variant=variant,
        engine="fake",
        settings={},
        versions={},
        artifact_sha256=variant,
        requested={},
        failure=None,
        load_check=None,
        perplexity=[Perplexity(text="x", text_sha256="h", windows=windows)],
        tasks=[Task(name="t", metric="acc", documents=len(items), items=items)],
        wall_s=0,
        peak_memory_bytes=0,
    )  # fmt: skip


@pytest.fixture
def nll() -> np.ndarray:
    return np.random.default_rng(0).normal(200, 20, 60)


@pytest.fixture
def scores() -> np.ndarray:
    return (np.random.default_rng(1).random(3000) < 0.8).astype(float)


def check(reference: Evaluation, candidate: Evaluation, name: str) -> gate.Check:
    verdict = gate.decide(reference, candidate, LIMITS)
    return next(item for item in verdict.checks if item.name.startswith(name))


def test_equal_evaluations_pass(nll: np.ndarray, scores: np.ndarray) -> None:
    verdict = gate.decide(evaluation(nll, scores), evaluation(nll, scores), LIMITS)
    assert verdict.status == "PASS"
    assert [c.value for c in verdict.checks] == [1.0, 0.0]


def test_no_flips_among_few_items_prove_nothing(nll: np.ndarray) -> None:
    few = np.ones(20)
    found = check(evaluation(nll, few), evaluation(nll, few), "accuracy")
    assert found.status == "INCONCLUSIVE"
    # With no losses in n items the exact upper bound at error a is 1 - a ** (1 / n); half of 5 % is used on this side.
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_exact_interval_holds_its_error_at_the_margin() -> None:
    """Simulated: items lost at 2 %, none won: the bound must lie below the truth in at most 5 % of the draws."""
    lost = np.random.default_rng(4).binomial(500, 0.02, 2000)
    bounds = {k: gate._exact_interval(int(k), 0, 500, 0.95)[1] for k in set(lost)}
    assert np.mean([bounds[k] < 0.02 for k in lost]) <= 0.05


def test_an_artifact_that_could_not_be_measured_fails(nll: np.ndarray, scores: np.ndarray) -> None:
    good = evaluation(nll, scores)
    broken = good.model_copy(update={"failure": "vLLM refused it", "perplexity": [], "tasks": []})
    verdict = gate.decide(good, broken, LIMITS)
    assert verdict.status == "FAIL"
    assert "vLLM refused it" in verdict.checks[0].reason


def test_perplexity_interval_is_the_t_interval_of_window_means(nll: np.ndarray, scores: np.ndarray) -> None:
    other = nll + np.random.default_rng(2).normal(2, 1, len(nll))
    found = check(evaluation(nll, scores), evaluation(other, scores), "perplexity")
    per_token = (other - nll) / 100
    low, high = stats.t.interval(0.90, len(nll) - 1, per_token.mean(), stats.sem(per_token))
    assert found.value == pytest.approx(math.exp(other.sum() / 6000) / math.exp(nll.sum() / 6000))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_accuracy_interval_is_the_paired_t_interval(nll: np.ndarray, scores: np.ndarray) -> None:
    other = scores.copy()
    other[:150] = 1 - other[:150]
    found = check(evaluation(nll, scores), evaluation(nll, other), "accuracy")
    bound = stats.ttest_rel(scores, other).confidence_interval(0.90)
    assert found.value == pytest.approx(scores.mean() - other.mean())
    assert (found.low, found.high) == pytest.approx((bound.low, bound.high))


@pytest.mark.parametrize(("shift", "status"), [(1.0, "PASS"), (4.9, "INCONCLUSIVE"), (9.0, "FAIL")])
def test_three_outcomes_of_perplexity(nll: np.ndarray, scores: np.ndarray, shift: float, status: str) -> None:
    noise = np.random.default_rng(3).normal(0, 2, len(nll))
    other = nll + shift + noise - noise.mean()
    assert check(evaluation(nll, scores), evaluation(other, scores), "perplexity").status == status
    assert gate.decide(evaluation(nll, scores), evaluation(other, scores), LIMITS).status == status


@pytest.mark.parametrize(("lost", "status"), [(15, "PASS"), (55, "INCONCLUSIVE"), (200, "FAIL")])
def test_three_outcomes_of_accuracy(nll: np.ndarray, scores: np.ndarray, lost: int, status: str) -> None:
    other = scores.copy()
    other[np.flatnonzero(scores)[:lost]] = 0
    assert gate.decide(evaluation(nll, scores), evaluation(nll, other), LIMITS).status == status


def test_whatever_is_missing_or_not_finite_fails(nll: np.ndarray, scores: np.ndarray) -> None:
    good = evaluation(nll, scores)
    broken_nll, broken_scores = nll.copy(), scores.copy()
    broken_nll[3], broken_scores[3] = math.nan, math.nan
    infinite = nll.copy()
    infinite[0] = math.inf
    candidates = {
        "NaN window": evaluation(broken_nll, scores),
        "infinite window": evaluation(infinite, scores),
        "NaN score": evaluation(nll, broken_scores),
        "no text": good.model_copy(update={"perplexity": []}),
        "no task": good.model_copy(update={"tasks": []}),
        "fewer windows": evaluation(nll[:-1], scores),
        "fewer items": evaluation(nll, scores[:-1]),
        "other window length": evaluation(nll, scores, tokens=99),
    }
    for name, candidate in candidates.items():
        assert gate.decide(good, candidate, LIMITS).status == "FAIL", name


def test_an_empty_reference_fails(nll: np.ndarray, scores: np.ndarray) -> None:
    good = evaluation(nll, scores)
    for update in ({"perplexity": []}, {"tasks": []}, {"perplexity": [], "tasks": []}):
        empty = good.model_copy(update=update)
        assert gate.decide(empty, empty, LIMITS).status == "FAIL"


@pytest.mark.parametrize("field", ["doc_hash", "prompt_hash", "target_hash", "tokens_hash", "doc_id", "task"])
def test_items_that_are_not_the_same_fail(nll: np.ndarray, scores: np.ndarray, field: str) -> None:
    good = evaluation(nll, scores)
    items = list(good.tasks[0].items)
    items[7] = items[7].model_copy(update={field: 9999 if field == "doc_id" else "other"})
    other = good.model_copy(update={"tasks": [good.tasks[0].model_copy(update={"items": items})]})
    found = check(good, other, "accuracy")
    assert found.status == "FAIL"
    assert "not the reference's items" in found.reason


def test_one_window_cannot_pass(scores: np.ndarray) -> None:
    one = evaluation(np.array([200.0]), scores)
    assert gate.decide(one, one, LIMITS).status == "INCONCLUSIVE"
