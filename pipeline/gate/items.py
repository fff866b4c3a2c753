"""Checks on task items, each paired with the same item under the reference: pooled accuracy,
guard-rails, lengths."""

from __future__ import annotations

import math

from pipeline.gate import pairing, statistics
from pipeline.gate.limits import Limits, failed, status, unseen, windows_for, words
from pipeline.gate.pairing import Pairs
from pipeline.gate.statistics import FEW_FLIPS, Estimate
from pipeline.records import Check, Evaluation, Item, Question, Status

POWER = 0.8


def checks(reference: Evaluation, candidate: Evaluation, limits: Limits) -> list[Check]:
    """Pooled non-inferiority, then a guard-rail and, for generated answers, a length check per
    task."""
    asked, method = (
        Question("accuracy_drop"),
        "pairing by document, prompt, target and token hashes",
    )
    if {task.name for task in candidate.tasks} != set(limits.items):
        return [
            failed(
                asked,
                limits.accuracy_drop,
                method,
                "the tasks measured are not those of the recipe",
            )
        ]
    try:
        paired, look = pairing.paired_by_task(reference, candidate), reached(candidate, limits)
    except ValueError as error:
        return [failed(asked, limits.accuracy_drop, method, str(error))]
    confidence, knows = limits.confidence_at(look), known(reference, limits)
    pooled = _pooled(pairing.join(paired, knows), limits, look) if knows else _nothing(limits)
    lengths = [
        check
        for task, pairs in paired.items()
        if (check := _length(task, pairs, limits, confidence))
    ]
    return [pooled, *_guard_rails(paired, limits, confidence, knows), *lengths]


def reached(candidate: Evaluation, limits: Limits) -> int:
    """Which look, the first being 0, has as many items of each task as were measured. Raises
    ValueError if none has."""
    for look in range(len(limits.fractions)):
        if all(
            len(task.items) == limits.size(task.name, task.documents, look)
            for task in candidate.tasks
        ):
            return look
    measured = ", ".join(f"{task.name} {len(task.items)}" for task in candidate.tasks)
    asked = ", ".join(
        f"{task.name} {limits.size(task.name, task.documents, 0)}" for task in candidate.tasks
    )
    raise ValueError(
        f"items measured: {measured}; the recipe asks first for {asked}; a partial evaluation is no"
        " PASS"
    )


def known(reference: Evaluation, limits: Limits) -> set[str]:
    """The tasks at which the reference is surely better than guessing. At others an artifact has
    nothing to lose.

    By all items of the reference, and by nothing of the artifact, so that neither damage nor the
    look chooses the tasks."""
    return {
        task.name
        for task in reference.tasks
        if task.name in limits.items and _known(task.items, limits.confidence)
    }


def _known(items: list[Item], confidence: float) -> bool:
    sums, counts = pairing.by_cluster(
        [(item, item) for item in items], [item.score - item.chance for item in items]
    )
    estimate = statistics.ratio(sums, counts, confidence)
    return estimate.low > 0 if estimate.freedom else estimate.value > 0


def _nothing(limits: Limits) -> Check:
    nan, reason = (
        math.nan,
        (
            "the reference answers none of the tasks better than guessing would: they tell nothing."
            " Take others"
        ),
    )
    return Check(
        kind="accuracy_drop",
        status="INCONCLUSIVE",
        value=nan,
        low=nan,
        high=nan,
        limit=limits.accuracy_drop,
        n=0,
        method="reference above chance",
        reason=reason,
    )


def _pooled(pairs: Pairs, limits: Limits, look: int) -> Check:
    """Mean of (reference right - artifact right) over the items of all tasks."""
    confidence, looks = limits.confidence_at(look), len(limits.fractions)
    estimate, method = difference(pairs, confidence)
    method += f", one-sided {limits.confidence:.0%}"
    if looks > 1:
        method += (
            f", look {look + 1} of {looks} at growing samples (Lan-DeMets, O'Brien-Fleming:"
            f" {1 - confidence:.2g} at this one)"
        )
    limit = limits.accuracy_drop
    outcome = status(estimate.low, estimate.high, limit)
    lost, won = pairing.flips(pairs)
    reason = (
        f"accuracy drops by {estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f};"
        f" {len(pairs)} items, {lost} lost, {won} won); {words(outcome)} the limit of {limit:g}"
    )
    if outcome == "INCONCLUSIVE":
        reason += f". {_needed(pairs, estimate, limit, confidence)}"
    return Check(
        kind="accuracy_drop",
        status=outcome,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        limit=limit,
        n=len(pairs),
        method=method,
        reason=reason,
    )


def difference(pairs: Pairs, confidence: float) -> tuple[Estimate, str]:
    """The paired drop with its bounds, and how they were found."""
    sums, counts = pairing.by_cluster(pairs, [theirs.score - ours.score for theirs, ours in pairs])
    estimate = statistics.ratio(sums, counts, confidence)
    clustered = len(sums) < len(pairs)
    if clustered or not _binary(pairs):
        estimate = _with_unseen(estimate, unseen(len(sums), confidence))
        return (
            estimate,
            f"paired difference per item{', clustered by shared passage' if clustered else ''}",
        )
    low, high = statistics.score_difference(*pairing.flips(pairs), len(pairs), confidence)
    return estimate._replace(low=low, high=high), "score bounds on items lost and won (Tango)"


def _with_unseen(estimate: Estimate, share: float) -> Estimate:
    """Of passages, or of scores between 0 and 1: as many may lose or win all as miss the sample,
    whatever those drawn scatter."""
    return estimate._replace(
        low=min(estimate.low, estimate.value - share),
        high=max(estimate.high, estimate.value + share),
    )


