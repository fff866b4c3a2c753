"""A recipe of model, calibration and variants: what it leaves out is there, seen by DVC, and no
milder than is known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline import cli, paths, reading, recipe
from pipeline.errors import RecipeError
from pipeline.evidence import opened, provenance, seals
from pipeline.planning import index, power
from pipeline.recipe import Model, defaults
from pipeline.recipe.base import Weights
from pipeline.stages.audit import against
from tests.conftest import commit_all

MINIMAL = """\
model: {path: recipes/tiny/checkpoint, parameters: 623488}
calibration: {prompts: tiny-prompts, samples: 64, tokens: 128}
variants:
  ov-bf16: {engine: openvino}
  ov-int4: {engine: openvino, quantizer: openvino, weights: int4}
"""


def ready(name: str) -> dict[str, Any]:
    return dict(reading.yaml(paths.recipe(name), RecipeError))


@pytest.mark.parametrize("size", defaults.BY_SIZE, ids=lambda size: size.like)
def test_the_defaults_are_the_ready_recipes(root: Path, size: defaults.Usual) -> None:
    """As far as a recipe of any model can have them: of the limits those for 16, 8 and 4 bits, of
    the benchmark the load."""
    like = ready(size.like)
    filled = defaults.filled({"model": {"parameters": like["model"]["parameters"]}})
    assert filled["evaluate"] == like["evaluate"]
    assert filled["serve"] == like["serve"]
    assert filled["benchmark"] == {key: like["benchmark"][key] for key in filled["benchmark"]}
    assert filled["gate"]["sequential"] == like["gate"]["sequential"]
    for key in recipe.BY_WEIGHTS:
        assert {
            weights: filled["gate"][key][weights] for weights in ("bf16", "int8", "int4")
        } == like["gate"][key]
    assert {"samples": size.samples, "tokens": size.tokens}.items() <= like["calibration"].items()


def test_a_recipe_of_three_sections(project: Path) -> None:
    paths.recipe("mine").write_text(MINIMAL)
    loaded = recipe.load("mine")
    assert loaded.gate.mean_kl["int4"] == 0.3
    assert loaded.serve.max_model_len == 4096
    for weights in get_args(Weights):
        for limits in recipe.BY_WEIGHTS:
            assert (
                getattr(loaded.gate, limits)[weights] >= getattr(loaded.gate, limits)["bf16"]
                or limits == "top1_agreement"
            )


def test_what_is_not_known_makes_no_limit_milder(project: Path) -> None:
    paths.recipe("mine").write_text(MINIMAL.replace(", parameters: 623488", ""))
    strict = recipe.load("mine").gate
    for size in defaults.BY_SIZE:
        known = defaults.filled({"model": {"parameters": int(min(size.below, 1e12)) - 1}})["gate"]
        for key in recipe.BY_WEIGHTS:
            for weights, limit in getattr(strict, key).items():
                assert (
                    limit >= known[key][weights]
                    if key == "top1_agreement"
                    else limit <= known[key][weights]
                ), (key, weights)
    assert "strictest, since model.parameters is not given" in defaults.sentence(None, ["gate"])


def test_a_gate_of_its_own_has_as_many_windows_as_its_rare_damage_needs() -> None:
    """The largest model's windows are too few for the usual gate.rare, which its usual gate allows
    for."""
    assert defaults.filled({})["evaluate"]["perplexity"]["window"] == 2048
    assert defaults.filled({})["gate"]["rare"] == 0.022
    assert defaults.filled({"gate": {}})["evaluate"]["perplexity"]["window"] == 1024


@pytest.mark.parametrize("longest", [64, 512, 2048])
def test_lengths_follow_a_shorter_context(project: Path, longest: int) -> None:
    paths.recipe("mine").write_text(f"{MINIMAL}serve: {{max_model_len: {longest}}}\n")
    loaded = recipe.load("mine")
    assert loaded.evaluate.perplexity.window == longest // 2
    assert loaded.benchmark.prompt_tokens + loaded.benchmark.output_tokens <= longest


def test_the_index_writes_it_whole_and_a_default_that_changes_is_seen(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.recipe("mine").write_text(MINIMAL)
    assert index.write()
    index.check("mine")
    whole = paths.whole_recipe("mine")
    assert paths.settings("mine") == whole
    assert paths.settings("tiny") == paths.recipe("tiny")
    assert set(reading.yaml(whole, RecipeError)) == set(recipe.Recipe.model_fields) - {
        "goal"
    }  # which is no section
    assert "leaves out: evaluate, gate, serve, benchmark" in whole.read_text().splitlines()[0]
    rows = reading.yaml(index.PARAMS, RecipeError)
    assert (
        rows["recipes"]["mine"]["settings"]
        == rows["made"]["mine--ov-int4"]["settings"]
        == str(whole)
    )
    assert rows["recipes"]["tiny"]["settings"] == "recipes/tiny.yaml"
    monkeypatch.setattr(defaults, "LONGEST", 8192)
    with pytest.raises(
        RecipeError,
        match=r"recipes/whole/mine\.yaml: out of date with .*defaults\. Run: quantgate index",
    ):
        index.check("mine")
    index.check("tiny")
    assert index.write()
    assert "max_model_len: 8192" in whole.read_text()


def test_a_recipe_that_was_completed_has_no_second_file(project: Path) -> None:
    paths.recipe("mine").write_text(MINIMAL)
    index.write()
    paths.recipe("mine").write_text(paths.whole_recipe("mine").read_text())
    with pytest.raises(RecipeError, match="quantgate index"):
        index.check("mine")
    assert index.write()
    assert not paths.whole_recipe("mine").exists()
    index.check()


def test_a_missing_limit_of_a_section_that_is_there_is_still_asked_for(project: Path) -> None:
    paths.recipe("mine").write_text(f"{MINIMAL}gate: {{mean_kl: {{bf16: 0.01, int4: 0.3}}}}\n")
    with pytest.raises(RecipeError, match=r"gate\.perplexity_ratio: missing"):
        recipe.load("mine")


def test_an_audit_against_another_source_keeps_the_limits(project: Path) -> None:
    """Of the other source no number of parameters is known, and none is asked for."""
    paths.recipe("mine").write_text(MINIMAL)
    name = against.recipe_for("mine", Model(path="recipes/tiny/tasks"))
    assert name != "mine"
    found = recipe.load(name)
    assert (found.model.parameters, found.gate, found.evaluate) == (
        None,
        recipe.load("mine").gate,
        recipe.load("mine").evaluate,
    )


def test_plan_says_what_was_left_out(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def count(loaded: recipe.Recipe) -> dict[str, int | None]:
        print(f"plan.{loaded.name}: starting in environment 'openvino'")
        return dict.fromkeys(loaded.evaluate.tasks, 2500)

    monkeypatch.setattr(power, "count_items", count)
    hub = f"repo: owner/name, revision: {'a' * 40}"
    paths.recipe("mine").write_text(MINIMAL.replace("path: recipes/tiny/checkpoint", hub))
    index.write()
    assert cli.main(["plan", "mine"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Left out, and as usual for models below 0.3 billion parameters (see"
        " recipes/smollm2-135m-instruct.yaml): " in said
    )
    assert "evaluate, gate, serve, benchmark. Their values: recipes/whole/mine.yaml" in said
    assert cli.main(["plan", "mine", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["left_out"] == ["evaluate", "gate", "serve", "benchmark"]
    assert planned["settings"]["gate"]["mean_kl"]["int4"] == 0.3
    assert cli.main(["plan", "qwen3-0.6b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == []


def test_what_is_signed_of_a_short_recipe_is_the_file_that_a_bundle_carries(project: Path) -> None:
    paths.recipe("mine").write_text(MINIMAL)
    index.write()
    commit_all()
    sha256 = provenance.now("mine", "control").recipe_sha256
    carried = seals.evidence(opened.candidate("mine", "ov-int4"))["recipe.yaml"]
    assert hashlib.sha256(carried.read_bytes()).hexdigest() == sha256
    assert not provenance.now("mine", "control").revision.changed
    paths.whole_recipe("mine").write_text("")
    assert provenance.now("mine", "control").revision.changed == [str(paths.whole_recipe("mine"))]
