"""Every line of the quantizers' table that a CPU serves, made from the tiny checkpoint and put to
its engine.

`make test` takes the lines in FAST, `make test-all` all of them. Each prints what it made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import engines, paths, quantizers
from pipeline.engines.host import lacks
from pipeline.formats import layers
from pipeline.quantizers import refusal
from pipeline.quantizers.table import REFUSED, SERVED, Refused, Served
from pipeline.recipe import Serve, Variant
from pipeline.records import artifact
from pipeline.runtime import process
from tests.conftest import ROOT
from tests.contract.conftest import TINY, run_probe

pytestmark = pytest.mark.engine
# The rest of the table's first lines are in the tiny recipe, which the integration tests run whole.
FAST = (
    "openvino-int8-openvino-activations=int8-smooth_quant=0.8",
    "openvino-int4-openvino-awq=True-lora_correction=False-keep=first-int8_layers=*.down_proj",
    "compressed-tensors-int4-vllm-method=gptq-group_size=64-symmetric=True-int8_layers=last-keep=first",
    "compressed-tensors-int8-vllm-activations=int8-smooth_quant=0.8",
)
FAST_AGAIN = FAST[:1]  # making another one twice takes a minute
OF_TESTS = (".hypothesis", ".pytest_cache")
IN_A_BLOCK, BLOCKS = 7, 3  # layers of the tiny checkpoint
# Between the engine's scores and those of the artifact's weights in float32: without and with
# quantized activations.
LIKELY = -8
FLOATS = {"bf16": "bfloat16", "f32": "float32"}  # as a recipe says it, and as the plug-in does
ENGINE_APART, ENGINE_ACTIVATIONS_APART = 0.12, 0.5


Asked = dict[str, Any]  # what a recipe says of a variant
EXAMPLES = [(line, asked) for line in SERVED for asked in line.asked()]


def name(asked: Asked) -> str:
    who = (asked["quantizer"], asked["weights"], asked["engine"])
    settings = {
        key: value for key, value in asked.items() if key not in ("quantizer", "weights", "engine")
    }
    return "-".join(
        [
            *who,
            *(
                f"{key}={','.join(value) if isinstance(value, list) else value}"
                for key, value in settings.items()
            ),
        ]
    )


def examples(fast: Collection[str]) -> list[Any]:
    return [
        pytest.param(
            line, asked, id=name(asked), marks=() if name(asked) in fast else pytest.mark.thorough
        )
        for line, asked in EXAMPLES
    ]


Made = Callable[[Asked], tuple[process.Finished, Path]]


def hashes(folder: Path) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.hash_files(folder)}


def make(variant: Variant, tiny_untouched: Path, folder: Path) -> tuple[process.Finished, Path]:
    out = folder / "out"
    out.mkdir()
    base = (
        tiny_untouched / paths.model("tiny", "ov-bf16")
        if quantizers.tool(variant) is quantizers.OPENVINO
        else None
    )
    job = quantizers.job(variant, TINY, tiny_untouched / paths.samples("tiny"), base, out)
    return process.run(quantizers.tool(variant).environment, "quantize", job, folder), out


@pytest.fixture(scope="session")
def made(tiny_untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An example, made once for all tests that look at it."""
    found: dict[str, tuple[process.Finished, Path]] = {}

    def get(asked: Asked) -> tuple[process.Finished, Path]:
        if name(asked) not in found:
            found[name(asked)] = make(
                Variant.model_validate(asked), tiny_untouched, tmp_path_factory.mktemp("made")
            )
        return found[name(asked)]

    return get


def require_weights(variant: Variant, out: Path, folder: Path) -> None:
    """The weights are the source's."""
    environment = engines.ENGINES[variant.engine].environment
    errors = run_probe(
        environment,
        "weights",
        variant.engine,
        str(out),
        variant.model_dump_json(),
        out=folder / "errors.json",
    )
    assert errors.keys() >= {f"{layer}.weight" for layer in layers.linear_shapes(TINY)}


