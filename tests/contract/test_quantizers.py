"""Every line of the quantizers' table that a CPU serves, made from the tiny checkpoint and put to its engine.

`make test` takes the lines in FAST, `make test-all` all of them. Each prints what it made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import artifact, engines, layers, paths, process, quantizers
from pipeline.quantizers import refusal
from pipeline.quantizers.table import REFUSED, SERVED, Refused, Served
from pipeline.recipe import Variant
from tests.contract.conftest import TINY, run_probe

pytestmark = pytest.mark.engine
# The rest of the table's first lines are in the tiny recipe, which the integration tests run whole.
FAST = {("openvino", "int8", "int8"), ("compressed-tensors", "int8", "int8")}
# Between the engine's scores and those of the artifact's weights in float32: without and with quantized activations.
LIKELY = -8
FLOATS = {"bf16": "bfloat16", "f32": "float32"}  # as a recipe says it, and as the plug-in does
ENGINE_APART, ENGINE_ACTIVATIONS_APART = 0.12, 0.5


def name(line: Served) -> str:
    return "-".join([line.quantizer, line.weights, line.engine, *(f"{key}={value}" for key, value in line.example.items())])


def is_fast(line: Served) -> bool:
    return (line.quantizer, line.weights, line.example.get("activations")) in FAST


LINES = [
    pytest.param(line, id=name(line), marks=() if is_fast(line) else pytest.mark.thorough)
    for line in SERVED
    if "cpu" in line.devices
]


AGAIN = [
    pytest.param(line, id=name(line), marks=() if (line.engine, is_fast(line)) == ("openvino", True) else pytest.mark.thorough)
    for line in SERVED
    if "cpu" in line.devices and line.varies is not None
]
Made = Callable[[Served], tuple[process.Finished, Path]]


def variant_of(line: Served) -> Variant:
    return Variant.model_validate(line.asked())


def hashes(folder: Path) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.hash_files(folder)}


def make(variant: Variant, tiny_untouched: Path, folder: Path) -> tuple[process.Finished, Path]:
    out = folder / "out"
    out.mkdir()
    base = tiny_untouched / paths.model("tiny", "ov-bf16") if quantizers.tool(variant) is quantizers.OPENVINO else None
    job = quantizers.job(variant, TINY, tiny_untouched / paths.samples("tiny"), base, out)
    return process.run(quantizers.tool(variant).environment, "quantize", job, folder), out


@pytest.fixture(scope="session")
def made(tiny_untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A line's example, made once for all tests that look at it."""
    found: dict[str, tuple[process.Finished, Path]] = {}

    def get(line: Served) -> tuple[process.Finished, Path]:
        if name(line) not in found:
            found[name(line)] = make(variant_of(line), tiny_untouched, tmp_path_factory.mktemp("made"))
        return found[name(line)]

    return get


def require_weights(variant: Variant, out: Path, folder: Path) -> None:
    """The weights are the source's."""
    environment = engines.ENGINES[variant.engine].environment
    errors = run_probe(environment, "weights", variant.engine, str(out), variant.weights, out=folder / "errors.json")
    assert errors.keys() >= {f"{layer}.weight" for layer in layers.linear_shapes(TINY)}


def require_served(variant: Variant, out: Path, folder: Path) -> None:
    """The weights are the source's, and the engine's scores are those of the weights."""
    require_weights(variant, out, folder)
    environment = engines.ENGINES[variant.engine].environment
    found = run_probe(environment, variant.engine, str(out), out=folder / "found.json")
    served, weights = (np.concatenate([np.array(row) for row in found[key]]) for key in ("scores", "weights"))
    apart = ENGINE_ACTIVATIONS_APART if variant.activations or (variant.engine == "vllm" and variant.int8_layers) else ENGINE_APART
    assert np.abs(served - weights)[weights > LIKELY].mean() < apart


