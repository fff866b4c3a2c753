"""The recipe: one YAML file = one model with its variants, parsed strictly once.

`load` raises RecipeError with file, key, value found, what was expected and, for a misspelled name,
the nearest valid one. `schema` gives the JSON schema that editors use. Whether a tool and an engine
can do what a variant asks is decided in pipeline/quantizers, before any work."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pipeline import paths, reading
from pipeline.errors import RecipeError
from pipeline.recipe import defaults
from pipeline.recipe.base import Strict, Weights
from pipeline.recipe.ladder import rungs
from pipeline.recipe.long_context import LEAST, LongContext, LongWindows
from pipeline.recipe.parsing import parse, unknown
from pipeline.recipe.quality import (
    BY_WEIGHTS,
    Divergence,
    Evaluate,
    Gate,
    Items,
    Perplexity,
    TaskItems,
    first_windows,
)
from pipeline.recipe.source import Calibration, Model, PromptSet
from pipeline.recipe.speed import Benchmark, Price, Serve, Slo
from pipeline.recipe.variant import Variant

__all__ = [
    "BY_WEIGHTS",
    "Benchmark",
    "Calibration",
    "Divergence",
    "Evaluate",
    "Gate",
    "Items",
    "LongContext",
    "LongWindows",
    "Model",
    "Perplexity",
    "Price",
    "PromptSet",
    "Recipe",
    "Serve",
    "Slo",
    "Strict",
    "TaskItems",
    "Variant",
    "Weights",
    "filled",
    "first_windows",
    "load",
    "load_prompt_set",
    "names",
    "rungs",
    "schema",
]

REFERENCE = "reference"
PROMPT_SET_NAME = re.compile(r"\w[\w.-]*")  # it becomes a file's name in artifacts/
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._]|-(?!-))*")
VARIANT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_]|-(?!-))*")


class Recipe(Strict):
    _name: str = PrivateAttr("")  # its file's, which no key of it can say
    model: Model
    calibration: Calibration
    evaluate: Evaluate
    gate: Gate
    serve: Serve
    benchmark: Benchmark
    goal: Literal["smallest", "fastest", "cheapest", "closest"] = Field(
        "smallest",
        description="what the report recommends among the quantized variants that passed",
    )
    variants: Annotated[dict[str, Variant], Field(min_length=1)]

    @property
    def name(self) -> str:
        return self._name

    def named(self, name: str) -> Recipe:
        """The same, under a name: that of its file in recipes/, or of the one it was taken from."""
        recipe = self.model_copy()
        recipe._name = name
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _every_section(cls, data: Any) -> Any:
        return defaults.filled(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for name, variant in self.variants.items():
            if name == REFERENCE:
                raise ValueError(
                    f"variant name {name!r}: the source's own evaluation has that name. Use another"
                )
            if not VARIANT_NAME.fullmatch(name):
                raise ValueError(
                    f"variant name {name!r}: use a-z, 0-9, _ and single dashes (DVC reads names as"
                    " keys)"
                )
            try:
                ways = rungs(variant)
            except ValueError as error:
                raise ValueError(f"variants.{name}.{error}") from error
            for rung in ways:
                self._require_limits(name, rung)
        baselines = {variant.engine for variant in self.variants.values() if variant.is_baseline}
        for engine in sorted({variant.engine for variant in self.variants.values()} - baselines):
            raise ValueError(
                f"variants has none without a quantizer for engine {engine!r}, the noise floor and"
                f" speed baseline of the others. Add for instance {engine}-bf16: {{engine:"
                f" {engine}}}"
            )
        if self.gate.speedup and self.benchmark.repeats < 2:
            raise ValueError(
                "benchmark.repeats: found 1, expected at least 2: gate.speedup is decided by the"
                " spread of repeats"
            )
        if self.goal == "cheapest" and self.benchmark.price is None:
            raise ValueError(
                "goal: 'cheapest' needs benchmark.price, for instance {per_hour: 0.5, currency:"
                " USD}"
            )
        if self.gate.on_inconclusive == "extend" and not self.evaluate.extend_to:
            raise ValueError(
                "gate.on_inconclusive: 'extend' needs evaluate.extend_to, the most items to draw of"
                " each task"
            )
        longest = self.benchmark.prompt_tokens + self.benchmark.output_tokens
        for key, tokens in (("evaluate.perplexity.window", self.evaluate.perplexity.window + 1),
                            ("benchmark.prompt_tokens + output_tokens", longest)):  # fmt: skip
            if tokens > self.serve.max_model_len:
                raise ValueError(
                    f"{key} needs serve.max_model_len of at least {tokens}, found"
                    f" {self.serve.max_model_len}"
                )
        if self.evaluate.long_context:
            self._require_long_windows()
        return self

    def _require_long_windows(self) -> None:
        short, longest, most = (
            self.evaluate.perplexity.window,
            self.serve.max_model_len,
            self.evaluate.perplexity.max_windows,
        )
        if longest < 2 * short:
            raise ValueError(
                "evaluate.long_context needs serve.max_model_len of at least twice"
                f" evaluate.perplexity.window ({2 * short}), found {longest}: positions beyond the"
                " window are what it compares"
            )
        long = self.evaluate.long_windows(longest)
        if long and most and long.available(most) < LEAST:
            raise ValueError(
                f"evaluate.long_context needs {LEAST} windows of serve.max_model_len ({longest}),"
                f" evaluate.perplexity.max_windows {most} of {short} tokens make"
                f" {long.available(most)}. Take more"
            )

    def _require_limits(self, name: str, variant: Variant) -> None:
        if missing := self.without_limits(variant):
            usual = ", ".join(
                f"{key}: {{{variant.weights}:"
                f" {defaults.limit(self.model.parameters, key, variant.weights):g}}}"
                for key in self._unlimited(variant)
            )
            raise ValueError(
                f"{missing}, which variant {name!r} needs. Add to gate, for instance: {usual}"
            )

    def without_limits(self, variant: Variant) -> str:
        """Which keys have no limit for a variant's weights, in words; empty if all have."""
        missing = [f"gate.{limit}" for limit in self._unlimited(variant)]
        has = "has" if len(missing) == 1 else "have"
        return f"{', '.join(missing)} {has} no limit for {variant.weights!r}" if missing else ""

    def _unlimited(self, variant: Variant) -> list[str]:
        needed = [*BY_WEIGHTS, *(["speedup"] if self.gate.speedup and variant.quantizer else [])]
        return [limit for limit in needed if variant.weights not in getattr(self.gate, limit)]

    def with_variant(self, name: str, variant: Variant) -> Recipe:
        """The recipe with other settings for one variant: a rung of its ladder."""
        return self.model_copy(update={"variants": {**self.variants, name: variant}})

    def serve_for(self, variant_name: str) -> Serve:
        """The settings under which a variant is served: the recipe's, with the variant's own KV
        cache; also for `reference`."""
        variant = self.variants.get(variant_name)
        return (
            self.serve.model_copy(update={"kv_cache": variant.kv_cache})
            if variant and variant.kv_cache
            else self.serve
        )

    def baseline(self, variant: Variant) -> str | None:
        """The unquantized variant on the same engine, its noise floor; None for an unquantized
        variant itself."""
        if variant.is_baseline:
            return None
        return next(
            name
            for name, other in self.variants.items()
            if other.engine == variant.engine and other.is_baseline
        )


