"""The quantize stage: makes one artifact and its manifest."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import paths, quantizers, records
from pipeline.errors import DiskFull
from pipeline.evidence import keeping, opened, provenance
from pipeline.evidence.candidate import Candidate
from pipeline.planning import estimate
from pipeline.quantizers import refusal
from pipeline.records import artifact
from pipeline.runtime import costs, environments, machine
from pipeline.source import checkpoint

# of the source's size must be free before a quantizer starts: its output and temporary files
SPARE_DISK = 1.2


def run(name: str, variant_name: str) -> None:
    make(opened.candidate(name, variant_name))


def make(candidate: Candidate) -> records.Manifest:
    """Makes the artifact and its manifest. Raises QuantizeError, RecipeError, ArtifactError,
    DiskFull."""
    name, variant_name, recipe, variant = (
        candidate.name,
        candidate.variant_name,
        candidate.recipe,
        candidate.variant,
    )
    tool = quantizers.tool(variant)
    source, pinned = checkpoint.open_pinned(name, recipe.model)
    refusal.refuse_model(paths.recipe(name), variant_name, variant, source, environments.device())
    if tool.note:
        print(f"note: {tool.note}", file=sys.stderr)
    samples = records.read(paths.samples(name), records.Samples)
    base = quantizers.starts_from(recipe, variant)
    exported = keeping.verified(paths.place(name, base))[0] if base else None
    stage = candidate.stage("quantize")
    with artifact.stage_folder(stage) as folder:
        _require_disk(folder, pinned)
        out = folder / "out"
        out.mkdir()
        job = quantizers.job(variant, source, paths.samples(name), exported, out)
        done = costs.run(
            stage,
            tool.environment,
            "quantize",
            job,
            folder,
            estimate.needs_bytes(recipe, "quantize", variant),
        )
        manifest = records.Manifest(
            recipe=name,
            variant=variant_name,
            engine=variant.engine,
            device="cpu",
            quantizer=variant.quantizer,
            answered_by=tool.answered_by,
            weights=variant.weights,
            requested=variant.settings(),
            checkpoint_sha256=artifact.digest(pinned.files),
            samples_sha256=samples.sha256,
            coverage=samples.coverage if variant.quantizer else {},
            files=artifact.hash_files(out),
            wall_s=done.wall_s,
            peak_memory_bytes=done.peak_memory_bytes,
            origin=provenance.now(name, tool.environment),
            **done.value,
        )
        artifact.install(out, candidate.place.model)
        keeping.keep_manifest(manifest, candidate.place)
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.stored_types.items()))
    weights = sum(manifest.weights_by_type.values())
    shares = ", ".join(
        f"{count / weights:.1%} {kind}" for kind, count in sorted(manifest.weights_by_type.items())
    )
    print(
        f"{variant_name}: layers stored as {types}; of all weights {shares};"
        f" {manifest.size_bytes / 1e6:.1f} MB, {done.wall_s:.0f} s,"
        f" {done.peak_memory_bytes / 1e9:.2f} GB"
    )
    return manifest


def _require_disk(folder: Path, pinned: records.Checkpoint) -> None:
    needed = int(SPARE_DISK * sum(file.size_bytes for file in pinned.files))
    free = machine.free_bytes(folder)
    if free < needed:
        raise DiskFull(
            f"{folder.resolve()}: {free / 1e9:.1f} GB free, quantizing needs about"
            f" {needed / 1e9:.1f} GB. Free some space or put artifacts/ on a larger disk."
        )
