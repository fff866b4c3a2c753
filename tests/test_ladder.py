"""Ladders: what a rung says, the order in which rungs are tried, and which rung a recipe stands
for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import paths
from pipeline.capabilities import ENGINES
from pipeline.errors import RecipeError
from pipeline.evidence import opened
from pipeline.gate import limits, texts
from pipeline.recipe import Variant, load, rungs
from pipeline.recipe.ladder import bits_per_weight, words
from pipeline.records import Climb, Step, VariantSummary
from pipeline.report import card, provenance
from pipeline.stages.climb.rung import MAKES, MEASURES
from tests import timed_summaries
from tests.conftest import ROOT
from tests.timed_summaries import manifest

OV = {"engine": "openvino"}
THE_ISSUES = ["int4 g128", "int4 g64", "int4 g64 ratio 0.8", "awq+se", "int8"]


def settings(variant: Variant) -> dict[str, object]:
    return {"quantizer": variant.quantizer, "weights": variant.weights, **variant.settings()}


def test_words_are_a_variants_own_settings() -> None:
    found = rungs(Variant(**OV, keep=["last"], ladder=THE_ISSUES))
    common = {"quantizer": "openvino", "weights": "int4", "keep": ["last"]}
    assert [settings(rung) for rung in found] == [
        common | {"group_size": 128},
        common | {"group_size": 64},
        common | {"group_size": 64, "ratio": 0.8},
        common | {"awq": True, "scale_estimation": True},
        common | {"weights": "int8"},
    ]


def test_a_mapping_and_its_words_are_the_same_rung() -> None:
    line = "int8 activations int8 smooth_quant 0.8 sym"
    mapping = {"weights": "int8", "activations": "int8", "smooth_quant": 0.8, "symmetric": True}
    by_words, by_mapping = rungs(Variant(**OV, ladder=[line, mapping]))
    assert by_words == by_mapping
    assert words(by_words) == "openvino int8 activations int8 symmetric smooth_quant 0.8"


def test_for_vllm_awq_and_gptq_are_quantizers() -> None:
    found = rungs(
        Variant(
            engine="vllm",
            ladder=["gptq g-1 desc_act", "awq g64", "compressed-tensors int8 activations int8"],
        )
    )
    assert [rung.quantizer for rung in found] == ["gptq", "awq", "compressed-tensors"]
    assert found[0].settings() == {"group_size": -1, "desc_act": True}


def test_the_smallest_is_tried_first_and_equal_ones_as_written() -> None:
    found = rungs(
        Variant(
            **OV,
            goal="smallest",
            ladder=["int8", "int4 g64", "int4 g128 awq", "int4 g64 ratio 0.5", "int4 g128 se"],
        )
    )
    assert [words(rung) for rung in found] == [
        "openvino int4 g128 awq",
        "openvino int4 g128 se",
        "openvino int4 g64",
        "openvino int4 g64 ratio 0.5",
        "openvino int8",
    ]
    assert [round(bits_per_weight(rung), 5) for rung in found] == [
        4.15625,
        4.15625,
        4.3125,
        6.15625,
        8.0,
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("goal", [None, "smallest", "fastest"])
def test_automatic_ladders_are_served(engine: str, goal: str | None, project: Path) -> None:
    recipe = Path("recipes/tiny.yaml")
    given = f", goal: {goal}" if goal else ""
    recipe.write_text(f"{recipe.read_text()}  small: {{engine: {engine}, ladder: auto{given}}}\n")
    found = rungs(opened.unclimbed("tiny").variants["small"])
    assert len(found) == len(ENGINES[engine].ladder) + (
        len(ENGINES[engine].faster) if goal == "fastest" else 0
    )


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        (
            "{engine: openvino, ladder: [int4 g128, int4 gx]}",
            "variants.small.ladder: gx int4: quantizer: found 'gx'",
        ),
        (
            "{engine: openvino, ladder: [int4 g128, int4 gx]}",
            "A word of a rung that is neither a key nor its value is taken",
        ),
        (
            "{engine: openvino, ladder: [{wieghts: int4}]}",
            "{'wieghts': 'int4'}: wieghts: unknown key. Did you mean 'weights'?",
        ),
        ("{engine: openvino, ladder: [int4 ratio 80]}", "A fraction is expected: 0.8 for 80 %."),
        (
            "{engine: openvino, ladder: autoo}",
            "small.ladder: found 'autoo' (str), expected 'auto' or a list of rungs, for instance",
        ),
        (
            "{engine: openvino, ladder: []}",
            "small.ladder: found [] (list), expected 'auto' or a list of rungs, for instance [int4",
        ),
        (
            "{engine: openvino, ladder: [3]}",
            (
                "small.ladder: found [3] (list), expected 'auto' or a list of rungs, for instance"
                " [int4"
            ),
        ),
        (
            "{engine: openvino, ladder: [{weights: int3}]}",
            "rung 1, {'weights': 'int3'}: weights: found 'int3'",
        ),
        ("{engine: openvino, ladder: [{engine: vllm}]}", "engine is the same for all rungs"),
        (
            "{engine: openvino, weights: int4, ladder: auto}",
            "weights: found 'int4' beside a ladder",
        ),
        ("{engine: openvino, goal: smallest}", "goal: found 'smallest', which needs a ladder"),
        (
            "{engine: vllm, ladder: auto, quantizer: nonsense}",
            "quantizer: found 'nonsense' beside ladder: auto",
        ),
        (
            "{engine: vllm, ladder: [compressed-tensors gptq g64]}",
            "quantizer: found 'compressed-tensors' and 'gptq', expected one",
        ),
        (
            "{engine: openvino, ladder: [int4 g64 int8]}",
            "variants.small.ladder: rung 1, 'int4 g64 int8': weights: found 'int4'",
        ),
        (
            "{engine: vllm, ladder: [int4 g128]}",
            "rung 1, 'int4 g128': quantizer: missing, which 'vllm' has no usual one of",
        ),
        ("{engine: openvino, ladder: [ratio 2]}", "rung 1, 'ratio 2': ratio: found 2"),
        (
            "{engine: vllm, ladder: [gptq g128 asym]}",
            "variants.small.ladder: gptq int4 g128 symmetric false: symmetric: found false",
        ),
    ],
)
def test_an_impossible_ladder_is_refused_by_rung(variant: str, said: str, project: Path) -> None:
    recipe = Path("recipes/tiny.yaml")
    recipe.write_text(f"{recipe.read_text()}  small: {variant}\n")
    with pytest.raises(RecipeError) as error:
        opened.unclimbed("tiny")
    assert said in str(error.value)


def test_a_recipe_stands_for_the_rung_that_was_reached(project: Path) -> None:
    recipe = Path("recipes/tiny.yaml")
    recipe.write_text(
        f"{recipe.read_text()}  small: {{engine: openvino, ladder: [int4 g128, int4 g64, int8]}}\n"
    )
    first, second, _ = rungs(load("tiny").variants["small"])
    assert opened.recipe("tiny").variants["small"] == first
    path = paths.manifest("tiny", "small")
    climb = Climb(goal=None, steps=[], reached=second.model_dump())
    manifest("small", "openvino", "openvino", "int4", None).model_copy(
        update={"climb": climb}
    ).write(path)
    assert opened.recipe("tiny").variants["small"] == second
    other = Climb(
        goal=None, steps=[], reached=second.model_dump() | {"group_size": 32}
    )  # of a ladder before it was changed
    manifest("small", "openvino", "openvino", "int4", None).model_copy(
        update={"climb": other}
    ).write(path)
    assert opened.recipe("tiny").variants["small"] == first


def test_the_first_look_gives_up_only_where_the_bound_is_beyond_the_limit(project: Path) -> None:
    held_to = limits.of(load("tiny"), Variant(**OV, quantizer="openvino", weights="int4"))
    assert held_to.mean_kl == 0.02
    spread = [
        [0.01, 0.05],
        [0.03, 0.01],
        [0.02, 0.06],
        [0.0, 0.02],
    ]  # mean 0.025, and may well be less
    assert texts.first_look(spread, held_to)[1] == "INCONCLUSIVE"
    assert texts.first_look([[0.025, 0.0251]] * 3 + [[0.0249, 0.025]], held_to)[1] == "FAIL"
    assert texts.first_look([[0.001, 0.002]] * 4, held_to)[1] == "PASS"
    assert texts.first_look([[float("nan"), 0.0]] * 4, held_to)[1] == "FAIL"


def test_report_and_card_show_the_way() -> None:
    first = Step(
        rung="openvino int4 g128",
        status="FAIL at first look",
        reason="mean KL is 0.5",
        size_bytes=2_000_000,
        mean_kl=0.5,
        mean_kl_low=0.4,
        mean_kl_limit=0.1,
    )
    last = Step(
        rung="openvino int8",
        status="PASS",
        reason="all checks passed",
        size_bytes=3_000_000,
        mean_kl=0.001,
    )
    rows = timed_summaries.variants()
    rows["ov-int8"]["manifest"]["climb"] = Climb(
        goal="smallest", steps=[first, last], reached={}
    ).model_dump(mode="json")
    table = provenance.made(VariantSummary.model_validate(rows["ov-int8"]))[0]
    assert table.caption == "Way up the ladder, the smallest first"
    assert [[cell.text for cell in row][:4] for row in table.rows] == [
        ["openvino int4 g128", "FAIL at first look", "2 MB", "0.5"],
        ["openvino int8", "PASS", "3 MB", "0.001"],
    ]
    assert "openvino int4 g128: FAIL at first look; then openvino int8: PASS" in card.render(
        timed_summaries.summary(rows), "ov-int8"
    )


def test_a_rung_rests_on_the_code_that_dvc_names() -> None:
    """What a rung's folders are named by is what DVC has for quantize and evaluate, and climb
    depends on all of it."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]

    def code(stage: str) -> list[str]:
        return [dep for dep in stages[stage]["do"]["deps"] if dep.startswith("pipeline/")]

    def outside(deps: Sequence[str], known: Sequence[str]) -> list[str]:
        return [
            dep
            for dep in deps
            if not any(dep == part or dep.startswith(f"{part}/") for part in known)
        ]

    assert not outside(code("quantize"), MAKES)
    assert not outside(code("evaluate"), MEASURES)
    assert not outside((*MAKES, *MEASURES), code("climb"))