def require_served(variant: Variant, out: Path, folder: Path) -> None:
    """The weights are the source's, and the engine's scores are those of the weights."""
    require_weights(variant, out, folder)
    environment = engines.ENGINES[variant.engine].environment
    found = run_probe(environment, variant.engine, str(out), out=folder / "found.json")
    served, weights = (
        np.concatenate([np.array(row) for row in found[key]]) for key in ("scores", "weights")
    )
    apart = (
        ENGINE_ACTIVATIONS_APART
        if variant.activations or (variant.engine == "vllm" and variant.int8_layers)
        else ENGINE_APART
    )
    assert np.abs(served - weights)[weights > LIKELY].mean() < apart


def require_layers(variant: Variant, made: process.Finished) -> None:
    """Each layer has the width that was asked for it; `ratio` leaves open which ones have the
    other."""
    counted, stored = made.value["layers"], made.value["stored_types"]
    kept = IN_A_BLOCK * len(variant.keep or [])
    assert (len(counted["kept"]), counted["skipped"]) == (kept, [])
    if variant.int8_layers:
        assert counted["int8"] and all(
            ".down_proj" in layer or ".layers.2." in layer for layer in counted["int8"]
        )
        assert len(counted["int8"]) == (
            IN_A_BLOCK if variant.int8_layers == ["last"] else BLOCKS - 1
        )
    widths = {"bf16": kept, "int8": len(counted["int8"])}
    of_all = "bf16" if quantizers.tool(variant).simulated else variant.weights
    widths[of_all] = widths.get(of_all, 0) + IN_A_BLOCK * BLOCKS - sum(widths.values())
    if variant.ratio is None:
        assert stored == {width: layers for width, layers in widths.items() if layers}
    else:
        other = "bf16" if variant.backup == "none" else "int8"
        assert stored.keys() == {variant.weights, other}
        assert sum(stored.values()) == IN_A_BLOCK * BLOCKS


def folders() -> set[Path]:
    """Without those of other tests, which run beside these."""
    return {path for path in ROOT.iterdir() if path.is_dir() and path.name not in OF_TESTS}


@pytest.mark.parametrize(("line", "asked"), examples(FAST))
def test_it_is_made_and_served(line: Served, asked: Asked, made: Made, tmp_path: Path) -> None:
    """What only a GPU serves, or another processor, is made of the source's weights."""
    variant, before = Variant.model_validate(asked), folders()
    finished, out = made(asked)
    assert folders() == before, "a tool left one of its own"
    print(f"{name(asked)}: {finished.value['stored_types']} in {finished.wall_s:.0f} s")
    require_layers(variant, finished)
    served = "cpu" in line.devices and lacks(variant, Serve(max_model_len=64)) is None
    require = require_served if served else require_weights
    require(variant, out, tmp_path)


@pytest.mark.parametrize(("line", "asked"), examples(FAST_AGAIN))
def test_made_again_it_is_the_same_but_for_what_the_table_says(
    line: Served, asked: Asked, made: Made, tiny_untouched: Path, tmp_path: Path
) -> None:
    again = make(Variant.model_validate(asked), tiny_untouched, tmp_path)
    first, second = (hashes(out) for _, out in (made(asked), again))
    differ = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    print(f"{name(asked)}: {len(second)} files, made again differ {sorted(differ) or 'none'}")
    assert differ == line.varies.keys()


