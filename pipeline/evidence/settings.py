"""What measurements depend on of the recipe, kept with them so that a later change of the recipe
shows."""

from __future__ import annotations

from typing import Any

from pipeline.recipe import Recipe


def evaluated_under(recipe: Recipe, variant_name: str, engine: str) -> dict[str, Any]:
    """What an evaluation depends on of the recipe, kept with it so that a later change of the
    recipe shows."""
    serve = recipe.serve_for(variant_name).model_dump()
    if engine == "reference":
        serve = {"max_model_len": serve["max_model_len"]}
    return {
        "evaluate": recipe.evaluate.model_dump(),
        "serve": serve,
        "calibration": recipe.calibration.model_dump(),
    }


def timed_under(recipe: Recipe, variant: str) -> dict[str, Any]:
    """What the figures depend on besides the artifact: a benchmark under other settings is
    stale."""
    return {
        "benchmark": recipe.benchmark.model_dump(mode="json"),
        "serve": recipe.serve_for(variant).model_dump(mode="json"),
    }
