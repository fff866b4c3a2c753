"""Recipes as they stand: parsed, possible, each ladder as the rung that it was climbed to."""

from __future__ import annotations

from pathlib import Path

from pipeline import paths, records
from pipeline import recipe as recipes
from pipeline.errors import RecipeError
from pipeline.evidence.candidate import Candidate
from pipeline.quantizers import refusal
from pipeline.recipe import Evaluate, Recipe, Variant
from pipeline.recipe.parsing import unknown
from pipeline.runtime import environments


def recipe(name: str) -> Recipe:
    """The recipe, parsed and possible, each ladder as the rung that it was climbed to, or its
    first. Raises RecipeError."""
    reached = unclimbed(name)
    for variant_name, written in reached.variants.items():
        reached = reached.with_variant(variant_name, _reached(name, variant_name, written))
    return reached


def unclimbed(name: str) -> Recipe:
    """The recipe as it was written, parsed and possible. Raises RecipeError."""
    paths.require_project()
    written = recipes.load(name)
    refusal.refuse(paths.recipe(name), written, environments.device())
    _refuse_tasks_from_outside(name, written.evaluate)
    for key in (
        written.calibration.prompts,
        *written.evaluate.perplexity.texts,
        written.benchmark.prompts,
    ):
        if key is not None:
            recipes.load_prompt_set(key)
    return written


def candidate(name: str, variant_name: str) -> Candidate:
    """A variant of the recipe where its stages leave it. Raises RecipeError."""
    reached = recipe(name)
    if variant_name not in reached.variants:
        raise unknown("variant", variant_name, paths.recipe(name), list(reached.variants))
    return Candidate.here(reached, variant_name)


def _refuse_tasks_from_outside(name: str, evaluate: Evaluate) -> None:
    if evaluate.task_path is None or evaluate.task_code:
        return
    folder, project = Path(evaluate.task_path).resolve(), Path.cwd().resolve()
    if not folder.is_relative_to(project):
        raise RecipeError(
            f"{paths.recipe(name)}: evaluate.task_path: found {evaluate.task_path}, which lies"
            f" outside the project ({folder}). Copy the tasks into the project, or trust the folder"
            " with what it may run: evaluate.task_code: true"
        )


def _reached(name: str, variant_name: str, variant: Variant) -> Variant:
    rungs, path = recipes.rungs(variant), paths.manifest(name, variant_name)
    climb = (
        records.read(path, records.Manifest).climb if len(rungs) > 1 and path.is_file() else None
    )
    return (
        rungs[0]
        if climb is None
        else next((rung for rung in rungs if rung.model_dump() == climb.reached), rungs[0])
    )
