"""One rung of a ladder, and the folders of what was made and measured of it, named by all that it
depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import engines, paths, quantizers, records
from pipeline.evidence import keeping, settings
from pipeline.evidence.candidate import Candidate
from pipeline.recipe import Recipe, ladder
from pipeline.records import Manifest, artifact
from pipeline.runtime import environments
from pipeline.stages import quantize

# Code that makes and that measures: a change of it makes and measures again, as DVC would (a test
# holds them against dvc.yaml).
MAKES = (
    "pipeline/quantizers",
    "pipeline/formats/layers.py",
    "pipeline/formats/packing.py",
    "pipeline/formats/rounding.py",
    "pipeline/source/checkpoint.py",
)
MEASURES = (
    "pipeline/evaluation",
    "pipeline/engines",
    "pipeline/formats",
    "pipeline/source/tokens.py",
)


@dataclass(frozen=True)
class Rung:
    """`candidate` has the recipe with this rung's settings for the variant, and the rung's own
    place in the two folders."""

    candidate: Candidate
    made: Path
    measured: Path

    @classmethod
    def of(cls, variant_name: str, recipe: Recipe, logprobs_sha256: str) -> Rung:
        """`logprobs_sha256` is of the reference's distributions, gigabytes that are hashed once for
        all rungs."""
        made = paths.rungs(recipe.name, variant_name) / _hash(_made_of(variant_name, recipe))
        measured = made / _hash([*_measured_by(variant_name, recipe), logprobs_sha256])
        place = paths.Place(
            made / "model",
            made / "manifest.json",
            measured / "evaluation.json",
            measured / "extension.json",
        )
        return cls(Candidate(recipe, variant_name, place), made, measured)

    @property
    def words(self) -> str:
        return ladder.words(self.candidate.variant)

    def make(self) -> Manifest:
        """Makes the artifact, or verifies the one that was made before. Raises what the quantizer
        raises."""
        if not self.candidate.place.manifest.is_file():
            return quantize.make(self.candidate)
        return keeping.verified(self.candidate.place)[1]


def _made_of(variant_name: str, recipe: Recipe) -> list[Any]:
    variant = recipe.variants[variant_name]
    base = quantizers.starts_from(recipe, variant)
    return [
        variant.model_dump(),
        artifact.digest(records.read(paths.checkpoint(recipe.name), records.Checkpoint).files),
        records.read(paths.samples(recipe.name), records.Samples).sha256,
        artifact.digest(records.read(paths.manifest(recipe.name, base), Manifest).files)
        if base
        else None,
        content(*MAKES, environments.pins_file(quantizers.tool(variant).environment)),
    ]


def _measured_by(variant_name: str, recipe: Recipe) -> list[Any]:
    engine = recipe.variants[variant_name].engine
    tasks = recipe.evaluate.task_path
    return [
        settings.evaluated_under(recipe, variant_name, engine),
        content(
            paths.texts(recipe.name),
            *MEASURES,
            environments.pins_file(engines.ENGINES[engine].environment),
        ),
        content(tasks) if tasks else None,
    ]


def content(*parts: str | Path) -> str:
    """One SHA-256 over files and whole folders, without what Python compiles into them."""
    files = [
        path
        for part in map(Path, parts)
        for path in (part.rglob("*") if part.is_dir() else [part])
        if path.is_file()
    ]
    kept = [path for path in files if "__pycache__" not in path.parts]
    return artifact.digest([artifact.hash_file(path, path.as_posix()) for path in kept])


def _hash(value: list[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
