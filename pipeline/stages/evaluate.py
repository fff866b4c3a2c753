"""The stages that measure, reference and evaluate, and the verdict over what they wrote. In the control environment."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from pipeline import engines, gate, paths, quantizers, records
from pipeline.errors import ArtifactError, EvaluationError, WorkerCrashed
from pipeline.evidence import seals
from pipeline.gate import limits
from pipeline.planning import estimate
from pipeline.recipe import Items, Recipe
from pipeline.records import artifact
from pipeline.runtime import costs, process
from pipeline.source import checkpoint, lengths
from pipeline.stages import quantize as stages

UNMEASURED: dict[str, Any] = {"versions": {}, "load_check": None, "logprobs_sha256": "", "views": {}, "tasks": []}
Spans = dict[str, tuple[int, Items]]  # for each task, the part of its draw to measure


def reference(name: str) -> None:
    recipe = stages.open_recipe(name)
    source, pinned = checkpoint.open_pinned(name, recipe.model)
    lengths.refuse(paths.recipe(name), recipe, source)
    most: dict[str, Items] = dict(recipe.evaluate.extend_to) if recipe.gate.on_inconclusive == "extend" else {}
    stage = f"reference@{name}"
    with artifact.stage_folder(stage) as folder:
        logprobs = folder / "logprobs"
        logprobs.mkdir()
        job = engine_job(name, recipe, "reference", "reference", source, source, whole(recipe.evaluate.items | most)) | {
            "logprobs": str(logprobs)
        }
        needs = estimate.needs_bytes(name, recipe, "reference")
        done = costs.run(stage, engines.ENGINES["reference"].environment, "reference", job, folder, needs)
        stored = artifact.digest(artifact.hash_files(logprobs))
        artifact.install(logprobs, paths.logprobs(name))
    done.value["logprobs_sha256"] = stored
    keep_reference(record(name, "reference", recipe, artifact.digest(pinned.files), done, None))


def keep_reference(evaluation: records.Evaluation) -> None:
    """Writes it, sealed to the checkpoint and the texts."""
    made_from = {"checkpoint.json": paths.checkpoint(evaluation.recipe), "texts.json": paths.texts(evaluation.recipe)}
    seals.sealed(evaluation, made_from).write(paths.evaluation(evaluation.recipe, "reference"))


def evaluate(name: str, variant_name: str) -> None:
    measure(name, variant_name, stages.open_variant(name, variant_name)[0], paths.place(name, variant_name))


def measure(name: str, variant_name: str, recipe: Recipe, place: paths.Place) -> None:
    """A damaged artifact, or one that its engine cannot run, is a finding and recorded as such: the gate fails it."""
    source, pinned = checkpoint.open_pinned(name, recipe.model)
    failure = None
    manifest, stored = records.read(place.manifest, records.Manifest), stored_logprobs(name)
    job = evaluation_job(name, variant_name, recipe, place, source)
    stage = f"evaluate@{name}--{variant_name}"
    costs.require_memory(stage, estimate.needs_bytes(name, recipe, "evaluate", recipe.variants[variant_name]))
    with artifact.stage_folder(stage) as folder:
        try:
            _require_source(manifest, artifact.digest(pinned.files))
            artifact.verify(place.model, manifest.files)
            done = _measured(name, variant_name, recipe, job, folder)
            done.value["logprobs_sha256"] = stored
        except (ArtifactError, EvaluationError, WorkerCrashed) as error:
            done, failure = process.Finished(dict(UNMEASURED), 0, 0), str(error)
            print(f"{variant_name}: not measured: {error}", file=sys.stderr)
    if failure is None:
        costs.keep(stage, engines.ENGINES[manifest.engine].environment, done)
    keep(record(name, variant_name, recipe, artifact.digest(manifest.files), done, failure), place)


def keep(evaluation: records.Evaluation, place: paths.Place) -> None:
    """Writes it, sealed to the texts and the artifact's manifest."""
    made_from = {"texts.json": paths.texts(evaluation.recipe), seals.MANIFEST: place.manifest}
    seals.sealed(evaluation, made_from).write(place.evaluation)


