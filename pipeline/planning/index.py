"""params.yaml: the names that dvc.yaml's foreach loops run over. Generated from recipes/; it holds no settings."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import engines, paths, quantizers, reading
from pipeline import recipe as recipes
from pipeline.errors import RecipeError
from pipeline.quantizers import refusal
from pipeline.runtime import environments

PARAMS = Path("params.yaml")
NOTHING_LOCAL = "recipes/from-hub.txt"  # dvc.yaml is static, so a dependency must stand there for every recipe
HEADER = "# Generated from recipes/ by: quantgate index. Do not edit.\n"


def write() -> bool:
    """Writes params.yaml if it is out of date; returns whether it was."""
    text = _render()
    if PARAMS.is_file() and PARAMS.read_text() == text:
        return False
    PARAMS.write_text(text)
    return True


def check(name: str | None = None) -> None:
    """Raises RecipeError if params.yaml does not list a recipe as it is now; without a name, all of them and nothing else.

    A recipe that is edited while another one runs is no concern of the other's stages.
    """
    stored = reading.yaml(PARAMS, RecipeError) if PARAMS.is_file() else {}
    if stored != _data(recipes.names()) if name is None else _of(name, stored) != _of(name, _data([name])):
        of = f"recipes/{name}.yaml" if name else "recipes/"
        raise RecipeError(f"params.yaml: out of date with {of}. Run: quantgate index")


def _of(name: str, data: Any) -> dict[str, Any]:
    """What the index holds of one recipe; nothing where it is no index at all."""
    groups = data.items() if isinstance(data, dict) else []
    return {group: {key: row for key, row in rows.items() if isinstance(row, dict) and name in (row.get("recipe"), row.get("name"))}
            for group, rows in groups if isinstance(rows, dict)}  # fmt: skip


def _render() -> str:
    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(_data(recipes.names()), stream)
    return HEADER + stream.getvalue()


def _data(names: list[str]) -> dict[str, dict[str, Any]]:
    loaded = {name: recipes.load(name) for name in names}
    for name, recipe in loaded.items():
        refusal.refuse(paths.recipe(name), recipe)
    found = [(name, recipe, *item) for name, recipe in loaded.items() for item in recipe.variants.items()]
    return {
        "recipes": {name: _recipe(name, recipe) for name, recipe in loaded.items()},
        "variants": {_key(name, variant): _judged(name, variant, of, recipe) for name, recipe, variant, of in found},
        "made": {_key(name, variant): _made(name, variant, of, recipe) for name, recipe, variant, of in found if not of.ladder},
        "ladders": {_key(name, variant): _judged(name, variant, of, recipe) | {"tasks": _tasks(recipe)}
                    for name, recipe, variant, of in found if of.ladder},
    }  # fmt: skip


def _recipe(name: str, recipe: recipes.Recipe) -> dict[str, Any]:
    """`source` and `tasks` are the local folders that pin and evaluate depend on."""
    return {"name": name, "source": recipe.model.path or NOTHING_LOCAL, "tasks": _tasks(recipe)}


def _tasks(recipe: recipes.Recipe) -> str:
    return recipe.evaluate.task_path or NOTHING_LOCAL


def _key(name: str, variant_name: str) -> str:
    return f"{name}--{variant_name}"


def _judged(name: str, variant_name: str, variant: recipes.Variant, recipe: recipes.Recipe) -> dict[str, Any]:
    """`floor` is the unquantized variant whose evaluation is the noise floor; an unquantized one names itself."""
    return {"recipe": name, "variant": variant_name, "floor": recipe.baseline(variant) or variant_name}


def _made(name: str, variant_name: str, variant: recipes.Variant, recipe: recipes.Recipe) -> dict[str, Any]:
    """`base` is what it is made from besides the checkpoint."""
    tool, base = quantizers.tool(variant), quantizers.starts_from(recipe, variant)
    return {
        "recipe": name,
        "variant": variant_name,
        "engine": variant.engine,
        "base": str(paths.model(name, base)) if base else NOTHING_LOCAL,
        "tool": _source(tool.module),
        "weights_engine": _source(engines.ENGINES[variant.engine].weights),
        "tool_pins": environments.pins_file(tool.environment).stem,
        "engine_pins": environments.pins_file(engines.ENGINES[variant.engine].environment).stem,
        "tasks": _tasks(recipe),
    }


def _source(where: str) -> str:
    """The file of a module, or the folder of a package."""
    path = where.split(":", maxsplit=1)[0].replace(".", "/")
    return path if (Path(__file__).parents[2] / path).is_dir() else f"{path}.py"