def load(name: str) -> Recipe:
    """The recipe of that name in recipes/. Raises RecipeError."""
    path = paths.recipe(name)
    if not NAME.fullmatch(name) or not os.path.lexists(
        path
    ):  # what is there and no file, reading it says
        raise unknown("recipe", name, path, names())
    return parse(path, Recipe).named(name)


def filled(name: str) -> tuple[list[str], dict[str, Any]]:
    """Which sections a recipe leaves out, and what it says as plain values with their defaults."""
    data = reading.yaml(paths.recipe(name), RecipeError)
    return defaults.left_out(data), defaults.filled(data)


def names() -> list[str]:
    """All recipes of the project, sorted. Raises RecipeError for a name that DVC could not
    select."""
    stems = sorted(path.stem for path in paths.RECIPES.glob("*.yaml"))
    for name in stems:
        if not NAME.fullmatch(name):
            raise RecipeError(
                f"recipes/{name}.yaml: use lower-case letters, digits, dots, underscores and single"
                " dashes in a recipe's name (a double dash separates recipe and variant in DVC"
                " stage names). Rename the file."
            )
    return stems


def load_prompt_set(name: str) -> PromptSet:
    path = paths.prompt_set(name)
    if not PROMPT_SET_NAME.fullmatch(name) or not os.path.lexists(path):
        raise unknown(
            "prompt set", name, path, sorted(p.stem for p in paths.PROMPT_SETS.glob("*.yaml"))
        )
    prompt_set = parse(path, PromptSet)
    if prompt_set.path is not None and prompt_set.sha256 is None:
        raise RecipeError(
            f"{path}: sha256: missing, so that a changed file is noticed."
            f" {_remedy(Path(prompt_set.path))}"
        )
    return prompt_set


def _remedy(path: Path) -> str:
    if not path.is_file():
        return f"And {path} is no file."
    with path.open("rb") as file:
        return f"Add: sha256: {hashlib.file_digest(file, 'sha256').hexdigest()}"


def print_schema() -> None:
    print(schema(), end="")


def schema() -> str:
    """The JSON schema of a recipe, as recipes/recipe.schema.json holds it for editors."""
    document = Recipe.model_json_schema()
    document["required"] = [key for key in document["required"] if key not in defaults.SECTIONS]
    return json.dumps(document, indent=1) + "\n"
