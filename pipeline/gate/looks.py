"""What the pooled accuracy said at each look at the items, and whether more of them can decide
it."""

from __future__ import annotations

from pipeline.gate import items, pairing, spending
from pipeline.gate.limits import Limits, status
from pipeline.records import Check, Evaluation, Look

OF_ITEMS = {"accuracy_drop", "task_drop", "length_ratio"}
UNLIKELY = 0.05  # a PASS less likely than this is not waited for,
LIKELY = 0.5  # unless a FAIL is more likely than not
# standard errors by which the estimate may be unlucky: without them good artifacts are given up at
# early looks
FAVOUR = 1.0


def at(reference: Evaluation, candidate: Evaluation, limits: Limits) -> list[Look]:
    """One record a look, up to the one that was reached; none where there is a single look, or the
    items cannot be paired."""
    knows = items.known(reference, limits)
    if (
        len(limits.fractions) == 1
        or not knows
        or {task.name for task in candidate.tasks} != set(limits.items)
    ):
        return []
    try:
        last = items.reached(candidate, limits)
        return [
            _look(
                pairing.join(
                    pairing.paired_by_task(reference, _first(candidate, limits, look)), knows
                ),
                limits,
                look,
            )
            for look in range(last + 1)
        ]
    except ValueError:  # its check says so
        return []


def more_can_decide(checks: list[Check], seen: list[Look]) -> bool:
    """Is nothing worse than undecided, all that is undecided asked of items, and can more of them
    still decide it?"""
    undecided = {check.kind for check in checks if check.status == "INCONCLUSIVE"}
    return (
        bool(undecided)
        and undecided <= OF_ITEMS
        and all(check.status != "FAIL" for check in checks)
        and bool(seen)
        and not seen[-1].futile
    )


def explained(check: Check, seen: list[Look]) -> Check:
    """The check on the pooled accuracy says why no more items were drawn where they would hardly
    mend it."""
    if check.kind != "accuracy_drop" or not seen or not seen[-1].futile:
        return check
    explanation = (
        f". No more items: a PASS at the last look has a probability of {seen[-1].pass_power:.1%}"
        " at best"
    )
    return check.model_copy(update={"reason": check.reason + explanation})


def _first(candidate: Evaluation, limits: Limits, look: int) -> Evaluation:
    """The evaluation as it was at an earlier look."""
    tasks = [
        task.model_copy(
            update={"items": task.items[: limits.size(task.name, task.documents, look)]}
        )
        for task in candidate.tasks
    ]
    return candidate.model_copy(update={"tasks": tasks})


def _look(pairs: pairing.Pairs, limits: Limits, look: int) -> Look:
    confidence, fraction, limit = (
        limits.confidence_at(look),
        limits.fractions[look],
        limits.accuracy_drop,
    )
    estimate, _ = items.difference(pairs, confidence)
    outcome, passing, failing = status(estimate.low, estimate.high, limit), 0.0, 0.0
    if outcome == "INCONCLUSIVE" and fraction < 1:
        distance, last = limit - estimate.value, 1 - limits.confidence_at(len(limits.fractions) - 1)
        passing = spending.conditional_power(distance, estimate.error, fraction, last, FAVOUR)
        failing = spending.conditional_power(-distance, estimate.error, fraction, last)
    return Look(
        items=len(pairs),
        spent=spending.spent(1 - limits.confidence, fraction),
        error=1 - confidence,
        status=outcome,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        pass_power=passing,
        fail_power=failing,
        futile=outcome == "INCONCLUSIVE"
        and fraction < 1
        and passing < UNLIKELY
        and failing < LIKELY,
    )
