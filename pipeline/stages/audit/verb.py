"""`quantgate audit`: puts an artifact that quantgate did not make through a recipe's gate. In the
control environment.

Its manifest is written from what its files say, and from there it goes the way of every other
artifact: load check, evaluation on its engine, looks, verdict, report, card. All of that lies in
one folder, which every audit writes anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline import capabilities, engines, paths, records, report
from pipeline.benchmark.performance import performance
from pipeline.errors import ArtifactError, RecipeError, Rejected, StageError
from pipeline.evidence import evaluations, opened, provenance, seals
from pipeline.evidence.candidate import Candidate
from pipeline.planning import index
from pipeline.quantizers import refusal
from pipeline.recipe import VARIANT_NAME, Model, Recipe, Variant
from pipeline.records import artifact
from pipeline.report.summary import Judged
from pipeline.runtime import environments, process
from pipeline.source import checkpoint
from pipeline.stages import evaluate
from pipeline.stages import gate as gate_stage
from pipeline.stages.audit import taking
from pipeline.stages.audit.against import recipe_for, slug
from pipeline.stages.audit.claim import Claim

UNTIMED = "an audit times nothing: quantgate benchmark is for what a recipe makes"


def audit(given: str, name: str | None, recipe_name: str, against: str | None) -> None:
    """Raises Rejected unless it passes, ArtifactError or CheckpointError for what cannot be
    audited, RecipeError, StageError."""
    index.check()
    model = taking.where(given)
    if against is not None:
        recipe_name = recipe_for(recipe_name, taking.where(against))
    recipe = opened.recipe(recipe_name)
    name = _named(recipe, name or slug(model.path or str(model.repo)))
    root = paths.audit(recipe_name, name)
    with artifact.stage_folder(f"audit@{recipe_name}--{name}") as work:
        audited = _take(model, name, recipe, work)
        artifact.install(work / "out", root)
    if baseline := audited.baseline(audited.variants[name]):
        _repro(f"evaluate@{recipe_name}--{baseline}")
    else:
        _repro(f"reference@{recipe_name}")
    verdict = _judge(recipe_name, name, audited)
    print(f"report: {root / 'report.html'}")
    if verdict.status != "PASS":
        raise Rejected(f"{taking.words(model)}: {verdict.status}. Reasons: {root / 'report.html'}")


def _named(recipe: Recipe, name: str) -> str:
    if not VARIANT_NAME.fullmatch(name):
        raise RecipeError(f"--name: found {name!r}, expected a-z, 0-9, _ and single dashes.")
    if name in recipe.variants:
        raise RecipeError(
            f"--name: {name!r} is a variant of recipe {recipe.name!r}. Give the audit another name."
        )
    return name


def _take(model: Model, name: str, recipe: Recipe, work: Path) -> Recipe:
    """Leaves the artifact and its manifest in work/out. Returns the recipe with it in place of the
    recipe's variants."""
    out = work / "out" / "model"
    out.mkdir(parents=True)
    taken = taking.take(taking.fetch(model), out, ours=model.repo is not None)
    _repro(f"pin@{recipe.name}")
    source, pinned = checkpoint.open_pinned(recipe.name, recipe.model)
    environment = engines.ENGINES[taken.engine].environment
    job = {"artifact": str(out), "checkpoint": str(source), "engine": taken.engine}
    claim = Claim.model_validate(process.run(environment, "claim", job, work, offline=True).value)
    audited = _as_variant(recipe, name, taken.engine, claim)
    beside = [f"not the model's, left out: {', '.join(taken.left_out)}"] if taken.left_out else []
    manifest = records.Manifest(
        recipe=recipe.name,
        variant=name,
        engine=taken.engine,
        device=capabilities.ENGINES[taken.engine].device(environments.device()),
        quantizer=claim.quantizer,
        answered_by="someone else",
        weights=claim.weights,
        requested={},
        resolved={**claim.recorded, **claim.settings},
        rounding=claim.rounding,
        notes=[*beside, *claim.changed],
        layers=claim.layers,
        stored_types=claim.stored_types,
        versions=claim.versions,
        checkpoint_sha256=artifact.digest(pinned.files),
        samples_sha256=None,
        files=taken.files,
        wall_s=0,
        peak_memory_bytes=0,
        taken_from=taking.words(model),
        origin=provenance.now(recipe.name, environment),
    )
    seals.sealed(manifest, {"checkpoint.json": paths.checkpoint(recipe.name)}).write(
        work / "out" / seals.MANIFEST
    )
    says = ", ".join(f"{key} {value}" for key, value in claim.settings.items())
    print(
        f"{name}: {claim.weights}{f' ({claim.quantizer})' if claim.quantizer else ''} for"
        f" {taken.engine}, {says or 'no settings'}; {manifest.size_bytes / 1e6:.1f} MB"
    )
    for note in manifest.notes:
        print(f"note: {note}")
    return audited


def _as_variant(recipe: Recipe, name: str, engine: str, claim: Claim) -> Recipe:
    """Raises RecipeError where the recipe has no limits or no noise floor for it, ArtifactError
    where its engine refuses it."""
    variant = Variant.model_validate(
        {"engine": engine, "quantizer": claim.quantizer, "weights": claim.weights, **claim.settings}
    )
    if reason := refusal.tried(variant, environments.device()) if variant.quantizer else "":
        raise ArtifactError(f"{name}: {reason}")
    if reason := recipe.without_limits(variant):
        raise RecipeError(
            f"{paths.recipe(recipe.name)}: {reason}, which is what the artifact has. Add it."
        )
    floors = {
        key: other
        for key, other in recipe.variants.items()
        if other.engine == engine and other.is_baseline
    }
    if not floors:
        raise RecipeError(
            f"{paths.recipe(recipe.name)}: variants has none without a quantizer for engine"
            f" {engine!r}, the noise floor of what is audited. Add for instance {engine}-bf16:"
            f" {{engine: {engine}}}, and run quantgate index."
        )
    return recipe.model_copy(update={"variants": {**floors, name: variant}})


def _repro(target: str) -> None:
    """What the audit compares with, by DVC, which does nothing again that is current."""
    print(f"audit: dvc repro {target}", flush=True)
    if code := subprocess.run(
        [Path(sys.executable).with_name("dvc"), "repro", target], check=False
    ).returncode:
        raise StageError(
            f"dvc repro {target} ended with exit code {code}: what the audit compares with is"
            " missing."
        )


def _judge(recipe_name: str, name: str, audited: Recipe) -> records.Verdict:
    root = paths.audit(recipe_name, name)
    place = paths.Place(
        root / "model", root / "manifest.json", root / "evaluation.json", root / "extension.json"
    )
    candidate = Candidate(audited, name, place)
    evaluate.measure(candidate)
    verdict = gate_stage.settle(candidate)
    verdict.write(root / "verdict.json")
    gate_stage.say(verdict)
    untimed = records.Benchmark(
        recipe=recipe_name,
        variant=name,
        engine=audited.variants[name].engine,
        over="in process",
        measured=False,
        reason=UNTIMED,
    )
    judged = Judged(
        records.read(place.manifest, records.Manifest),
        evaluations.evaluation_of(candidate),
        verdict,
        untimed,
        performance(audited, candidate.variant, untimed, None),
    )
    report.write_audit(audited, name, judged, root)
    return verdict
