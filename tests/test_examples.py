"""What a message gives as an example works when it is pasted: for every key that a recipe must
have."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import cli, paths, recipe
from pipeline.errors import CheckpointError, RecipeError
from pipeline.planning import index, local
from pipeline.recipe import defaults
from pipeline.recipe.parsing import of_file

PLAIN = YAML(typ="safe", pure=True)
ITEMS = {"lambada_openai": {"items": 2000}}
WHOLE = defaults.EXAMPLE | {"evaluate": defaults.EXAMPLE["evaluate"] | {"tasks": ITEMS}}


def keys(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*above, key)
            yield from keys(inner, (*above, key))


def changed(key: tuple[str, ...], *value: Any) -> dict[str, Any]:
    """The example with another value at a key, or without the key."""
    whole: dict[str, Any] = copy.deepcopy(WHOLE)
    inner = whole
    for part in key[:-1]:
        inner = inner[part]
    del inner[key[-1]]
    if value:
        inner[key[-1]] = value[0]
    return whole


def refusal(whole: dict[str, Any]) -> str:
    """What a recipe is refused with; empty if it is not."""
    with io.StringIO() as text:
        YAML().dump(whole, text)
        paths.recipe("mine").write_text(text.getvalue())
    try:
        recipe.load("mine")
    except RecipeError as error:
        return str(error)
    return ""


def pasted(key: tuple[str, ...], said: str) -> dict[str, Any]:
    (example,) = re.findall(rf"[Ff]or instance ({re.escape(key[-1])}: .*)\.(?:\n|$)", said)
    return changed(key, PLAIN.load(example)[key[-1]])


def test_an_example_is_given_for_every_key_that_must_be_there(project: Path) -> None:
    assert refusal(WHOLE) == ""
    missing = {}
    for key in keys(WHOLE):
        said = refusal(changed(key))
        if f"{'.'.join(key)}: missing" in said:
            missing[".".join(key)] = said
            assert said.startswith("recipes/mine.yaml: ")
            assert refusal(pasted(key, said)) == "", said
    assert {
        "model",
        "variants",
        "calibration.prompts",
        "evaluate.tasks",
        "evaluate.tasks.lambada_openai.items",
        "evaluate.perplexity.texts",
        "gate.mean_kl",
        "serve.max_model_len",
        "benchmark.concurrency",
        "benchmark.price.per_hour",
        "variants.ov-bf16.engine",
    } <= missing.keys()


@pytest.mark.parametrize("value", [None, {}, []])
def test_an_example_is_given_for_what_is_there_and_empty(project: Path, value: Any) -> None:
    for key in (
        ("evaluate", "tasks"),
        ("evaluate", "perplexity", "texts"),
        ("variants",),
        ("gate", "mean_kl"),
        ("calibration", "prompts"),
        ("serve", "max_model_len"),
    ):
        said = refusal(changed(key, value))
        assert said.startswith("recipes/mine.yaml: ")
        if value is None or "at least" in said or "keys with values" in said:
            assert refusal(pasted(key, said)) == "", said


@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize("limit", list(defaults.BY_SIZE[0].limits))
def test_a_limit_that_a_variant_needs_is_given(project: Path, limit: str, weights: str) -> None:
    said = refusal(changed(("gate", limit, weights)))
    (example,) = re.findall(r"Add to gate, for instance: (.*)\.$", said)
    assert said.startswith(f"recipes/mine.yaml: gate.{limit} has no limit for {weights!r}")
    limits = WHOLE["gate"][limit] | PLAIN.load(example)[limit]
    assert refusal(changed(("gate", limit), limits)) == ""


def test_a_source_is_asked_for_with_an_example(project: Path) -> None:
    for model, example in (({}, "path: ../my-model"), ({"repo": "a/b"}, "init a/b finds it")):
        said = refusal(changed(("model",), model))
        assert said.startswith("recipes/mine.yaml: model: ")
        assert example in said


def test_a_path_that_is_no_folder_is_told_with_the_recipe(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = paths.recipe("tiny")
    path.write_text(path.read_text().replace("path: recipes/tiny/checkpoint", "path: nowhere"))
    with pytest.raises(CheckpointError) as told:
        local.refuse(recipe.load("tiny"))
    assert str(told.value).startswith("recipes/tiny.yaml: model.path: found 'nowhere'")
    assert "for instance path: recipes/tiny/checkpoint" in str(told.value)
    index.write()
    assert cli.main(["pin", "tiny"]) == 2
    assert "quantgate: recipes/tiny.yaml: model.path: " in capsys.readouterr().err


def test_only_what_begins_with_a_key_of_the_recipe_gets_its_file() -> None:
    for said, whole in (
        ("evaluate.tasks: found 'x'", "recipes/a.yaml: evaluate.tasks: found 'x'"),
        ("recipes/a.yaml: evaluate: empty", "recipes/a.yaml: evaluate: empty"),
    ):
        with pytest.raises(RecipeError) as told, of_file(paths.recipe("a")):
            raise RecipeError(said)
        assert str(told.value) == whole
