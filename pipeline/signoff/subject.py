"""What a sign-off is about: an artifact's manifest, and every record that its verdict follows from, by SHA-256 of what they say.

How long a stage took and how much memory are no part of that: who makes the same artifact again has approved it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipeline import paths, reading, records
from pipeline.errors import ArtifactError
from pipeline.recipe import Recipe
from pipeline.records import Subject

MANIFEST = "manifest.json"
CLOCK = ("wall_s", "peak_memory_bytes")  # differ each time the same is made


def evidence(name: str, variant_name: str, recipe: Recipe) -> dict[str, Path]:
    """The records, by the name that they have in a bundle."""
    found = {
        MANIFEST: paths.manifest(name, variant_name),
        "checkpoint.json": paths.checkpoint(name),
        "samples.json": paths.samples(name),
        "texts.json": paths.texts(name),
        "recipe.yaml": paths.recipe(name),
        "reference.json": paths.evaluation(name, "reference"),
        "evaluation.json": paths.evaluation(name, variant_name),
        "extension.json": paths.extension(name, variant_name),
        "verdict.json": paths.verdict(name, variant_name),
        "benchmark.json": paths.benchmark(name, variant_name),
    }
    baseline = recipe.baseline(recipe.variants[variant_name])
    if baseline is not None:
        found["floor.json"] = paths.evaluation(name, baseline)
        found["floor-benchmark.json"] = paths.benchmark(name, baseline)
    return found


def of(recipe: str, variant: str, evidence: Mapping[str, Path]) -> Subject:
    """Raises ArtifactError if a record is missing."""
    for path in evidence.values():
        if not path.is_file():
            raise ArtifactError(f"{path}: missing. Run: dvc repro report@{recipe}")
    hashes = {name: content(path) for name, path in sorted(evidence.items())}
    return Subject(recipe=recipe, variant=variant, manifest_sha256=hashes[MANIFEST], evidence=hashes)


def content(path: Path) -> str:
    """SHA-256 of what a record says; of any other file's bytes. Raises ArtifactError if it cannot be read."""
    text = records.read_text(path)
    if path.suffix == ".json":
        said = reading.json_value(text, str(path), ArtifactError)
        if not isinstance(said, dict):
            raise ArtifactError(f"{path}: not a record: expected a JSON object. Run: {paths.producer(path)}")
        text = json.dumps({key: value for key, value in said.items() if key not in CLOCK}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
