"""The gate stage: decides, and where limits that were moved since the evaluation leave its items
undecided, measures the next look's while they can decide."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline import engines, gate, paths, records
from pipeline.errors import EvaluationError
from pipeline.evidence import current, evaluations, keeping, opened, seals
from pipeline.evidence.candidate import Candidate
from pipeline.gate import limits, looks
from pipeline.records import artifact
from pipeline.runtime import process
from pipeline.source import checkpoint
from pipeline.stages import drawing, measuring


def run(name: str, variant_name: str, recheck: bool = False) -> None:
    """The gate stage: writes the verdict; with `recheck` it only raises ArtifactError if the stored
    one is another."""
    if recheck:
        current.recheck(opened.candidate(name, variant_name))
        return
    verdict = settle(opened.candidate(name, variant_name))
    verdict.write(paths.verdict(name, variant_name))
    records.write_text(paths.gate(name, variant_name), f"{verdict.status}\n")
    say(verdict)


def say(verdict: records.Verdict) -> None:
    print(f"{verdict.variant}: {verdict.status}")
    for number, look in enumerate(verdict.looks, 1):
        interval = f"{look.value:+.4f} ({look.low:+.4f} to {look.high:+.4f})"
        print(f"  look {number}: {look.status}: accuracy drops by {interval}, {look.items} items")
    for check in verdict.checks:
        print(f"  {check.status}: {check.name}: {check.reason}")


def settle(candidate: Candidate) -> records.Verdict:
    """The verdict; where the recipe has several looks at the items, draws more of them first while
    they can decide it.

    Each look is kept when it is finished, so that a killed gate goes on with the next.
    """
    held_to = limits.of(candidate.recipe, candidate.variant)
    _start_extension(held_to, candidate.place)
    verdict = evaluations.verdict_of(candidate)
    spans = _next(verdict, evaluations.evaluation_of(candidate), held_to)
    if not spans:
        return verdict
    with (
        artifact.stage_folder(candidate.stage("gate")) as folder,
        _open_session(candidate, folder) as session,
    ):
        while spans:
            drawn = ", ".join(f"{task} {start} to {stop}" for task, (start, stop) in spans.items())
            print(f"{candidate.variant_name}: undecided; adding items: {drawn}", flush=True)
            _add(candidate, session.ask({"spans": spans}))
            verdict = evaluations.verdict_of(candidate)
            spans = _next(verdict, evaluations.evaluation_of(candidate), held_to)
    return verdict


def _next(
    verdict: records.Verdict, measured: records.Evaluation, held_to: gate.Limits
) -> measuring.Spans:
    """The items to add: those of the next look, if more can decide it, or what a draw for another
    kind of gate lacks."""
    if _is_a_look(measured, held_to):
        if not looks.more_can_decide(verdict.checks, verdict.looks):
            return {}
        return drawing.further(measured, held_to, gate.items.reached(measured, held_to) + 1)
    if _is_a_look(measured, _opposite_schedule(held_to)):
        return drawing.further(measured, held_to, 0)
    return {}


def _is_a_look(measured: records.Evaluation, held_to: gate.Limits) -> bool:
    """Are the items those of a look?"""
    try:
        gate.items.reached(measured, held_to)
    except (KeyError, ValueError):
        return False
    return bool(measured.tasks)


def _opposite_schedule(held_to: gate.Limits) -> gate.Limits:
    """The same recipe with gate.sequential the other way: what was measured for it is not measured
    again."""
    return dataclasses.replace(held_to, sequential=not held_to.sequential)


def _open_session(candidate: Candidate, folder: Path) -> closing[process.Session]:
    """The engine with the artifact, loaded once for all looks that are to come."""
    model, manifest = keeping.verified(candidate.place)
    source, _ = checkpoint.open_pinned(candidate.name, candidate.recipe.model)
    job = measuring.engine_job(candidate, manifest.engine, model, source, {})
    environment = engines.ENGINES[manifest.engine].environment
    return closing(process.Session(environment, "extend", job, folder / "job.json", offline=False))


def _start_extension(held_to: gate.Limits, place: paths.Place) -> None:
    """Items added earlier are kept if they are of the same artifact and settings, and of a look
    that the recipe has."""
    evaluation = records.read(place.evaluation, records.Evaluation)
    if place.extension.is_file():
        extension = records.read(place.extension, records.Extension)
        measured = evaluation.model_copy(
            update={"tasks": records.joined(evaluation.tasks, extension.tasks)}
        )
        if evaluations.extends(extension, evaluation) and (
            _is_a_look(measured, held_to) or _is_a_look(measured, _opposite_schedule(held_to))
        ):
            return
    started = records.Extension(
        artifact_sha256=evaluation.artifact_sha256,
        requested=evaluation.requested,
        versions=evaluation.versions,
        tasks=[],
        wall_s=0,
    )
    seals.sealed(started, {}).write(place.extension)


def _add(candidate: Candidate, answer: dict[str, Any]) -> None:
    """Keeps what was measured for one more look."""
    path = candidate.place.extension
    extension = records.read(path, records.Extension)
    if answer["versions"] != extension.versions:
        raise EvaluationError(
            f"{candidate.variant_name}: measured with {extension.versions}, this environment has"
            f" {answer['versions']}. Run: dvc repro -f {candidate.stage('evaluate')}"
        )
    tasks = records.joined(
        extension.tasks, [records.Task.model_validate(task) for task in answer["tasks"]]
    )
    extended = extension.model_copy(
        update={"tasks": tasks, "wall_s": extension.wall_s + answer["wall_s"]}
    )
    seals.sealed(extended, {}).write(path)