def _measured(name: str, variant_name: str, recipe: Recipe, job: dict[str, Any], folder: Path) -> process.Finished:
    """Everything; or the first of the texts' windows alone, where the gate looks in parts and these are beyond a limit already."""
    held_to = limits.of(recipe, recipe.variants[variant_name])
    theirs = records.read(paths.evaluation(name, "reference"), records.Evaluation)
    start = time.monotonic()
    print(f"{folder.name}: starting in environment {engines.ENGINES[job['engine']].environment!r}", flush=True)
    session = process.Session(engines.ENGINES[job["engine"]].environment, "evaluate", job, folder / "job.json", offline=False)
    try:
        value = session.ask()
        for look, _ in enumerate(job["looks"][1:], 1):
            views = {label: records.View.model_validate(view) for label, view in value["views"].items()}
            if gate.texts.beyond(theirs, views, held_to):
                print(f"{variant_name}: beyond a limit at look {look} of {len(job['looks'])} at the texts; no more is measured")
                break
            value = session.ask({})
    finally:
        peak_bytes = session.close()
    return process.Finished(value, time.monotonic() - start, peak_bytes, session.anonymous_bytes, session.processor_s)


def evaluation_job(name: str, variant_name: str, recipe: Recipe, place: paths.Place, source: Path) -> dict[str, Any]:
    """What a worker needs to know to evaluate the artifact: all texts, and the items of the first look."""
    manifest = records.read(place.manifest, records.Manifest)
    theirs = records.read(paths.evaluation(name, "reference"), records.Evaluation)
    held_to = limits.of(recipe, recipe.variants[variant_name])
    spans = whole({task.name: held_to.size(task.name, task.documents, 0) for task in theirs.tasks if task.name in held_to.items})
    job = engine_job(name, recipe, variant_name, manifest.engine, place.model, source, spans)
    return job | {
        "logprobs": str(paths.logprobs(name)),
        "stored_types": manifest.stored_types,
        "weights": manifest.weights,
        "simulated": quantizers.simulated(recipe.variants[variant_name]),
        "looks": list(held_to.fractions) if held_to.sequential and held_to.quantized else [1.0],  # all of what is a noise floor
    }


def _require_source(manifest: records.Manifest, pinned: str) -> None:
    if manifest.checkpoint_sha256 != pinned:
        raise ArtifactError(
            f"{manifest.variant}: made from a checkpoint with SHA-256 {manifest.checkpoint_sha256}, pinned is {pinned}. "
            f"Run: dvc repro quantize@{manifest.recipe}--{manifest.variant}"
        )


def stored_logprobs(name: str) -> str:
    """Hash of the reference's distributions. Raises ArtifactError if they are not the ones that the reference wrote."""
    said = records.read(paths.evaluation(name, "reference"), records.Evaluation).logprobs_sha256
    folder = paths.logprobs(name)
    found = artifact.digest(artifact.hash_files(folder)) if folder.is_dir() else "missing"
    if found != said:
        raise ArtifactError(
            f"{folder}: SHA-256 over its files is {found}, the reference evaluation says {said}. Run: dvc repro -f reference@{name}"
        )
    return found


def whole(tasks: dict[str, Items]) -> Spans:
    return {name: (0, count) for name, count in tasks.items()}


def engine_job(
    name: str, recipe: Recipe, variant_name: str, engine: str, model: Path, source: Path, spans: Spans
) -> dict[str, Any]:
    return {
        "engine": engine,
        "artifact": str(model),
        "checkpoint": str(source),
        "texts": str(paths.texts(name)),
        "evaluate": recipe.evaluate.model_dump(),
        "serve": recipe.serve_for(variant_name).model_dump(),
        "spans": spans,
    }


def requested(recipe: Recipe, variant_name: str, engine: str) -> dict[str, Any]:
    """What an evaluation depends on of the recipe, kept with it so that a later change of the recipe shows."""
    serve = recipe.serve_for(variant_name).model_dump()
    if engine == "reference":
        serve = {"max_model_len": serve["max_model_len"]}
    return {"evaluate": recipe.evaluate.model_dump(), "serve": serve, "calibration": recipe.calibration.model_dump()}


