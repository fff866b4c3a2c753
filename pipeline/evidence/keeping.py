"""Writes a record, sealed to what it was made from."""

from __future__ import annotations

from pathlib import Path

from pipeline import paths, records
from pipeline.evidence import seals
from pipeline.records import Benchmark, artifact


def keep_manifest(manifest: records.Manifest, place: paths.Place) -> None:
    """Writes it, sealed to the checkpoint and the calibration samples."""
    made_from = {
        "checkpoint.json": paths.checkpoint(manifest.recipe),
        "samples.json": paths.samples(manifest.recipe),
    }
    seals.sealed(manifest, made_from).write(place.manifest)


def keep_reference(evaluation: records.Evaluation) -> None:
    """Writes it, sealed to the checkpoint and the texts."""
    made_from = {
        "checkpoint.json": paths.checkpoint(evaluation.recipe),
        "texts.json": paths.texts(evaluation.recipe),
    }
    seals.sealed(evaluation, made_from).write(paths.evaluation(evaluation.recipe, "reference"))


def keep_evaluation(evaluation: records.Evaluation, place: paths.Place) -> None:
    """Writes it, sealed to the texts and the artifact's manifest."""
    made_from = {"texts.json": paths.texts(evaluation.recipe), seals.MANIFEST: place.manifest}
    seals.sealed(evaluation, made_from).write(place.evaluation)


def keep_timings(timings: records.Timings, benchmark: Benchmark) -> None:
    """Writes both: the timings sealed to the artifact's manifest and the trace, the figures to the
    timings."""
    name, variant = benchmark.recipe, benchmark.variant
    made_from = {seals.MANIFEST: paths.manifest(name, variant), "trace.json": paths.trace(name)}
    seals.sealed(timings, made_from).write(paths.timings(name, variant))
    seals.sealed(benchmark, {"timings.json": paths.timings(name, variant)}).write(
        paths.benchmark(name, variant)
    )


def verified(place: paths.Place) -> tuple[Path, records.Manifest]:
    """The artifact's folder and manifest, every file hashed again: DVC's own state is no proof."""
    manifest = records.read(place.manifest, records.Manifest)
    artifact.verify(place.model, manifest.files)
    return place.model, manifest
