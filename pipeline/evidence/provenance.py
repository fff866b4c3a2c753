"""What the work of a stage rests on."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline import paths, records
from pipeline import recipe as recipes
from pipeline.evidence import revision
from pipeline.records import artifact
from pipeline.runtime import environments

GIVEN = "QUANTGATE_REVISION"  # what git said of the project where a job was ordered
CODE = (Path("pipeline"), Path("environments"), Path("dvc.yaml"))


def now(name: str, environment: str) -> records.Origin:
    """What the work of a stage rests on, as it is now."""
    given = os.environ.get(GIVEN)
    return records.Origin(
        revision=records.Revision.model_validate_json(given)
        if given
        else revision.now(rests_on(name)),
        recipe_sha256=artifact.hash_file(paths.settings(name), name).sha256,
        environment=environment,
        environment_sha256=artifact.hash_file(
            environments.pins_file(environment), environment
        ).sha256,
    )


def rests_on(name: str) -> list[Path]:
    """The project's files that an artifact of the recipe and its verdict follow from, other
    recipes' left out.

    The checkpoint and the data of prompt sets are none of them: records and calibration/ have their
    SHA-256. Nor is dvc.lock, which DVC writes while it runs the stages, or params.yaml, which holds
    names alone."""
    recipe = recipes.load(name)
    sets = (recipe.calibration.prompts, *recipe.evaluate.perplexity.texts, recipe.benchmark.prompts)
    named = [paths.prompt_set(key) for key in dict.fromkeys(sets) if key is not None]
    tasks = [Path(recipe.evaluate.task_path)] if recipe.evaluate.task_path is not None else []
    return [*CODE, *{paths.recipe(name): None, paths.settings(name): None}, *named, *tasks]
