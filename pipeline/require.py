"""May these artifacts be shipped? Every verdict decided again from what is stored, and nothing stale believed."""

from __future__ import annotations

from pipeline import artifact, judge, paths, records, stages
from pipeline.benchmark import performance, rounds
from pipeline.errors import ArtifactError, Rejected
from pipeline.recipe import Recipe


def require(name: str, variant_name: str | None) -> None:
    """Prints how every variant fared. Raises Rejected unless all (or the named one) passed, ArtifactError if out of date."""
    from pipeline.report.terminal import show

    recipe = stages.open_recipe(name)
    if variant_name is not None:
        stages.open_variant(name, variant_name)
    names = [variant_name] if variant_name else list(recipe.variants)
    statuses = {variant: current_verdict(name, recipe, variant).status for variant in names}
    show(name, names)
    slow = {variant: performance.of(name, recipe, variant) for variant in names}
    rejected = [f"{variant} ({status})" for variant, status in statuses.items() if status != "PASS"]
    rejected += [f"{variant} ({found.reason})" for variant, found in slow.items()
                 if statuses[variant] == "PASS" and found.status in performance.REJECTED]  # fmt: skip
    if rejected:
        raise Rejected(f"{name}: not passed: {', '.join(rejected)}. Reasons: {paths.report(name, 'html')}")


def current_verdict(name: str, recipe: Recipe, variant_name: str) -> records.Verdict:
    """The verdict, decided again from the evaluations and the recipe as they are now. A stale one is no verdict."""
    path, place = paths.verdict(name, variant_name), paths.place(name, variant_name)
    verdict = records.read(path, records.Verdict)
    stages.verified(place)
    now = judge.verdict_of(name, variant_name, recipe, place)
    stale = [what for what, holds in _holds(name, recipe, variant_name, verdict).items() if not holds]
    if now.dumps() != verdict.dumps():
        stale.append("the verdict is not what the evaluations give")
    if stale:
        raise ArtifactError(f"{path}: out of date: {'; '.join(stale)}. Run: dvc repro require@{name}")
    return verdict


def _holds(name: str, recipe: Recipe, variant_name: str, verdict: records.Verdict) -> dict[str, bool]:
    """What must be so for the verdict to be of this recipe, this checkpoint and this artifact, by what is wrong otherwise."""
    variant, model = recipe.variants[variant_name], recipe.model
    manifest = records.read(paths.manifest(name, variant_name), records.Manifest)
    pinned = records.read(paths.checkpoint(name), records.Checkpoint)
    samples = records.read(paths.samples(name), records.Samples)
    texts = records.read(paths.texts(name), records.Texts).texts
    reference = records.read(paths.evaluation(name, "reference"), records.Evaluation)
    timed = records.read(paths.benchmark(name, variant_name), records.Benchmark)
    scored = {(p.text, p.text_sha256, len(p.windows)) for p in reference.views["reference"].perplexity}
    judge.stored_logprobs(name)
    return {
        "another checkpoint was pinned": (pinned.repo, pinned.revision, pinned.path) == (model.repo, model.revision, model.path),
        "the evaluation is of another artifact": verdict.candidate_sha256 == artifact.digest(manifest.files),
        "the reference is of another checkpoint": verdict.reference_sha256 == artifact.digest(pinned.files),
        "the artifact is of another checkpoint": manifest.checkpoint_sha256 == artifact.digest(pinned.files),
        "it was calibrated on other samples": manifest.samples_sha256 == samples.sha256,
        "the evaluation texts changed": scored == {(text.name, text.sha256, len(text.windows)) for text in texts},
        "it was made with other settings": (manifest.engine, manifest.quantizer, manifest.weights, manifest.requested)
        == (variant.engine, variant.quantizer, variant.weights, variant.settings()),
        "it skipped more layers than allowed": len(manifest.layers.skipped) <= variant.allow_skipped,
        "the benchmark is of another artifact": not timed.measured or timed.artifact_sha256 == verdict.candidate_sha256,
        "it was benchmarked under other settings": not timed.measured or timed.requested == rounds.requested(recipe, variant_name),
        "it passed and was not benchmarked": timed.measured or verdict.status != "PASS",
        "the gate's word is another": records.read_text(paths.gate(name, variant_name)).strip() == verdict.status,
    }
