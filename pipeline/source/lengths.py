"""Do the lengths that a recipe asks for fit the model? Each pair that must fit is compared before
anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.source import files as source

POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
)  # the names that configurations use
STRETCHED = (
    "linear",
    "dynamic",
    "yarn",
)  # RoPE scalings whose factor is not yet in max_position_embeddings

MOST = 10**9  # more is no length, and no factor


def refuse(where: Path, recipe: Recipe, checkpoint: Path) -> None:
    """Raises RecipeError if the recipe asks for more positions than the checkpoint's config.json
    has."""
    limit = positions(source.config(checkpoint))
    if limit is None:
        return
    key, most = limit
    asked = {
        "serve.max_model_len": recipe.serve.max_model_len,
        "calibration.tokens": recipe.calibration.tokens,
    }
    for name, tokens in asked.items():
        if tokens > most:
            raise RecipeError(
                f"{where}: {name}: found {tokens}, the model was made for {most} positions ({key}"
                f" in its config.json). Beyond them its answers are noise. Set {name} to {most} at"
                " most."
            )


def positions(config: dict[str, Any]) -> tuple[str, int] | None:
    """The key and the positions that a model was made for, its RoPE scaling counted; None where its
    configuration gives none."""
    text = config.get("text_config")
    own = text if isinstance(text, dict) else config
    for key in POSITIONS:
        if isinstance(own.get(key), int) and 0 < own[key] <= MOST:
            return key, int(own[key] * _factor(own))
    return None


def _factor(config: dict[str, Any]) -> float:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
    factor = scaling.get("factor") if kind in STRETCHED else None
    return float(factor) if isinstance(factor, int | float) and 1 < factor <= MOST else 1.0
