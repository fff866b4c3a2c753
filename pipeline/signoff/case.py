"""What is put before an approver: the artifact as it lies here, its verdict decided again, and what rules an approval out."""

from __future__ import annotations

import math

from pipeline import paths, records, require, revision, stages
from pipeline.benchmark import performance
from pipeline.errors import SignoffError
from pipeline.gate.limits import VIEWS
from pipeline.recipe import Recipe
from pipeline.records import Benchmark, Checkpoint, Evaluation, Manifest, Performance, Texts, Verdict
from pipeline.signoff import subject
from pipeline.signoff.standing import Case

SHOWN = 3


def of(name: str, variant_name: str) -> Case:
    """Raises ArtifactError if anything is missing, changed or stale, SignoffError for what nobody may sign off."""
    recipe, _ = stages.open_variant(name, variant_name)
    verdict = require.current_verdict(name, recipe, variant_name)
    never = [*_unfounded(name, variant_name), *_floating(name), *_partial(name, variant_name, recipe, verdict)]
    if never:
        raise SignoffError(f"{name}/{variant_name}: cannot be signed off as it is:\n  " + "\n  ".join(never))
    found = subject.of(name, variant_name, subject.evidence(name, variant_name, recipe))
    return Case(found, verdict.status, failing(verdict, performance.of(name, recipe, variant_name)))


def failing(verdict: Verdict, speed: Performance) -> dict[str, str]:
    """The checks that did not pass, with their status; speed among them where the recipe asks for some."""
    found: dict[str, str] = {check.name: check.status for check in verdict.checks if check.status != "PASS"}
    if speed.status in performance.REJECTED and not found:
        found["speedup"] = speed.status
    return found


def _unfounded(name: str, variant_name: str) -> list[str]:
    """What was made, measured or would be signed off by code or recipes that no commit has."""
    manifest = records.read(paths.manifest(name, variant_name), Manifest)
    evaluation = records.read(paths.evaluation(name, variant_name), Evaluation)
    reference = records.read(paths.evaluation(name, "reference"), Evaluation)
    after = f" && dvc repro report@{name}"
    found = {
        "the project now": (revision.now(), "ask again"),
        "the artifact": (manifest.origin.revision, f"dvc repro -s -f quantize@{name}--{variant_name}{after}"),
        "its evaluation": (
            evaluation.origin.revision,
            f"dvc repro -s -f evaluate@{name}--{variant_name}{after}",
        ),
        "the reference evaluation": (reference.origin.revision, f"dvc repro -s -f reference@{name}{after}"),
    }
    wrong = []
    for what, (state, remedy) in found.items():
        if state.commit is None:
            wrong.append(f"{what}: in no git commit. Commit the project, then: {remedy}")
        elif state.changed:
            files = ", ".join(state.changed[:SHOWN]) + (", ..." if len(state.changed) > SHOWN else "")
            wrong.append(f"{what}: of a dirty tree: {files} differ from commit {state.commit[:12]}. Commit, then: {remedy}")
    return wrong


def _floating(name: str) -> list[str]:
    pinned = records.read(paths.checkpoint(name), Checkpoint)
    if pinned.repo is None or len(pinned.revision or "") == 40:
        return []
    return [f"the source {pinned.repo} has a floating revision ({pinned.revision}). Give the commit: model.revision"]


def _partial(name: str, variant_name: str, recipe: Recipe, verdict: Verdict) -> list[str]:
    """What the recipe asks for and nobody measured; a waiver is for what was measured and is known."""
    evaluation = records.read(paths.evaluation(name, variant_name), Evaluation)
    texts = records.read(paths.texts(name), Texts).texts
    timed = records.read(paths.benchmark(name, variant_name), Benchmark)
    wrong = [f"not measured: {evaluation.failure}"] if evaluation.failure else []
    for view in VIEWS:
        scored = {found.text for found in evaluation.views[view].perplexity} if view in evaluation.views else set()
        wrong += [f"partial evaluation: {text.name} was not scored in the view {view}" for text in texts if text.name not in scored]
    counts = {task.name: len(task.items) for task in evaluation.tasks}
    for task, asked in recipe.evaluate.items.items():
        if counts.get(task, 0) < (1 if asked == "all" else asked):
            wrong.append(f"partial evaluation: {counts.get(task, 0)} items of {task}, the recipe asks for {asked}")
    wrong += [f"partial evaluation: {check.name}: {check.reason}" for check in verdict.checks if not math.isfinite(check.value)]
    if verdict.status == "PASS" and not timed.measured:
        wrong.append(f"not benchmarked: {timed.reason}")
    return list(dict.fromkeys(wrong))
