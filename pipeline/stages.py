"""What dvc.yaml calls: one function a stage, in the control environment. Each reads records, has a worker do the heavy
part in a temporary folder, and moves the finished result into place. Judging is in pipeline/judge, timing in
pipeline/benchmark/rounds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import (
    artifact,
    checkpoint,
    costs,
    environments,
    estimate,
    lengths,
    machine,
    paths,
    prompts,
    quantizers,
    records,
    revision,
    seals,
)  # fmt: skip
from pipeline import recipe as recipes
from pipeline.errors import ArtifactError, RecipeError
from pipeline.parsing import unknown
from pipeline.quantizers import refusal
from pipeline.recipe import Evaluate, Model, Recipe, Variant
from pipeline.source import left_out

CODE = (Path("pipeline"), Path("environments"), Path("dvc.yaml"))
SPARE_DISK = 1.2  # of the source's size must be free before a quantizer starts: its output and temporary files


def open_recipe(name: str) -> Recipe:
    """The recipe, parsed and possible, each ladder as the rung that it was climbed to, or its first. Raises RecipeError."""
    recipe = open_unclimbed(name)
    for variant_name, variant in recipe.variants.items():
        recipe = recipe.with_variant(variant_name, _reached(name, variant_name, variant))
    return recipe


def open_unclimbed(name: str) -> Recipe:
    """The recipe as it was written, parsed and possible. Raises RecipeError."""
    paths.require_project()
    recipe = recipes.load(name)
    refusal.refuse(paths.recipe(name), recipe, environments.device())
    _refuse_tasks_from_outside(name, recipe.evaluate)
    for key in (recipe.calibration.prompts, *recipe.evaluate.perplexity.texts, recipe.benchmark.prompts):
        if key is not None:
            recipes.load_prompt_set(key)
    return recipe


def _refuse_tasks_from_outside(name: str, evaluate: Evaluate) -> None:
    if evaluate.task_path is None or evaluate.task_code:
        return
    folder, project = Path(evaluate.task_path).resolve(), Path.cwd().resolve()
    if not folder.is_relative_to(project):
        raise RecipeError(
            f"{paths.recipe(name)}: evaluate.task_path: found {evaluate.task_path}, which lies outside the project ({folder}). "
            "Copy the tasks into the project, or trust the folder with what it may run: evaluate.task_code: true"
        )


def _reached(name: str, variant_name: str, variant: Variant) -> Variant:
    rungs, path = recipes.rungs(variant), paths.manifest(name, variant_name)
    climb = records.read(path, records.Manifest).climb if len(rungs) > 1 and path.is_file() else None
    return rungs[0] if climb is None else next((rung for rung in rungs if rung.model_dump() == climb.reached), rungs[0])


def open_variant(name: str, variant: str) -> tuple[Recipe, Variant]:
    recipe = open_recipe(name)
    if variant not in recipe.variants:
        raise unknown("variant", variant, paths.recipe(name), list(recipe.variants))
    return recipe, recipe.variants[variant]


def refuse_local(name: str, recipe: Recipe) -> None:
    """What local files make impossible, said before anything runs: prompts and texts, the checkpoint's tensors and shapes."""
    _refuse_prompts(recipe)
    if recipe.model.path is not None:
        source = checkpoint.fetch(recipe.model)
        checkpoint.check(source)
        lengths.refuse(paths.recipe(name), recipe, source)
        if left := left_out(source):
            print(f"note: {recipe.model.path}: not the model's, left out: {', '.join(left)}", file=sys.stderr)
        if environments.is_complete("openvino"):
            _architecture(f"plan@{name}", source, recipe.model)
        for variant_name, variant in recipe.variants.items():
            if variant.ladder != "auto":
                for rung in recipes.rungs(variant):
                    refusal.refuse_model(paths.recipe(name), variant_name, rung, source, environments.device())


def _refuse_prompts(recipe: Recipe) -> None:
    for key in recipe.evaluate.perplexity.texts:
        if (text := recipes.load_prompt_set(key)).path is not None:
            prompts.texts(key, text)
    key = recipe.calibration.prompts
    if (found := recipes.load_prompt_set(key)).path is not None:
        prompts.require_enough(key, prompts.documents(key, found), recipe.calibration)


def pin(name: str) -> None:
    model = open_recipe(name).model
    record = checkpoint.pin(model)
    source = checkpoint.isolate(name, checkpoint.fetch(model), record)
    tokenizer = _architecture(f"pin@{name}", source, model)
    record.model_copy(update={"tokenizer": tokenizer}).write(paths.checkpoint(name))
    size = sum(file.size_bytes for file in record.files)
    print(f"pinned {len(record.files)} files, {size / 1e6:.1f} MB, {record.parameters:,} parameters ({record.dtype})")
    if record.left_out:
        print(f"note: not the model's, left out: {', '.join(record.left_out)}")
    if tokenizer.end:
        print(f"note: the tokenizer ends every text with token {tokenizer.end}; contexts, calibration and texts are without it")


def _architecture(stage: str, source: Path, model: Model) -> records.Tokenizer:
    """Raises CheckpointError if the checkpoint is not what its architecture expects; returns what its tokenizer adds."""
    with artifact.stage_folder(stage) as folder:
        job = {"checkpoint": str(source), "named": model.path or model.repo}
        found = costs.run(stage, "openvino", "check", job, folder, offline=True).value
    return records.Tokenizer.model_validate(found["tokenizer"])


