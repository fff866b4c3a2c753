"""The gate: two evaluations and limits -> verdict. Pure: reads no file, no clock, no chance.

Every check is a one-sided non-inferiority test at the recipe's confidence. PASS: the bound on the harmful side lies
within the limit. FAIL: even the bound on the harmless side is beyond it. INCONCLUSIVE: the data cannot tell; that is
not a PASS. Whatever is missing, unpaired or not finite FAILS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.records import Check, Evaluation, Item, Perplexity, Status, Verdict

FEW_FLIPS = 25


@dataclass(frozen=True)
class Limits:
    """perplexity_ratio: largest perplexity over the reference's; accuracy_drop: largest loss of accuracy, as a share."""

    perplexity_ratio: float
    accuracy_drop: float
    confidence: float


def decide(reference: Evaluation, candidate: Evaluation, limits: Limits) -> Verdict:
    """Compares paired measurements. Reference and candidate must hold the same texts, windows and items."""
    if candidate.failure is not None:
        checks = [_failed("load", math.nan, "load check and evaluation on the engine", candidate.failure)]
    else:
        checks = [_perplexity_check(text, candidate, limits) for text in reference.perplexity]
        checks.append(_accuracy_check(reference, candidate, limits))
    return Verdict(
        recipe=candidate.recipe,
        variant=candidate.variant,
        status=_worst(checks, bool(reference.perplexity)),
        checks=checks,
        reference_sha256=reference.artifact_sha256,
        candidate_sha256=candidate.artifact_sha256,
    )


def _worst(checks: list[Check], has_perplexity: bool) -> Status:
    found = {check.status for check in checks}
    if "FAIL" in found or not has_perplexity:
        return "FAIL"
    return "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


def _perplexity_check(reference: Perplexity, candidate: Evaluation, limits: Limits) -> Check:
    """ln of the ratio = sum of paired window differences / tokens; its error from the spread of windows.

    Tokens within a window are correlated, so a window is the unit; the estimate is a ratio of sums (Cochran, Sampling
    Techniques, section 6.4).
    """
    name = f"perplexity_ratio {reference.text}"
    method = f"paired log ratio per window, one-sided {limits.confidence:.0%}"
    found = next((p for p in candidate.perplexity if p.text_sha256 == reference.text_sha256), None)
    if found is None or [w.tokens for w in found.windows] != [w.tokens for w in reference.windows] or not found.windows:
        return _failed(name, limits.perplexity_ratio, method, "the candidate has no perplexity on the same windows")
    differences = [q.nll_nats - r.nll_nats for q, r in zip(found.windows, reference.windows, strict=True)]
    if not all(map(math.isfinite, differences)):
        return _failed(name, limits.perplexity_ratio, method, "a window's log-likelihood is NaN or infinite")
    tokens, n = found.tokens, len(differences)
    mean = sum(differences) / tokens
    if n < 2:
        error = math.inf
    else:
        squares = sum((d - mean * w.tokens) ** 2 for d, w in zip(differences, found.windows, strict=True))
        error = math.sqrt(n / (n - 1) * squares) / tokens
    reach = _quantile(limits.confidence, n) * error
    value, low, high = (_exp(x) for x in (mean, mean - reach, mean + reach))
    status = _status(low, high, limits.perplexity_ratio)
    reason = (
        f"perplexity is {value:.4f} times the reference's ({low:.4f} to {high:.4f}, {n} windows); "
        f"{_words(status)} the limit of {limits.perplexity_ratio:g}"
    )
    return Check(name=name, status=status, value=value, low=low, high=high, limit=limits.perplexity_ratio, n=n,
                 method=method, reason=reason)  # fmt: skip


def _accuracy_check(reference: Evaluation, candidate: Evaluation, limits: Limits) -> Check:
    """Pooled over all tasks: mean of (reference right - candidate right) per item (arXiv 2411.00640, paired)."""
    name, method = "accuracy_drop", f"paired difference over all items, one-sided {limits.confidence:.0%}"
    pairs = _pair(_items(reference), _items(candidate))
    if pairs is None:
        return _failed(name, limits.accuracy_drop, method, "the candidate's items are not the reference's items")
    drops = [r.score - c.score for r, c in pairs]
    if not drops or not all(map(math.isfinite, drops)):
        return _failed(name, limits.accuracy_drop, method, "there are no items, or a score is NaN")
    n, value = len(drops), sum(drops) / len(drops)
    flips = sum(d != 0 for d in drops)
    if flips < FEW_FLIPS and set(drops) <= {-1.0, 0.0, 1.0}:
        low, high = _exact_interval(drops.count(1.0), drops.count(-1.0), n, limits.confidence)
        method = f"exact bounds on items lost and won, one-sided {limits.confidence:.0%}"
    else:
        variance = sum((d - value) ** 2 for d in drops) / (n - 1) if n > 1 else math.inf
        reach = _quantile(limits.confidence, n) * math.sqrt(variance / n)
        low, high = value - reach, value + reach
    status = _status(low, high, limits.accuracy_drop)
    reason = (
        f"accuracy drops by {value:+.4f} ({low:+.4f} to {high:+.4f}, {n} items, {flips} changed); "
        f"{_words(status)} the limit of {limits.accuracy_drop:g}"
    )
    return Check(name=name, status=status, value=value, low=low, high=high, limit=limits.accuracy_drop, n=n,
                 method=method, reason=reason)  # fmt: skip


def _exact_interval(lost: int, won: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson bounds on the share of items lost and of items won, each at half the error (Bonferroni).

    With few changed items the t interval is too narrow; with none it has no width at all.
    """
    from scipy.stats import binomtest

    # A two-sided interval at c leaves (1 - c) / 2 on each side; each of the two bounds may use half of 1 - confidence.
    bounds = [binomtest(k, n).proportion_ci(confidence_level=confidence, method="exact") for k in (lost, won)]
    return float(bounds[0].low - bounds[1].high), float(bounds[0].high - bounds[1].low)


def _items(evaluation: Evaluation) -> dict[tuple[str, ...], Item]:
    return {
        (task.name, item.task, str(item.doc_id), item.doc_hash, item.prompt_hash, item.target_hash, item.tokens_hash): item
        for task in evaluation.tasks
        for item in task.items
    }


def _pair(reference: dict[tuple[str, ...], Item], candidate: dict[tuple[str, ...], Item]) -> list[tuple[Item, Item]] | None:
    if reference.keys() != candidate.keys():
        return None
    return [(item, candidate[key]) for key, item in reference.items()]


def _status(low: float, high: float, limit: float) -> Status:
    if high <= limit:
        return "PASS"
    return "FAIL" if low > limit else "INCONCLUSIVE"


def _words(status: Status) -> str:
    return {"PASS": "within", "FAIL": "beyond", "INCONCLUSIVE": "the data cannot tell whether it is within"}[status]


def _failed(name: str, limit: float, method: str, reason: str) -> Check:
    nan = math.nan
    return Check(name=name, status="FAIL", value=nan, low=nan, high=nan, limit=limit, n=0, method=method, reason=reason)


def _quantile(confidence: float, n: int) -> float:
    """Student's t with n - 1 degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf(confidence, max(n - 1, 1)))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
