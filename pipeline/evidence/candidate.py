"""What the stages hand to each other: a variant of a recipe, and where what is made and measured of
it lies."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import paths
from pipeline.recipe import Recipe, Variant


@dataclass(frozen=True)
class Candidate:
    """`name` is the recipe's; the place is the variant's own, or that of a rung or of an audit."""

    name: str
    variant_name: str
    recipe: Recipe
    place: paths.Place

    @classmethod
    def here(cls, name: str, variant_name: str, recipe: Recipe) -> Candidate:
        """Where a variant's stages leave it."""
        return cls(name, variant_name, recipe, paths.place(name, variant_name))

    @property
    def variant(self) -> Variant:
        return self.recipe.variants[self.variant_name]

    @property
    def baseline(self) -> str | None:
        """The unquantized variant on the same engine; None for an unquantized one itself."""
        return self.recipe.baseline(self.variant)

    def stage(self, verb: str) -> str:
        """`evaluate@RECIPE--VARIANT`, as DVC calls it."""
        return f"{verb}@{self.name}--{self.variant_name}"
