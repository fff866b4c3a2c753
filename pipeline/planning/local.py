"""What local files make impossible, before anything runs."""

from __future__ import annotations

import sys

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.quantizers import refusal
from pipeline.recipe import Recipe
from pipeline.recipe.parsing import of_file
from pipeline.runtime import environments
from pipeline.source import checking, checkpoint, lengths, prompts
from pipeline.source.files import left_out


def refuse(recipe: Recipe) -> None:
    """What local files make impossible, said before anything runs: prompts and texts, the
    checkpoint's tensors and shapes."""
    _refuse_prompts(recipe)
    if recipe.model.path is not None:
        with of_file(paths.recipe(recipe.name)):
            source = checkpoint.fetch(recipe.model)
        checkpoint.check(source)
        lengths.refuse(paths.recipe(recipe.name), recipe, source)
        if left := left_out(source):
            print(
                f"note: {recipe.model.path}: not the model's, left out: {', '.join(left)}",
                file=sys.stderr,
            )
        if environments.is_complete("openvino"):
            checking.tokenizer_of(f"plan@{recipe.name}", source, recipe.model)
        for variant_name, variant in recipe.variants.items():
            if variant.ladder != "auto":
                for rung in recipes.rungs(variant):
                    refusal.refuse_model(
                        paths.recipe(recipe.name), variant_name, rung, source, environments.device()
                    )


def _refuse_prompts(recipe: Recipe) -> None:
    for key in recipe.evaluate.perplexity.texts:
        if (text := recipes.load_prompt_set(key)).path is not None:
            prompts.texts(key, text)
    key = recipe.calibration.prompts
    if (prompt_set := recipes.load_prompt_set(key)).path is not None:
        prompts.require_enough(key, prompts.documents(key, prompt_set), recipe.calibration)
