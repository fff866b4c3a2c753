"""Where things are in a bundle, and how its records are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths, records
from pipeline.benchmark import performance
from pipeline.errors import ArtifactError
from pipeline.recipe import Recipe, Variant
from pipeline.recipe.parsing import parse
from pipeline.records import (
    Benchmark,
    Checkpoint,
    Evaluation,
    Extension,
    Manifest,
    Performance,
    Samples,
    Verdict,
)

CARD = "README.md"
OURS = Path(paths.SIGNATURE).parent
RECORDS = OURS / "records"
STATEMENTS = OURS / "statements.jsonl"
SIGNOFF = OURS / "signoff.jsonl"
POLICY = OURS / "policy.yaml"
SERVE = OURS / "serve.yaml"
BOM = OURS / "bom.cdx.json"
ENVIRONMENTS = OURS / "environments"
REPORTS = (OURS / "report.md", OURS / "report.html")
FLOOR = {"floor.json", "floor-benchmark.json"}  # of the unquantized model on the same engine
REQUIRED = {
    "manifest.json",
    "recipe.yaml",
    "checkpoint.json",
    "samples.json",
    "reference.json",
    "evaluation.json",
    "extension.json",
    "verdict.json",
    "benchmark.json",
}


def evidence(bundle: Path) -> dict[str, Path]:
    """The records of a bundle by name."""
    return {path.name: path for path in sorted((bundle / RECORDS).glob("*")) if path.is_file()}


def pins(environment: str) -> Path:
    return ENVIRONMENTS / f"{environment}.txt"


@dataclass(frozen=True)
class Records:
    """What the records say, read. Those of the unquantized model on the same engine are None for
    that model itself."""

    recipe: Recipe
    manifest: Manifest
    checkpoint: Checkpoint
    samples: Samples
    reference: Evaluation
    evaluation: Evaluation
    extension: Extension
    floor: Evaluation | None
    verdict: Verdict
    benchmark: Benchmark
    floor_benchmark: Benchmark | None

    @property
    def variant(self) -> Variant:
        """As it was made: of a ladder the rung that was reached."""
        climb = self.manifest.climb
        return (
            self.recipe.variants[self.manifest.variant]
            if climb is None
            else Variant.model_validate(climb.reached)
        )

    @property
    def performance(self) -> Performance:
        recipe = self.recipe.with_variant(self.manifest.variant, self.variant)
        return performance.performance(recipe, self.variant, self.benchmark, self.floor_benchmark)


def read_records(files: Mapping[str, Path]) -> Records:
    """Raises ArtifactError for a record that is missing or is none, RecipeError for such a
    recipe."""
    missing = sorted(REQUIRED - files.keys())
    if missing:
        raise ArtifactError(f"records missing: {', '.join(missing)}")
    has_floor = files.keys() >= FLOOR
    return Records(
        recipe=parse(files["recipe.yaml"], Recipe),
        manifest=records.read(files["manifest.json"], Manifest),
        checkpoint=records.read(files["checkpoint.json"], Checkpoint),
        samples=records.read(files["samples.json"], Samples),
        reference=records.read(files["reference.json"], Evaluation),
        evaluation=records.read(files["evaluation.json"], Evaluation),
        extension=records.read(files["extension.json"], Extension),
        floor=records.read(files["floor.json"], Evaluation) if has_floor else None,
        verdict=records.read(files["verdict.json"], Verdict),
        benchmark=records.read(files["benchmark.json"], Benchmark),
        floor_benchmark=(
            records.read(files["floor-benchmark.json"], Benchmark) if has_floor else None
        ),
    )
