"""What the stages hand to each other: a variant of a recipe, and where what is made and measured of
it lies."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import paths
from pipeline.recipe import Recipe, Variant


@dataclass(frozen=True)
class Candidate:
    """The place is the variant's own, or that of a rung or of an audit."""

    recipe: Recipe
    variant_name: str
    place: paths.Place

    @classmethod
    def here(cls, recipe: Recipe, variant_name: str) -> Candidate:
        """Where a variant's stages leave it."""
        return cls(recipe, variant_name, paths.place(recipe.name, variant_name))

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.recipe.name

    def __str__(self) -> str:
        return f"{self.name}/{self.variant_name}"

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