def _binary(pairs: Pairs) -> bool:
    """Whether items are lost and won as a whole."""
    return all(abs(theirs.score - ours.score) in (0.0, 1.0) for theirs, ours in pairs)


def _needed(pairs: Pairs, estimate: Estimate, limit: float, confidence: float) -> str:
    distance = limit - estimate.value
    if not math.isfinite(estimate.error):
        return "All items belong to one passage: draw from others"
    if distance <= 0:
        return "The estimate itself is not within the limit: more items would rather confirm a FAIL"
    groups, least = estimate.freedom + 1, windows_for(distance, confidence)
    if groups < len(pairs) and groups < least:
        return (
            f"They share {groups} passages, and damage in some that were not drawn may be that"
            f" much: draw from {least}"
        )
    deviation = max(estimate.error * math.sqrt(len(pairs)), math.sqrt(1 / len(pairs)))
    wanted = statistics.items_needed(distance, deviation, confidence, POWER)
    return (
        f"About {max(wanted, len(pairs) + 1)} items would decide it (power {POWER:.0%} if the drop"
        " is as estimated)"
    )


def _guard_rails(
    paired: dict[str, Pairs], limits: Limits, confidence: float, knows: set[str]
) -> list[Check]:
    """No single task may be shown to drop beyond its limit; Holm's correction over the tasks.

    A task too small to prove anything does not fail, but an estimate beyond the limit is no PASS
    either."""
    estimates = {task: difference(pairs, limits.confidence)[0] for task, pairs in paired.items()}
    p_values = [
        _p_value(pairs, estimates[task], limits.task_drop) for task, pairs in paired.items()
    ]
    rejected = statistics.holm(p_values, confidence)
    return [
        _guard_rail(task, estimates[task], paired[task], p, beyond, limits, task in knows)
        for task, p, beyond in zip(paired, p_values, rejected, strict=True)
    ]


def _p_value(pairs: Pairs, estimate: Estimate, limit: float) -> float:
    """Against a drop within the limit: by t, or for few changed right-or-wrong items exact; in
    clusters the larger of both."""
    by_t = statistics.exceeds(estimate, limit)
    lost, won = pairing.flips(pairs)
    if lost + won >= FEW_FLIPS or not _binary(pairs):
        return by_t
    exact = statistics.lost_exceeds(lost, won, len(pairs), limit)
    return max(by_t, exact) if len({ours.cluster for _, ours in pairs}) < len(pairs) else exact


def _guard_rail(
    task: str, estimate: Estimate, pairs: Pairs, p: float, beyond: bool, limits: Limits, knows: bool
) -> Check:
    limit, n = limits.task_drop, len(pairs)
    outcome: Status = "FAIL" if beyond else "INCONCLUSIVE" if estimate.value > limit else "PASS"
    finding = {
        "FAIL": f"shown to be beyond the limit of {limit:g}",
        "INCONCLUSIVE": f"beyond the limit of {limit:g}, but too few items to be sure",
        "PASS": f"not beyond the limit of {limit:g}",
    }[outcome]
    reason = (
        f"accuracy on {task} drops by {estimate.value:+.4f} ({estimate.low:+.4f} to"
        f" {estimate.high:+.4f}; {n} items); {finding} (p = {p:.2g})"
    )
    if outcome != "FAIL" and not knows:
        right, chance = (
            pairing.mean([theirs.score for theirs, _ in pairs]),
            pairing.mean([theirs.chance for theirs, _ in pairs]),
        )
        reason = (
            f"{task} tells nothing: the reference has {right:.1%} right, guessing {chance:.1%} ({n}"
            f" items); its items do not count for accuracy_drop. {reason}"
        )
    return Check(
        kind="task_drop",
        of=task,
        status=outcome,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        limit=limit,
        n=n,
        method=f"guard-rail, Holm-corrected, family-wise {limits.confidence:.0%}",
        reason=reason,
    )


def _length(task: str, pairs: Pairs, limits: Limits, confidence: float) -> Check | None:
    """Generated length over the reference's (MLPerf Inference asks for 90 %): early stops and
    rambling. None if scored only.

    The end token counts, so that an empty answer has a length.
    """
    if all(item.generated_tokens is None for pair in pairs for item in pair):
        return None
    (least, most), asked, method = (
        limits.length_ratio,
        Question("length_ratio", of=task),
        "ratio of generated tokens, one-sided each way",
    )
    known = pairing.lengths(pairs)
    if len(known) != len(pairs):
        return failed(asked, least, method, "the lengths of some answers are missing")
    ours, _ = pairing.by_cluster(pairs, [float(length) for _, length in known])
    theirs, _ = pairing.by_cluster(pairs, [float(length) for length, _ in known])
    estimate = statistics.ratio(ours, theirs, confidence)
    harmless = estimate.low >= least and estimate.high <= most
    outcome: Status = (
        "PASS"
        if harmless
        else "FAIL"
        if estimate.high < least or estimate.low > most
        else "INCONCLUSIVE"
    )
    limit = most if estimate.value > 1 else least
    reason = (
        f"answers to {task} are {estimate.value:.4f} times as long as the reference's"
        f" ({estimate.low:.4f} to {estimate.high:.4f}; {len(pairs)} items);"
        f" {words(outcome)} {least:g} to {most:g}"
    )
    return Check(
        **asked._asdict(),
        status=outcome,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        limit=limit,
        n=len(pairs),
        method=method,
        reason=reason,
    )
