"""What is put before an approver: the artifact as it lies here, its verdict decided again, and what
rules an approval out."""

from __future__ import annotations

import hashlib
import math

from pipeline import paths, records
from pipeline.benchmark import performance
from pipeline.errors import SignoffError
from pipeline.evidence import current, provenance, revision, seals
from pipeline.evidence.candidate import Candidate
from pipeline.records import (
    VIEWS,
    Benchmark,
    Checkpoint,
    Evaluation,
    Manifest,
    Origin,
    Performance,
    Revision,
    Texts,
    Verdict,
)
from pipeline.release.signoff import subject
from pipeline.release.signoff.policy import Policy
from pipeline.release.signoff.standing import Case
from pipeline.runtime import environments

SHOWN = 3


def of(candidate: Candidate) -> Case:
    """Raises ArtifactError if anything is missing, changed or stale, SignoffError for what nobody
    may sign off."""
    verdict = current.verdict(candidate)
    never = [
        *_unfounded(candidate),
        *_floating(candidate.name),
        *_partial(candidate, verdict),
    ]
    if never:
        raise SignoffError(f"{candidate}: cannot be signed off as it is:\n  " + "\n  ".join(never))
    about = subject.of(candidate.name, candidate.variant_name, seals.evidence(candidate))
    speed = performance.of(candidate.recipe, candidate.variant_name)
    return Case(about, verdict.status, failing(verdict, speed))


def authors(name: str, rules: Policy) -> frozenset[str]:
    """Who wrote the recipe, by git alone: e-mail addresses in lower case, and those of approvers
    that .mailmap makes the same.

    Raises SignoffError in a shallow clone.
    """
    wrote = revision.authors(paths.recipe(name))
    return frozenset(
        wrote | {who.lower() for who in rules.approvers if revision.canonical(who) in wrote}
    )


def failing(verdict: Verdict, speed: Performance) -> dict[str, str]:
    """The checks that did not pass, with their status; speed among them where the recipe asks for
    some."""
    statuses: dict[str, str] = {
        check.name: check.status for check in verdict.checks if check.status != "PASS"
    }
    if speed.status in performance.REJECTED and not statuses:
        statuses["speedup"] = speed.status
    return statuses


def _unfounded(candidate: Candidate) -> list[str]:
    """What was made, measured or would be signed off by code or recipes that no commit has."""
    name, variant_name = candidate.name, candidate.variant_name
    made = records.read(paths.manifest(name, variant_name), Manifest).origin
    measured = records.read(paths.evaluation(name, variant_name), Evaluation).origin
    reference = records.read(paths.evaluation(name, "reference"), Evaluation).origin
    after = f" && dvc repro report@{name}"
    origins = {
        "the artifact": (made, f"dvc repro -s -f quantize@{name}--{variant_name}{after}"),
        "its evaluation": (measured, f"dvc repro -s -f evaluate@{name}--{variant_name}{after}"),
        "the reference evaluation": (reference, f"dvc repro -s -f reference@{name}{after}"),
    }
    wrong = _dirty("the project now", revision.now(provenance.rests_on(name)), "ask again")
    for what, (origin, remedy) in origins.items():
        wrong += _dirty(what, origin.revision, remedy) or _invented(what, name, origin, remedy)
    return wrong


def _dirty(what: str, state: Revision, remedy: str) -> list[str]:
    if state.commit is None:
        return [f"{what}: in no git commit. Commit the project, then: {remedy}"]
    if not state.changed:
        return []
    files = ", ".join(state.changed[:SHOWN]) + (", ..." if len(state.changed) > SHOWN else "")
    return [
        f"{what}: of a dirty tree: {files} differ from commit {state.commit[:12]}. Commit, then:"
        f" {remedy}"
    ]


def _invented(what: str, name: str, origin: Origin, remedy: str) -> list[str]:
    """A commit that is not here, or that has another recipe or other pins than the record says."""
    commit = origin.revision.commit or ""
    named = {
        f"recipe {paths.settings(name)}": (origin.recipe_sha256, [paths.settings(name)]),
        f"environment {origin.environment}": (
            origin.environment_sha256,
            environments.pins_files(origin.environment),
        ),
    }
    lost = [
        words
        for words, (sha256, files) in named.items()
        if sha256
        not in {hashlib.sha256(revision.content(commit, file) or b"").hexdigest() for file in files}
    ]
    if not lost:
        return []
    return [
        f"{what}: made at commit {commit[:12]}, which git does not have here, or not with that"
        f" {' and '.join(lost)}. Fetch the commit (git fetch origin {commit}), or: {remedy}"
    ]


def _floating(name: str) -> list[str]:
    pinned = records.read(paths.checkpoint(name), Checkpoint)
    if pinned.repo is None or len(pinned.revision or "") == 40:
        return []
    return [
        f"the source {pinned.repo} has a floating revision ({pinned.revision}). Give the commit:"
        " model.revision"
    ]


def _partial(candidate: Candidate, verdict: Verdict) -> list[str]:
    """What the recipe asks for and nobody measured; a waiver is for what was measured and is
    known."""
    name, variant_name = candidate.name, candidate.variant_name
    evaluation = records.read(paths.evaluation(name, variant_name), Evaluation)
    texts = records.read(paths.texts(name), Texts).texts
    timed = records.read(paths.benchmark(name, variant_name), Benchmark)
    wrong = [f"not measured: {evaluation.failure}"] if evaluation.failure else []
    expected = records.read(paths.manifest(name, variant_name), Manifest).layers.expected
    compared = len(evaluation.load_check.relative_error) if evaluation.load_check else 0
    if compared < expected:
        wrong.append(
            f"partial evaluation: the weights of {compared} of {expected} layers were compared with"
            " the source's"
        )
    for view in VIEWS:
        scored = (
            {perplexity.text for perplexity in evaluation.views[view].perplexity}
            if view in evaluation.views
            else set()
        )
        wrong += [
            f"partial evaluation: {text.name} was not scored in the view {view}"
            for text in texts
            if text.name not in scored
        ]
    counts = {task.name: len(task.items) for task in evaluation.tasks}
    for task, asked in candidate.recipe.evaluate.items.items():
        if counts.get(task, 0) < (1 if asked == "all" else asked):
            wrong.append(
                f"partial evaluation: {counts.get(task, 0)} items of {task}, the recipe asks for"
                f" {asked}"
            )
    wrong += [
        f"partial evaluation: {check.name}: {check.reason}"
        for check in verdict.checks
        if not math.isfinite(check.value)
    ]
    if verdict.status == "PASS" and not timed.measured:
        wrong.append(f"not benchmarked: {timed.reason}")
    return list(dict.fromkeys(wrong))
