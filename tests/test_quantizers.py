"""Which layers a recipe keeps in 16 bits, by the words that it has for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import quantizers
from pipeline.errors import ArtifactError, RecipeError
from pipeline.formats.layers import Layer, compare, share
from pipeline.quantizers import listing, refusal
from pipeline.quantizers.table import SERVED
from pipeline.recipe import Variant
from tests.build import write_safetensors

BLOCKS = 3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = [
        f"model.layers.{block}.{part}.weight"
        for block in range(BLOCKS)
        for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    write_safetensors(
        tmp_path / "model.safetensors", {name: ("F32", np.zeros((32, 32))) for name in names}
    )
    return tmp_path


def variant(*keep: str) -> Variant:
    return Variant(engine="vllm", quantizer="gptq", weights="int4", group_size=32, keep=list(keep))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (["first"], ["model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"]),
        (
            ["last", "lm_head"],
            ["model.layers.2.mlp.down_proj", "model.layers.2.self_attn.q_proj", "lm_head"],
        ),
        (["*.1.mlp.*"], ["model.layers.1.mlp.down_proj"]),
        (
            ["*.down_proj", "first"],
            [
                *(f"model.layers.{n}.mlp.down_proj" for n in range(3)),
                "model.layers.0.self_attn.q_proj",
            ],
        ),
    ],
)
def test_the_words_for_layers(source: Path, keep: list[str], expected: list[str]) -> None:
    assert quantizers.keeping(variant(*keep), source) == expected


def test_a_word_for_no_layer_is_an_error_before_any_work(source: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=(
            r"r.yaml: variants.v.keep: found '\*.up_proj', which no layer is called; expected"
            r" 'first'"
        ),
    ):
        refusal.refuse_shapes(Path("r.yaml"), "v", variant("*.up_proj"), source)
    with pytest.raises(RecipeError, match=r"found 'firts'.* Did you mean 'first'\?"):
        refusal.refuse_shapes(Path("r.yaml"), "v", variant("firts"), source)


def test_half_of_what_vllm_fuses_is_refused(tmp_path: Path) -> None:
    names = [
        f"model.layers.0.self_attn.{part}.weight"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj")
    ]
    write_safetensors(
        tmp_path / "model.safetensors", {name: ("F32", np.zeros((32, 32))) for name in names}
    )
    with pytest.raises(
        RecipeError,
        match=r"vLLM fuses .*q_proj with .*k_proj, .*v_proj, so that all of them are named or none",
    ):
        refusal.refuse_shapes(Path("r.yaml"), "v", variant("*.q_proj"), tmp_path)
    three = [f"*.{part}" for part in ("q_proj", "k_proj", "v_proj")]
    refusal.refuse_shapes(Path("r.yaml"), "v", variant(*three), tmp_path)
    whole = Variant(
        engine="vllm",
        quantizer="compressed-tensors",
        weights="int8",
        activations="int8",
        keep=["*.q_proj"],
    )
    with pytest.raises(RecipeError, match=r"vLLM fuses .*q_proj"):
        refusal.refuse_shapes(Path("r.yaml"), "v", whole, tmp_path)


def test_what_another_device_serves_is_refused_with_the_way_there() -> None:
    fp8 = Variant(engine="vllm", quantizer="compressed-tensors", weights="fp8", activations="fp8")
    assert (
        "(vLLM runs on 'cpu' here; with QUANTGATE_DEVICE=cuda on 'cuda'). Use weights int8"
        in refusal.problem(fp8, "cpu")
    )
    assert refusal.problem(fp8, "cuda") == ""
    assert "QUANTGATE_DEVICE" not in refusal.problem(
        fp8.model_copy(update={"weights": "nf4"}), "cpu"
    )


def test_a_recipe_that_leaves_nothing_to_quantize_is_refused(source: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"v.keep: found \['\*'\], which leaves none of 6 layers for int4"
    ):
        refusal.refuse_shapes(Path("r.yaml"), "v", variant("*"), source)
    with pytest.raises(
        RecipeError, match=r"v.int8_layers: found \['\*'\], which leaves none of 6 layers for int4"
    ):
        refusal.refuse_shapes(Path("r.yaml"), "v", mixed("*"), source)


def mixed(*int8: str, keep: list[str] | None = None) -> Variant:
    return Variant(
        engine="vllm",
        quantizer="compressed-tensors",
        weights="int4",
        int8_layers=list(int8),
        keep=keep,
    )


def test_the_same_words_name_the_layers_in_8_bits(source: Path) -> None:
    assert quantizers.in_int8(mixed("last"), source) == quantizers.keeping(variant("last"), source)
    assert quantizers.in_int8(variant("last"), source) == []


def test_what_is_kept_goes_before_what_gets_8_bits(source: Path) -> None:
    found = quantizers.in_int8(mixed("*.down_proj", keep=["first"]), source)
    assert found == ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]


def test_the_output_projection_is_no_layer_for_8_bits(source: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=(
            r"int8_layers: found 'lm_head', which no layer is called; expected 'first', 'last' or"
        ),
    ):
        quantizers.in_int8(mixed("lm_head"), source)


def test_half_of_what_vllm_fuses_in_8_bits_is_refused(tmp_path: Path) -> None:
    names = [f"model.layers.0.mlp.{part}.weight" for part in ("gate_proj", "up_proj")]
    write_safetensors(
        tmp_path / "model.safetensors", {name: ("F32", np.zeros((128, 128))) for name in names}
    )
    with pytest.raises(
        RecipeError,
        match=(
            r"v.int8_layers: vLLM fuses .*up_proj with .*gate_proj, so that all of them are named"
        ),
    ):
        refusal.refuse_shapes(Path("r.yaml"), "v", mixed("*.up_proj"), tmp_path)


def test_layers_in_8_bits_are_counted_apart_and_nothing_else_does(source: Path) -> None:
    names = [
        f"model.layers.{n}.{part}"
        for n in range(BLOCKS)
        for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    int8 = frozenset(name for name in names if name.endswith("down_proj"))
    found = {name: Layer("int8" if name in int8 else "int4", (32, 32)) for name in names}
    counted = compare(found, source, {"int4"}, int8=int8)
    assert (counted.quantized, counted.skipped, counted.int8) == (6, [], sorted(int8))
    assert share({name: layer for name, layer in found.items() if name not in int8}, "int4") == 1
    for wrong in ("int4", "bf16"):
        found["model.layers.1.mlp.down_proj"] = Layer(wrong, (32, 32))
        with pytest.raises(
            ArtifactError,
            match=rf"layers.1.mlp.down_proj: stored in {wrong}, the recipe wants int8",
        ):
            compare(found, source, {"int4"}, int8=int8)
    assert compare(found, source, {"int4", "bf16"}).skipped == [
        f"{name} (int8)" for name in sorted(int8) if ".1." not in name
    ]


def test_a_layer_that_was_to_be_kept_and_was_not_is_an_error(source: Path) -> None:
    found = {
        f"model.layers.{n}.{part}": Layer("int4", (32, 32))
        for n in range(3)
        for part in ("self_attn.q_proj", "mlp.down_proj")
    }
    kept = frozenset({"model.layers.0.mlp.down_proj"})
    with pytest.raises(
        ArtifactError, match=r"down_proj: stored in int4, the recipe keeps it in 16 bits"
    ):
        compare(found, source, {"int4"}, kept)
    found["model.layers.0.mlp.down_proj"] = Layer("bf16", (32, 32))
    counted = compare(found, source, {"int4"}, kept)
    assert (counted.expected, counted.quantized, counted.skipped, counted.kept) == (
        6,
        5,
        [],
        ["model.layers.0.mlp.down_proj"],
    )


def test_the_table_prints_what_differs_when_made_again() -> None:
    varying = replace(SERVED[0], varies={"config.json": "a path", "log": "timings"})
    assert listing._served(varying)[-1] == "config.json: a path; log: timings"
    assert listing._served(SERVED[0])[-1] == "same bytes"
