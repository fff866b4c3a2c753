"""Task items, each beside the same item under the reference."""

from __future__ import annotations

import math
from collections import defaultdict

from pipeline.gate import statistics
from pipeline.records import Evaluation, Item, Task, TaskComparison

Pairs = list[tuple[Item, Item]]  # (the reference's, the artifact's)


def paired_by_task(reference: Evaluation, candidate: Evaluation) -> dict[str, Pairs]:
    """Raises ValueError, with the reason, unless the items are the first of the reference's draw
    and the same."""
    paired = {}
    for task in candidate.tasks:
        try:
            paired[task.name] = _pair(reference, task)
        except ValueError as error:
            raise ValueError(f"{task.name}: {error}") from error
    return paired


def _pair(reference: Evaluation, task: Task) -> Pairs:
    theirs = next((other for other in reference.tasks if other.name == task.name), None)
    if theirs is None:
        raise ValueError("the reference was not measured on it")
    if task.documents != theirs.documents or not task.items:
        raise ValueError(
            f"{len(task.items)} items of {task.documents} documents, the reference's task has"
            f" {theirs.documents}"
        )
    if (task.metric, task.filter, task.code) != (theirs.metric, theirs.filter, theirs.code):
        raise ValueError(
            f"scored by {task.metric} ({task.filter}), the reference by {theirs.metric}"
            f" ({theirs.filter}) or other code"
        )
    expected = {_key(item): item for item in theirs.items if item.place < len(task.items)}
    measured = {_key(item): item for item in task.items}
    if expected.keys() != measured.keys() or len(measured) != len(task.items):
        raise ValueError("its items are not the reference's items")
    wrong = [
        item.score for item in [*expected.values(), *measured.values()] if not 0 <= item.score <= 1
    ]  # NaN is neither
    if wrong:
        raise ValueError(f"a score is {wrong[0]:g}, expected 0 to 1")
    return [(expected[key], item) for key, item in measured.items()]


def _key(item: Item) -> tuple[str, ...]:
    return (
        item.task,
        str(item.doc_id),
        str(item.place),
        item.doc_hash,
        item.prompt_hash,
        item.target_hash,
        item.tokens_hash,
    )


def join(paired: dict[str, Pairs], tasks: set[str]) -> Pairs:
    return [pair for task, pairs in paired.items() if task in tasks for pair in pairs]


def by_cluster(pairs: Pairs, values: list[float]) -> tuple[list[float], list[float]]:
    """Sum of the values and number of items of each cluster."""
    clusters: dict[str, list[float]] = defaultdict(list)
    for (_, ours), value in zip(pairs, values, strict=True):
        clusters[ours.cluster].append(value)
    return [sum(cluster) for cluster in clusters.values()], [
        float(len(cluster)) for cluster in clusters.values()
    ]


def flips(pairs: Pairs) -> tuple[int, int]:
    return sum(theirs.score > ours.score for theirs, ours in pairs), sum(
        ours.score > theirs.score for theirs, ours in pairs
    )


def lengths(pairs: Pairs) -> list[tuple[int, int]]:
    """Tokens of each generated answer, the reference's and the artifact's; the end token counts."""
    return [
        (theirs.generated_tokens + 1, ours.generated_tokens + 1)
        for theirs, ours in pairs
        if theirs.generated_tokens is not None and ours.generated_tokens is not None
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def compare(reference: Evaluation, candidate: Evaluation) -> list[TaskComparison]:
    """What changed on each task, item by item. Tasks that cannot be paired are left out: their
    check fails."""
    theirs = {task.name: task for task in reference.tasks}
    return [
        _compare(theirs[task.name], task)
        for task in candidate.tasks
        if task.name in theirs and task.items
    ]


def _compare(reference: Task, task: Task) -> TaskComparison:
    scores = {_key(item): item for item in reference.items}
    pairs = [(scores[_key(item)], item) for item in task.items if _key(item) in scores]
    expected = mean([theirs.score for theirs, _ in pairs])
    accuracy, chance = (
        mean([ours.score for _, ours in pairs]),
        mean([ours.chance for _, ours in pairs]),
    )
    lost = [f"{ours.task}/{ours.doc_id}" for theirs, ours in pairs if theirs.score > ours.score]
    won = [f"{ours.task}/{ours.doc_id}" for theirs, ours in pairs if theirs.score < ours.score]
    generated = lengths(pairs)
    return TaskComparison(
        name=task.name,
        n=len(pairs),
        reference_accuracy=expected,
        accuracy=accuracy,
        recovery=(accuracy - chance) / (expected - chance) if expected > chance else math.nan,
        mcnemar_p=statistics.mcnemar(len(lost), len(won)),
        lost=lost,
        won=won,
        length_ratio=sum(b for _, b in generated) / sum(a for a, _ in generated)
        if generated
        else None,
    )