@pytest.mark.parametrize("line", LINES)
def test_it_is_made_and_served(line: Served, made: Made, tmp_path: Path) -> None:
    variant = variant_of(line)
    finished, out = made(line)
    print(f"{name(line)}: {finished.value['stored_types']} in {finished.wall_s:.0f} s")
    stored = "bf16" if quantizers.tool(variant).simulated else line.weights
    assert finished.value["stored_types"] == {stored: len(layers.linear_shapes(TINY))}
    require_served(variant, out, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("line", [line for line in SERVED if "cpu" not in line.devices], ids=name)
def test_what_only_a_gpu_serves_is_made_of_the_sources_weights(line: Served, made: Made, tmp_path: Path) -> None:
    finished, out = made(line)
    print(f"{name(line)}: {finished.value['stored_types']} in {finished.wall_s:.0f} s")
    assert finished.value["stored_types"] == {line.weights: len(layers.linear_shapes(TINY))}
    require_weights(variant_of(line), out, tmp_path)


@pytest.mark.parametrize("line", AGAIN)
def test_made_again_it_is_the_same_but_for_what_the_table_says(
    line: Served, made: Made, tiny_untouched: Path, tmp_path: Path
) -> None:
    first, second = (hashes(out) for _, out in (made(line), make(variant_of(line), tiny_untouched, tmp_path)))
    differ = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    print(f"{name(line)}: {len(second)} files, made again differ {sorted(differ) or 'none'}")
    assert differ == set(line.varies or ())


def test_a_tied_output_projection_is_kept_with_the_embedding(tiny_untouched: Path, tmp_path: Path) -> None:
    """NNCF would compress it through the embedding, without a word; the job itself refuses an output that was not kept."""
    keep = ["lm_head", "first"]
    variant = Variant(engine="openvino", quantizer="openvino", weights="int4", group_size=64, keep=keep)
    made, _ = make(variant, tiny_untouched, tmp_path)
    assert made.value["stored_types"] == {"bf16": 7, "int4": 14}
    assert len(made.value["layers"]["kept"]) == 7


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: f"{line.quantizers[0]}-{'-'.join(line.when)}")
def test_what_is_not_served_is_refused_with_reason_and_remedy(line: Refused, project: Path) -> None:
    given = {key: values[0] if values else ["last"] for key, values in line.when.items()}
    variant = Variant.model_validate({"weights": "int4", "engine": line.engine, "quantizer": line.quantizers[0], **given})
    said = refusal.problem(variant, "cpu")
    assert line.why in said
    assert f"Use {line.use}." in said


MIXED = [
    Variant(engine="openvino", quantizer="openvino", weights="int4", awq=True, int8_layers=["*.down_proj"], keep=["first"]),
    Variant(engine="vllm", quantizer="compressed-tensors", weights="int4", int8_layers=["last"], keep=["first"]),
]


@pytest.mark.parametrize("variant", MIXED, ids=lambda variant: variant.quantizer)
def test_layers_of_another_width_are_counted_and_served(variant: Variant, tiny_untouched: Path, tmp_path: Path) -> None:
    """Of 3 blocks of 7 layers each, one block is kept in 16 bits."""
    made, out = make(variant, tiny_untouched, tmp_path)
    eight = 2 if variant.engine == "openvino" else 7
    assert made.value["stored_types"] == {"bf16": 7, "int8": eight, "int4": 14 - eight}
    counted = made.value["layers"]
    assert (len(counted["kept"]), len(counted["int8"]), counted["quantized"], counted["skipped"]) == (7, eight, 14, [])
    assert all("down_proj" in layer or ".layers.2." in layer for layer in counted["int8"])
    require_served(variant, out, tmp_path)


def test_the_kv_cache_of_a_quantized_variant_has_the_precision_asked_for(tiny_untouched: Path, tmp_path: Path) -> None:
    """Eight bits, and the type that the plug-in computes in on this machine: it takes no other float for a cache."""
    folder = str(tiny_untouched / paths.model("tiny", "ov-int4"))
    eight = run_probe("openvino", "cache", "openvino", folder, "u8", out=tmp_path / "u8.json")
    computes = next(name for name in FLOATS if FLOATS[name] in eight["settings"]["inference_precision_hint"])
    whole = run_probe("openvino", "cache", "openvino", folder, computes, out=tmp_path / "whole.json")
    assert "uint8" in eight["settings"]["kv_cache_precision"]
    assert FLOATS[computes] in whole["settings"]["kv_cache_precision"]
    scores = [np.concatenate(found["scores"]) for found in (eight, whole)]
    apart = np.abs(scores[0] - scores[1])[scores[1] > LIKELY]
    assert 0 < apart.mean() < ENGINE_APART  # another cache is used, and it is the same model


def test_the_printed_table_is_the_documented_one(root: Path) -> None:
    from pipeline.quantizers import listing

    assert (root / "docs" / "quantizers.md").read_text() == listing.as_markdown() + "\n"


def test_every_example_is_what_its_own_line_allows() -> None:
    for line in SERVED:
        assert refusal.problem(variant_of(line), None) == "", json.dumps(line.example)
