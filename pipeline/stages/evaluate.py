"""The evaluate stage: load check, perplexity and tasks on the engine that serves."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from pipeline import engines, gate, paths, records
from pipeline.engines import host
from pipeline.errors import ArtifactError, EvaluationError, WorkerCrashed
from pipeline.evidence import evaluations, keeping, opened
from pipeline.evidence.candidate import Candidate
from pipeline.gate import limits
from pipeline.planning import estimate
from pipeline.records import artifact
from pipeline.runtime import costs, process
from pipeline.source import checkpoint
from pipeline.stages import drawing, measuring

UNMEASURED: dict[str, Any] = {
    "versions": {},
    "load_check": None,
    "logprobs_sha256": "",
    "views": {},
    "tasks": [],
}


def run(name: str, variant_name: str) -> None:
    measure(opened.candidate(name, variant_name))


def measure(candidate: Candidate) -> None:
    """A damaged artifact, or one that its engine cannot run, is a finding and recorded as such: the
    gate fails it."""
    name, recipe, place = candidate.name, candidate.recipe, candidate.place
    source, pinned = checkpoint.open_pinned(name, recipe.model)
    lacking = _lacking(candidate)
    failure = None
    manifest, stored = (
        records.read(place.manifest, records.Manifest),
        evaluations.stored_logprobs(name),
    )
    job, stage = measuring.evaluation_job(candidate, source), candidate.stage("evaluate")
    costs.require_memory(stage, estimate.needs_bytes(recipe, "evaluate", candidate.variant))
    with artifact.stage_folder(stage) as folder:
        try:
            _require_source(manifest, artifact.digest(pinned.files))
            artifact.verify(place.model, manifest.files)
            asked = job | {"only_files": True, "looks": [1.0]} if lacking else job
            done = _measured(candidate, asked, folder)
            done.value["logprobs_sha256"] = stored
        except (ArtifactError, EvaluationError, WorkerCrashed) as error:
            done, failure = process.Finished(dict(UNMEASURED), 0, 0), str(error)
            print(f"{candidate.variant_name}: not measured: {error}", file=sys.stderr)
    if failure is None and lacking is None:
        costs.keep(stage, engines.ENGINES[manifest.engine].environment, done)
    keeping.keep_evaluation(
        measuring.record(
            candidate, artifact.digest(manifest.files), done, failure, None if failure else lacking
        ),
        place,
    )


def _lacking(candidate: Candidate) -> str | None:
    """Why this machine can do no more than look at the artifact's files. DVC holds the stage to be
    done then, so that the remedy is said."""
    serve = candidate.recipe.serve_for(candidate.variant_name)
    lacking = host.lacks(candidate.variant, serve)
    if lacking is None:
        return None
    again = f"dvc repro --force {candidate.stage('evaluate')}"
    print(f"{candidate.variant_name}: not measured: {lacking}", file=sys.stderr)
    return f"not measured: {lacking}. On a machine that has: {again}"


def _measured(candidate: Candidate, job: dict[str, Any], folder: Path) -> process.Finished:
    """Everything, with as many items as decide; or the first of the texts' windows alone, where the
    gate looks in parts and these are beyond a limit already."""
    held_to = limits.of(candidate.recipe, candidate.variant)
    theirs = records.read(paths.evaluation(candidate.name, "reference"), records.Evaluation)
    start = time.monotonic()
    print(
        f"{folder.name}: starting in environment {engines.ENGINES[job['engine']].environment!r}",
        flush=True,
    )
    session = process.Session(
        engines.ENGINES[job["engine"]].environment,
        "evaluate",
        job,
        folder / "job.json",
        offline=False,
    )
    try:
        value = session.ask()
        for look, _ in enumerate(job["looks"][1:], 1):
            views = {
                label: records.View.model_validate(view) for label, view in value["views"].items()
            }
            if gate.texts.beyond(theirs, views, held_to):
                number = f"{look} of {len(job['looks'])}"
                print(
                    f"{candidate.variant_name}: beyond a limit at look {number} at the texts; no"
                    " more is measured"
                )
                break
            value = session.ask({})
        else:
            if not job.get("only_files"):
                value = drawing.decided(session, value, theirs, held_to)
    finally:
        peak_bytes = session.close()
    return process.Finished(
        value, time.monotonic() - start, peak_bytes, session.anonymous_bytes, session.processor_s
    )


def _require_source(manifest: records.Manifest, pinned: str) -> None:
    if manifest.checkpoint_sha256 != pinned:
        raise ArtifactError(
            f"{manifest.variant}: made from a checkpoint with SHA-256 {manifest.checkpoint_sha256},"
            f" pinned is {pinned}. Run: dvc repro quantize@{manifest.recipe}--{manifest.variant}"
        )
