"""What the stages that measure have in common: the job that a worker gets, and the record of its
answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import engines, paths, quantizers, records
from pipeline.evidence import provenance, settings
from pipeline.evidence.candidate import Candidate
from pipeline.gate import limits
from pipeline.recipe import Items
from pipeline.runtime import process

Spans = dict[str, tuple[int, Items]]  # for each task, the part of its draw to measure


def whole(tasks: dict[str, Items]) -> Spans:
    return {name: (0, count) for name, count in tasks.items()}


def engine_job(
    measured: Candidate, engine: str, model: Path, source: Path, spans: Spans
) -> dict[str, Any]:
    return {
        "engine": engine,
        "artifact": str(model),
        "checkpoint": str(source),
        "texts": str(paths.texts(measured.name)),
        "evaluate": measured.recipe.evaluate.model_dump(),
        "serve": measured.recipe.serve_for(measured.variant_name).model_dump(),
        "spans": spans,
    }


def evaluation_job(candidate: Candidate, source: Path) -> dict[str, Any]:
    """What a worker needs to know to evaluate the artifact: all texts, and the items of the first
    look."""
    manifest = records.read(candidate.place.manifest, records.Manifest)
    theirs = records.read(paths.evaluation(candidate.name, "reference"), records.Evaluation)
    held_to = limits.of(candidate.recipe, candidate.variant)
    spans = whole(
        {
            task.name: held_to.size(task.name, task.documents, 0)
            for task in theirs.tasks
            if task.name in held_to.items
        }
    )
    job = engine_job(candidate, manifest.engine, candidate.place.model, source, spans)
    return job | {
        "logprobs": str(paths.logprobs(candidate.name)),
        "stored_types": manifest.stored_types,
        "weights": manifest.weights,
        "simulated": quantizers.simulated(candidate.variant),
        "looks": list(held_to.fractions)
        if held_to.sequential and held_to.quantized
        else [1.0],  # all of what is a noise floor
    }


def record(
    measured: Candidate,
    sha256: str,
    done: process.Finished,
    failure: str | None,
    lacking: str | None = None,
) -> records.Evaluation:
    """The evaluation of what was measured; says its figures."""
    variant = measured.recipe.variants.get(measured.variant_name)
    engine = variant.engine if variant else "reference"
    evaluation = records.Evaluation(
        recipe=measured.name,
        variant=measured.variant_name,
        engine=engine,
        artifact_sha256=sha256,
        requested=settings.evaluated_under(measured.recipe, measured.variant_name, engine),
        failure=failure,
        lacking=lacking,
        wall_s=done.wall_s,
        peak_memory_bytes=done.peak_memory_bytes,
        origin=provenance.now(measured.name, engines.ENGINES[engine].environment),
        **done.value,
    )
    figures = [
        f"perplexity {p.text} {p.value:.4f} ({label})"
        for label, view in evaluation.views.items()
        for p in view.perplexity
    ]
    figures += [f"{task.name} {task.mean:.4f}" for task in evaluation.tasks]
    print(f"{measured.variant_name}: {', '.join(figures)} ({done.wall_s:.0f} s)")
    return evaluation