def calibrate(name: str) -> None:
    recipe = open_recipe(name)
    source, _ = checkpoint.open_pinned(name, recipe.model)
    lengths.refuse(paths.recipe(name), recipe, source)
    used = {recipe.calibration.prompts, *recipe.evaluate.perplexity.texts}
    stage = f"calibrate@{name}"
    with artifact.stage_folder(stage) as folder:
        out = folder / "out"
        out.mkdir()
        job = {
            "checkpoint": str(source),
            "calibration": recipe.calibration.model_dump(),
            "perplexity": recipe.evaluate.perplexity.model_dump(),
            "prompt_sets": {key: recipes.load_prompt_set(key).model_dump() for key in sorted(used)},
            "out": str(out),
        }
        done = costs.run(stage, "openvino", "calibrate", job, folder, estimate.needs_bytes(name, recipe, "calibrate"))
        artifact.install(out, paths.samples(name).parent)
    for note in done.value["notes"]:
        print(f"note: {recipe.calibration.prompts}: {note}")
    print(f"calibration set from {done.value['prompts_used']} prompts, overlap {done.value['overlap']:.2%}")


def quantize(name: str, variant_name: str) -> None:
    make(name, variant_name, open_variant(name, variant_name)[0], paths.place(name, variant_name))


def make(name: str, variant_name: str, recipe: Recipe, place: paths.Place) -> records.Manifest:
    """Makes the artifact of a variant at a place. Raises QuantizeError, RecipeError, ArtifactError."""
    variant = recipe.variants[variant_name]
    tool = quantizers.tool(variant)
    source, pinned = checkpoint.open_pinned(name, recipe.model)
    refusal.refuse_model(paths.recipe(name), variant_name, variant, source, environments.device())
    if tool.note:
        print(f"note: {tool.note}", file=sys.stderr)
    samples = records.read(paths.samples(name), records.Samples)
    base = quantizers.starts_from(recipe, variant)
    exported = verified(paths.place(name, base))[0] if base else None
    stage = f"quantize@{name}--{variant_name}"
    with artifact.stage_folder(stage) as folder:
        _require_disk(folder, pinned)
        out = folder / "out"
        out.mkdir()
        job = quantizers.job(variant, source, paths.samples(name), exported, out)
        done = costs.run(stage, tool.environment, "quantize", job, folder, estimate.needs_bytes(name, recipe, "quantize", variant))
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
            origin=origin(name, tool.environment),
            **done.value,
        )
        artifact.install(out, place.model)
        keep(manifest, place)
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.stored_types.items()))
    weights = sum(manifest.weights_by_type.values())
    shares = ", ".join(f"{count / weights:.1%} {kind}" for kind, count in sorted(manifest.weights_by_type.items()))
    print(f"{variant_name}: layers stored as {types}; of all weights {shares}; "
          f"{manifest.size_bytes / 1e6:.1f} MB, {done.wall_s:.0f} s, {done.peak_memory_bytes / 1e9:.2f} GB")  # fmt: skip
    return manifest


def keep(manifest: records.Manifest, place: paths.Place) -> None:
    """Writes it, sealed to the checkpoint and the calibration samples."""
    made_from = {"checkpoint.json": paths.checkpoint(manifest.recipe), "samples.json": paths.samples(manifest.recipe)}
    seals.sealed(manifest, made_from).write(place.manifest)


def origin(name: str, environment: str) -> records.Origin:
    """What the work of a stage rests on, as it is now."""
    return records.Origin(
        revision=revision.now(rests_on(name)),
        recipe_sha256=artifact.hash_file(paths.recipe(name), name).sha256,
        environment=environment,
        environment_sha256=artifact.hash_file(environments.pins_file(environment), environment).sha256,
    )


def rests_on(name: str) -> list[Path]:
    """The project's files that an artifact of the recipe and its verdict follow from, other recipes' left out.

    The checkpoint and the data of prompt sets are none of them: records and calibration/ have their SHA-256. Nor is dvc.lock, which
    DVC writes while it runs the stages, or params.yaml, which holds names alone.
    """
    recipe = recipes.load(name)
    sets = (recipe.calibration.prompts, *recipe.evaluate.perplexity.texts, recipe.benchmark.prompts)
    named = [paths.prompt_set(key) for key in dict.fromkeys(sets) if key is not None]
    tasks = [Path(recipe.evaluate.task_path)] if recipe.evaluate.task_path is not None else []
    return [*CODE, paths.recipe(name), *named, *tasks]


def report(name: str) -> None:
    from pipeline.report import write

    write(name, open_recipe(name))
    print(f"report: {paths.report(name, 'html')}")


def verified(place: paths.Place) -> tuple[Path, records.Manifest]:
    """The artifact's folder and manifest, every file hashed again: DVC's own state is no proof."""
    manifest = records.read(place.manifest, records.Manifest)
    artifact.verify(place.model, manifest.files)
    return place.model, manifest


def _require_disk(folder: Path, pinned: records.Checkpoint) -> None:
    needed = int(SPARE_DISK * sum(file.size_bytes for file in pinned.files))
    free = machine.free_bytes(folder)
    if free < needed:
        raise ArtifactError(
            f"{folder.resolve()}: {free / 1e9:.1f} GB free, quantizing needs about {needed / 1e9:.1f} GB. Free some space "
            "or put artifacts/ on a larger disk."
        )
