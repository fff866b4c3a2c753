"""What was measured, with the items added later, and the verdict that follows."""

from __future__ import annotations

from pipeline import gate, paths, records
from pipeline.errors import ArtifactError
from pipeline.evidence import seals, settings
from pipeline.evidence.candidate import Candidate
from pipeline.gate import limits
from pipeline.recipe import Recipe
from pipeline.records import artifact


def stored_logprobs(name: str) -> str:
    """Hash of the reference's distributions. Raises ArtifactError if they are not the ones that the
    reference wrote."""
    recorded = records.read(paths.evaluation(name, "reference"), records.Evaluation).logprobs_sha256
    folder = paths.logprobs(name)
    digest = artifact.digest(artifact.hash_files(folder)) if folder.is_dir() else "missing"
    if digest != recorded:
        raise ArtifactError(
            f"{folder}: SHA-256 over its files is {digest}, the reference evaluation says"
            f" {recorded}."
            f" Run: dvc repro -f reference@{name}"
        )
    return digest


def extends(extension: records.Extension, evaluation: records.Evaluation) -> bool:
    """Are the added items of the same artifact, settings and tools?"""
    return (extension.artifact_sha256, extension.requested, extension.versions) == (
        evaluation.artifact_sha256,
        evaluation.requested,
        evaluation.versions,
    )


def evaluation_of(candidate: Candidate) -> records.Evaluation:
    """The evaluation with the items added later. Raises ArtifactError if those are of another
    artifact."""
    place = candidate.place
    evaluation = records.read(place.evaluation, records.Evaluation)
    extension = records.read(place.extension, records.Extension)
    if not extends(extension, evaluation):
        raise ArtifactError(
            f"{place.extension}: of another artifact or recipe. Run: dvc repro"
            f" {candidate.stage('gate')}"
        )
    return evaluation.model_copy(
        update={"tasks": records.joined(evaluation.tasks, extension.tasks)}
    )


def verdict_of(candidate: Candidate) -> records.Verdict:
    """Raises ArtifactError if an evaluation is missing, or not of this recipe as it is now."""
    name, recipe, engine, baseline = (
        candidate.name,
        candidate.recipe,
        candidate.variant.engine,
        candidate.baseline,
    )
    reference = records.read(paths.evaluation(name, "reference"), records.Evaluation)
    measured = evaluation_of(candidate)
    floor = records.read(paths.evaluation(name, baseline), records.Evaluation) if baseline else None
    _require_current(reference, recipe, "reference", "reference")
    _require_current(measured, recipe, candidate.variant_name, engine)
    if floor is not None and baseline is not None:
        _require_current(floor, recipe, baseline, engine)
    verdict = gate.decide(reference, measured, floor, limits.of(recipe, candidate.variant))
    decided_from = {
        "evaluation.json": candidate.place.evaluation,
        "extension.json": candidate.place.extension,
        "reference.json": paths.evaluation(name, "reference"),
    }
    return seals.sealed(
        verdict,
        decided_from | ({"floor.json": paths.evaluation(name, baseline)} if baseline else {}),
    )


def _require_current(
    evaluation: records.Evaluation, recipe: Recipe, variant_name: str, engine: str
) -> None:
    path = paths.evaluation(recipe.name, variant_name)
    recorded = {
        "recipe": evaluation.recipe,
        "variant": evaluation.variant,
        "engine": evaluation.engine,
        "settings": evaluation.requested,
    }
    expected = {
        "recipe": recipe.name,
        "variant": variant_name,
        "engine": engine,
        "settings": settings.evaluated_under(recipe, variant_name, engine),
    }
    wrong = [key for key, value in expected.items() if recorded[key] != value]
    if wrong:
        raise ArtifactError(
            f"{path}: its {' and '.join(wrong)} are not those of the recipe now. Run:"
            f" {paths.producer(path)}"
        )