def test_settings_of_generation_that_do_nothing_stop_no_tool(
    tiny_untouched: Path, tmp_path: Path
) -> None:
    """A temperature without do_sample, which transformers reads and would not write."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(TINY, source)
    out.mkdir()
    given = '{"eos_token_id": 1, "temperature": 0.6, "top_p": 0.9}'
    (source / "generation_config.json").write_text(given)
    asked = {
        "quantizer": "compressed-tensors",
        "weights": "int4",
        "engine": "vllm",
        "method": "rtn",
        "group_size": 64,
    }
    job = quantizers.job(
        Variant.model_validate(asked), source, tiny_untouched / paths.samples("tiny"), None, out
    )
    process.run("compressed", "quantize", job, tmp_path)
    assert (out / "generation_config.json").read_text() == given


def test_smooth_quant_that_the_recipe_leaves_out_is_recorded(
    tiny_untouched: Path, tmp_path: Path
) -> None:
    """NNCF smooths anyhow."""
    variant = Variant(engine="openvino", quantizer="openvino", weights="int8", activations="int8")
    made, _ = make(variant, tiny_untouched, tmp_path)
    assert made.value["resolved"]["smooth_quant_alpha"] == 0.95


def test_a_tied_output_projection_is_kept_with_the_embedding(
    tiny_untouched: Path, tmp_path: Path
) -> None:
    """NNCF would compress it through the embedding, without a word; the job itself refuses an
    output that was not kept."""
    keep = ["lm_head", "first"]
    variant = Variant(
        engine="openvino", quantizer="openvino", weights="int4", group_size=64, keep=keep
    )
    made, _ = make(variant, tiny_untouched, tmp_path)
    assert made.value["stored_types"] == {"bf16": 7, "int4": 14}
    assert len(made.value["layers"]["kept"]) == 7


@pytest.mark.parametrize(
    "line", REFUSED, ids=lambda line: f"{line.quantizers[0]}-{'-'.join(line.when)}"
)
def test_what_is_not_served_is_refused_with_reason_and_remedy(line: Refused, project: Path) -> None:
    given = {key: values[0] if values else ["last"] for key, values in line.when.items()}
    variant = Variant.model_validate(
        {"weights": "int4", "engine": line.engine, "quantizer": line.quantizers[0], **given}
    )
    said = refusal.problem(variant, "cpu")
    assert line.why in said
    assert f"Use {line.use}." in said


def test_the_kv_cache_of_a_quantized_variant_has_the_precision_asked_for(
    tiny_untouched: Path, tmp_path: Path
) -> None:
    """Eight bits, and the type that the plug-in computes in on this machine: it takes no other
    float for a cache."""
    folder = str(tiny_untouched / paths.model("tiny", "ov-int4"))
    eight = run_probe("openvino", "cache", "openvino", folder, "u8", out=tmp_path / "u8.json")
    computes = next(
        name for name in FLOATS if FLOATS[name] in eight["settings"]["inference_precision_hint"]
    )
    whole = run_probe(
        "openvino", "cache", "openvino", folder, computes, out=tmp_path / "whole.json"
    )
    assert "uint8" in eight["settings"]["kv_cache_precision"]
    assert FLOATS[computes] in whole["settings"]["kv_cache_precision"]
    scores = [np.concatenate(found["scores"]) for found in (eight, whole)]
    apart = np.abs(scores[0] - scores[1])[scores[1] > LIKELY]
    assert 0 < apart.mean() < ENGINE_APART  # another cache is used, and it is the same model


def test_the_printed_table_is_the_documented_one(root: Path) -> None:
    from pipeline.quantizers import listing

    assert (root / "docs" / "quantizers.md").read_text() == listing.as_markdown() + "\n"
    assert "None." not in dict(listing.settings()).values(), "a setting has no description"


@pytest.mark.parametrize(
    ("line", "asked"), EXAMPLES, ids=lambda given: name(given) if isinstance(given, dict) else ""
)
def test_every_example_is_what_its_own_line_allows(line: Served, asked: Asked) -> None:
    assert refusal.problem(Variant.model_validate(asked), None) == ""
    assert asked.keys() - {"engine", "quantizer", "weights"} <= line.settings.keys()


@pytest.mark.parametrize("line", SERVED, ids=lambda line: name(line.asked()[0]))
def test_every_value_of_a_line_is_in_one_of_its_examples(line: Served) -> None:
    variants = [Variant.model_validate(asked) for asked in line.asked()]
    for key, values in line.settings.items():
        given = [
            variant.groups_of if key == "group_size" else getattr(variant, key)
            for variant in variants
        ]
        assert [value for value in values or () if value not in given] == []
        assert any(value is not None for value in given)


def test_the_fast_ones_are_in_the_table() -> None:
    assert set(FAST) <= {name(asked) for _, asked in EXAMPLES}
