"""May these artifacts be shipped? Every verdict decided again from what is stored, and nothing stale believed."""

from __future__ import annotations

from pipeline import artifact, judge, paths, records, stages
from pipeline.errors import ArtifactError, Rejected
from pipeline.recipe import Recipe


def require(name: str, variant_name: str | None) -> None:
    """Prints how every variant fared. Raises Rejected unless all (or the named one) passed, ArtifactError if out of date."""
    from pipeline.report.terminal import show

    recipe = stages.open_recipe(name)
    if variant_name is not None:
        stages.open_variant(name, variant_name)
    names = [variant_name] if variant_name else list(recipe.variants)
    statuses = {variant: _current_verdict(name, recipe, variant).status for variant in names}
    show(name, recipe)
    rejected = [f"{variant} ({status})" for variant, status in statuses.items() if status != "PASS"]
    if rejected:
        raise Rejected(f"{name}: not passed: {', '.join(rejected)}. Reasons: {paths.report(name, 'md')}")


def _current_verdict(name: str, recipe: Recipe, variant_name: str) -> records.Verdict:
    """The verdict, decided again from the evaluations and the recipe as they are now. A stale one is no verdict."""
    path, variant = paths.verdict(name, variant_name), recipe.variants[variant_name]
    verdict = records.read(path, records.Verdict)
    _, manifest = stages.verified(name, variant_name)
    pinned = records.read(paths.checkpoint(name), records.Checkpoint)
    samples = records.read(paths.samples(name), records.Samples)
    measured = {
        engine: records.read(paths.evaluation(name, record), records.Evaluation).requested
        for engine, record in (("reference", "reference"), (variant.engine, variant_name))
    }
    belongs = (
        verdict.candidate_sha256 == artifact.digest(manifest.files)
        and verdict.reference_sha256 == manifest.checkpoint_sha256 == artifact.digest(pinned.files)
        and manifest.samples_sha256 == samples.sha256
        and manifest.requested == variant.settings()
        and all(requested == judge.requested(recipe, engine) for engine, requested in measured.items())
    )
    now = judge.verdict_of(name, recipe, variant, variant_name)
    if not belongs or now.dumps() != verdict.dumps():
        raise ArtifactError(f"{path}: out of date with the recipe or the artifact. Run: dvc repro require@{name}")
    return verdict
