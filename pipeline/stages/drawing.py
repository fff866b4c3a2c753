"""Which items are measured next, look by look, and whether they can decide."""

from __future__ import annotations

from typing import Any

from pipeline import gate
from pipeline.gate import looks
from pipeline.records import Evaluation, Task, View
from pipeline.runtime.process import Session
from pipeline.stages.measuring import Spans


def further(measured: Evaluation, held_to: gate.Limits, first: int) -> Spans:
    """The items that are lacking at the first look from `first` on (the first of all being 0) that
    has more than were measured; none where no look has."""
    drawn = {task.name: len(task.items) for task in measured.tasks}
    for look in range(first, len(held_to.fractions)):
        sizes = {
            task.name: held_to.size(task.name, task.documents, look) for task in measured.tasks
        }
        spans: Spans = {
            task: (drawn[task], size) for task, size in sizes.items() if drawn[task] < size
        }
        if spans and all(drawn[task] <= size for task, size in sizes.items()):
            return spans
    return {}


def decided(
    session: Session, value: dict[str, Any], theirs: Evaluation, held_to: gate.Limits
) -> dict[str, Any]:
    """All that there is to measure, asked of an evaluation's `session` that gave `value`: more
    items while the texts pass as served and nothing but items is undecided, then the rest."""
    while spans := _undecided(value, theirs, held_to):
        drawn = ", ".join(f"{task} {start} to {stop}" for task, (start, stop) in spans.items())
        print(f"undecided; adding items: {drawn}", flush=True)
        value = session.ask({"spans": spans})
    return session.ask({})


def _undecided(value: dict[str, Any], theirs: Evaluation, held_to: gate.Limits) -> Spans:
    """The items of the next look, where more of them can decide it."""
    views = {label: View.model_validate(view) for label, view in value["views"].items()}
    if gate.texts.as_served(theirs, views, held_to) != "PASS":
        return {}
    measured = theirs.model_copy(
        update={"views": views, "tasks": [Task.model_validate(task) for task in value["tasks"]]}
    )
    checks = gate.items.checks(theirs, measured, held_to)
    if not looks.more_can_decide(checks, looks.at(theirs, measured, held_to)):
        return {}
    return further(measured, held_to, gate.items.reached(measured, held_to) + 1)
