"""Climbs a ladder: makes one rung after another and judges it, until one passes the gate. Control
side.

A rung is first looked at: mean KL at a few windows. Where already that is beyond the limit, the
rest is not measured; the rung that is taken is always evaluated whole. What was made and measured
stays under artifacts/rungs, in folders named by a hash of all that it depends on, so that nothing
is done twice and nothing stale is believed."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import paths, records
from pipeline import recipe as recipes
from pipeline.errors import (
    ArtifactError,
    EvaluationError,
    QuantizeError,
    RecipeError,
    WorkerCrashed,
)
from pipeline.evidence import evaluations, keeping, opened, seals
from pipeline.gate import limits
from pipeline.quantizers import refusal
from pipeline.recipe import Recipe, Variant, ladder
from pipeline.recipe.parsing import unknown
from pipeline.records import Climb, Estimate, Step, artifact
from pipeline.runtime import environments
from pipeline.source import checkpoint
from pipeline.stages import gate as gate_stage
from pipeline.stages.climb import measure
from pipeline.stages.climb.rung import Rung

UNUSABLE, FIRST_LOOK = "UNUSABLE", "FAIL at first look"
FINDINGS = (
    QuantizeError,
    ArtifactError,
    EvaluationError,
    WorkerCrashed,
)  # about a rung, and no reason to stop


def run(name: str, variant_name: str) -> None:
    """The climb stage: leaves the artifact, manifest and evaluation of the rung that was reached
    where a variant's are.

    That is the first that passes the gate, or the last that could be made and run. Raises
    RecipeError for a rung that cannot be, QuantizeError if none could."""
    recipe = opened.unclimbed(name)
    variant = recipe.variants.get(variant_name)
    if variant is None or variant.ladder is None:
        raise unknown(
            "ladder",
            variant_name,
            paths.recipe(name),
            [key for key, other in recipe.variants.items() if other.ladder],
        )
    with artifact.stage_folder(f"climb@{name}--{variant_name}") as folder:
        rungs = _rungs(variant_name, recipe, variant)
        speeds = _speeds(rungs, folder) if variant.goal == "fastest" else {}
        if speeds:
            rungs.sort(key=lambda rung: -speeds[rung.made].median if rung.made in speeds else 0.0)
        reached, steps = _up(rungs, speeds, folder)
        _take(
            reached,
            Climb(goal=variant.goal, steps=steps, reached=reached.candidate.variant.model_dump()),
            folder,
        )


def _rungs(variant_name: str, recipe: Recipe, variant: Variant) -> list[Rung]:
    """All rungs of the ladder; of an automatic one, those that the model's shapes allow. Raises
    RecipeError."""
    source, _ = checkpoint.open_pinned(recipe.name, recipe.model)
    stored, rungs = evaluations.stored_logprobs(recipe.name), []
    for rung in recipes.rungs(variant):
        try:
            refusal.refuse_model(
                paths.recipe(recipe.name), variant_name, rung, source, environments.device()
            )
        except RecipeError as error:
            if variant.ladder != "auto":
                raise
            print(f"{variant_name}: left out {ladder.words(rung)}: {error}")
            continue
        rungs.append(Rung.of(variant_name, recipe.with_variant(variant_name, rung), stored))
    return rungs


def _speeds(rungs: list[Rung], folder: Path) -> dict[Path, Estimate]:
    """Output tokens/s of every rung that can be made, by where it is."""
    speeds = {}
    for rung in rungs:
        try:
            speeds[rung.made] = measure.speed(rung, folder)
        except FINDINGS as error:
            print(f"{rung.candidate.variant_name}: {rung.words}: not timed: {error}")
            continue
        print(
            f"{rung.candidate.variant_name}: {rung.words}: {speeds[rung.made].median:.1f} tokens/s",
            flush=True,
        )
    return speeds


def _up(rungs: list[Rung], speeds: dict[Path, Estimate], folder: Path) -> tuple[Rung, list[Step]]:
    steps: list[Step] = []
    reached = None
    for number, rung in enumerate(rungs, 1):
        print(
            f"{rung.candidate.variant_name}: rung {number} of {len(rungs)}: {rung.words}",
            flush=True,
        )
        step = _try(rung, folder).model_copy(update={"output_tokens_per_s": speeds.get(rung.made)})
        print(f"  {step.status}: {step.reason}", flush=True)
        steps.append(step)
        if step.status != UNUSABLE:
            reached = rung
        if step.status == "PASS":
            break
    if reached is None:
        raise QuantizeError(
            "no rung of the ladder could be made and run; the last:"
            f" {steps[-1].reason if steps else 'there is none'}"
        )
    return reached, steps


def _try(rung: Rung, folder: Path) -> Step:
    """Makes, looks and judges, as far as needed and not done before."""
    limit = limits.of(rung.candidate.recipe, rung.candidate.variant).mean_kl
    try:
        manifest = rung.make()
        look = measure.first_look(rung, folder)
    except FINDINGS as error:
        return Step(rung=rung.words, status=UNUSABLE, reason=str(error))
    seen = Step(
        rung=rung.words,
        status=FIRST_LOOK,
        reason=look.sentence(limit),
        size_bytes=manifest.size_bytes,
        mean_kl=look.mean_kl,
        mean_kl_low=look.low,
        mean_kl_limit=limit,
    )
    if look.hopeless:
        return seen
    verdict = gate_stage.settle(rung.candidate)
    wrong = [
        f"{check.name}: {check.reason}"
        for check in verdict.checks
        if check.status == verdict.status
    ]
    reason = "all checks passed" if verdict.status == "PASS" else wrong[0]
    return seen.model_copy(update={"status": verdict.status, "reason": reason})


def _take(rung: Rung, way: Climb, folder: Path) -> None:
    """Copies the rung to where the variant is looked for."""
    if not rung.candidate.place.evaluation.is_file():
        measure.evaluate(rung, folder, whole=True)
    place = paths.place(rung.candidate.name, rung.candidate.variant_name)
    measured = {
        seals.MANIFEST: rung.candidate.place.manifest,
        "evaluation.json": rung.candidate.place.evaluation,
    }
    if wrong := seals.broken(measured):
        raise ArtifactError(
            f"{rung.made}: not believed: {'; '.join(wrong)}. Remove the folder, then climb again."
        )
    shutil.copytree(rung.candidate.place.model, folder / "out")
    artifact.install(folder / "out", place.model)
    manifest = records.read(rung.candidate.place.manifest, records.Manifest).model_copy(
        update={"climb": way}
    )
    keeping.keep_manifest(manifest, place)
    keeping.keep_evaluation(
        records.read(rung.candidate.place.evaluation, records.Evaluation), place
    )
    if (
        rung.candidate.place.extension.is_file()
    ):  # the gate stage takes items that were added already
        records.read(rung.candidate.place.extension, records.Extension).write(place.extension)
    print(f"{rung.candidate.variant_name}: {rung.words}, after {len(way.steps)} rungs")
