"""The recipe of an audit whose source is another than the recipe's: written once, and from then on
a recipe like any other."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.errors import RecipeError
from pipeline.planning import index
from pipeline.recipe import Model
from pipeline.records import write_text

HEADER = (
    "# Recipe {recipe} with another source and none of its artifacts: written by quantgate audit"
    " --against, to be committed.\n"
)


def recipe_for(recipe: str, source: Model) -> str:
    """The name of the recipe that measures against this source: the one that was named, or one like
    it, which is written.

    Raises RecipeError where a recipe of that name measures against something else.
    """
    if same(recipes.load(recipe).model, source):
        return recipe
    name = f"{recipe}-of-{slug(source.path or str(source.repo))}"
    path = paths.recipe(name)
    if path.is_file():
        if not same(recipes.load(name).model, source):
            raise RecipeError(
                f"{path}: measures against another source than --against says. Rename it, or name a"
                " recipe of yours."
            )
        return name
    write_text(path, _with_model(recipe, source))
    index.write()
    print(
        f"{path}: written, {recipe} with the source that --against says; params.yaml has its"
        " stages. Commit both."
    )
    return name


def same(one: Model, other: Model) -> bool:
    """Whether two models are one: the same commit of a repository, or the same folder."""
    if one.path and other.path:
        return Path(one.path).resolve() == Path(other.path).resolve()
    return (one.repo, one.revision, one.path) == (other.repo, other.revision, other.path)


def slug(name: str) -> str:
    """The last part of a path or repository's name, in the letters that recipes and variants are
    called by."""
    return re.sub(r"[^a-z0-9_]+", "-", Path(name).name.lower()).strip("-_")


def _with_model(recipe: str, source: Model) -> str:
    yaml = YAML()
    data = yaml.load(paths.recipe(recipe).read_text())
    floors = {
        name for name, variant in recipes.load(recipe).variants.items() if variant.is_baseline
    }
    left_out, whole = recipes.filled(recipe)
    data.update(
        {section: whole[section] for section in left_out}
    )  # the limits stay those of the recipe, not of the other source
    data["model"] = {key: value for key, value in source.model_dump().items() if value is not None}
    data["variants"] = {
        name: variant for name, variant in data["variants"].items() if name in floors
    }
    stream = StringIO()
    yaml.dump(data, stream)
    return HEADER.format(recipe=recipe) + stream.getvalue()