def record(
    name: str, variant_name: str, recipe: Recipe, sha256: str, done: process.Finished, failure: str | None
) -> records.Evaluation:
    """The evaluation of what was measured; says its figures."""
    variant = recipe.variants.get(variant_name)
    engine = variant.engine if variant else "reference"
    evaluation = records.Evaluation(
        recipe=name,
        variant=variant_name,
        engine=engine,
        artifact_sha256=sha256,
        requested=requested(recipe, variant_name, engine),
        failure=failure,
        wall_s=done.wall_s,
        peak_memory_bytes=done.peak_memory_bytes,
        origin=stages.origin(name, engines.ENGINES[engine].environment),
        **done.value,
    )
    found = [f"perplexity {p.text} {p.value:.4f} ({label})" for label, view in evaluation.views.items() for p in view.perplexity]
    found += [f"{task.name} {task.mean:.4f}" for task in evaluation.tasks]
    print(f"{variant_name}: {', '.join(found)} ({done.wall_s:.0f} s)")
    return evaluation


def extends(extension: records.Extension, evaluation: records.Evaluation) -> bool:
    """Are the added items of the same artifact, settings and tools?"""
    return (extension.artifact_sha256, extension.requested, extension.versions) == (
        evaluation.artifact_sha256,
        evaluation.requested,
        evaluation.versions,
    )


def joined(tasks: list[records.Task], more: list[records.Task]) -> list[records.Task]:
    found = {task.name: task for task in tasks}
    for task in more:
        before = found.get(task.name)
        found[task.name] = task if before is None else task.model_copy(update={"items": [*before.items, *task.items]})
    return list(found.values())


def evaluation_of(name: str, variant_name: str, place: paths.Place) -> records.Evaluation:
    """The evaluation with the items added later. Raises ArtifactError if those are of another artifact."""
    evaluation = records.read(place.evaluation, records.Evaluation)
    extension = records.read(place.extension, records.Extension)
    if not extends(extension, evaluation):
        raise ArtifactError(f"{place.extension}: of another artifact or recipe. Run: dvc repro gate@{name}--{variant_name}")
    return evaluation.model_copy(update={"tasks": joined(evaluation.tasks, extension.tasks)})


def verdict_of(name: str, variant_name: str, recipe: Recipe, place: paths.Place) -> records.Verdict:
    """Raises ArtifactError if an evaluation is missing, or not of this recipe as it is now."""
    variant = recipe.variants[variant_name]
    baseline = recipe.baseline(variant)
    reference = records.read(paths.evaluation(name, "reference"), records.Evaluation)
    candidate = evaluation_of(name, variant_name, place)
    floor = records.read(paths.evaluation(name, baseline), records.Evaluation) if baseline else None
    _require_current(reference, recipe, name, "reference", "reference")
    _require_current(candidate, recipe, name, variant_name, variant.engine)
    if floor is not None and baseline is not None:
        _require_current(floor, recipe, name, baseline, variant.engine)
    verdict = gate.decide(reference, candidate, floor, limits.of(recipe, variant))
    decided_from = {"evaluation.json": place.evaluation, "extension.json": place.extension,
                    "reference.json": paths.evaluation(name, "reference")}  # fmt: skip
    return seals.sealed(verdict, decided_from | ({"floor.json": paths.evaluation(name, baseline)} if baseline else {}))


def _require_current(evaluation: records.Evaluation, recipe: Recipe, name: str, variant_name: str, engine: str) -> None:
    path = paths.evaluation(name, variant_name)
    found = {"recipe": evaluation.recipe, "variant": evaluation.variant, "engine": evaluation.engine,
             "settings": evaluation.requested}  # fmt: skip
    expected = {"recipe": name, "variant": variant_name, "engine": engine, "settings": requested(recipe, variant_name, engine)}
    wrong = [key for key, value in expected.items() if found[key] != value]
    if wrong:
        raise ArtifactError(f"{path}: its {' and '.join(wrong)} are not those of the recipe now. Run: {paths.producer(path)}")


def recheck(name: str, variant_name: str) -> None:
    """Decides again from the raw evaluations. Raises ArtifactError unless the stored verdict is the same, bit for bit."""
    path = paths.verdict(name, variant_name)
    recipe, _ = stages.open_variant(name, variant_name)
    stored, again = records.read_text(path), verdict_of(name, variant_name, recipe, paths.place(name, variant_name)).dumps()
    if stored != again:
        raise ArtifactError(f"{path}: not what the evaluations and the recipe give now. Run: dvc repro gate@{name}--{variant_name}")
    print(f"{variant_name}: the stored verdict is what the evaluations give, bit for bit")
