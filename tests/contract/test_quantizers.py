"""Every line of the quantizers' table that a CPU serves, made from the tiny checkpoint and put to its engine.

`make test` takes the lines in FAST, `make test-all` all of them. Each prints what it made.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import engines, layers, paths, process, quantizers
from pipeline.quantizers import refusal
from pipeline.quantizers.table import REFUSED, SERVED, Refused, Served
from pipeline.recipe import Variant
from tests.contract.conftest import TINY, run_probe

pytestmark = pytest.mark.engine
# The rest of the table's first lines are in the tiny recipe, which the integration tests run whole.
FAST = {("openvino", "int8", "int8"), ("compressed-tensors", "int8", "int8")}
# Between the engine's scores and those of the artifact's weights in float32: without and with quantized activations.
LIKELY = -8
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


def make(variant: Variant, tiny_run: Path, folder: Path) -> tuple[process.Finished, Path]:
    out = folder / "out"
    out.mkdir()
    base = tiny_run / paths.model("tiny", "ov-bf16") if quantizers.tool(variant) is quantizers.OPENVINO else None
    job = {
        "variant": variant.model_dump(),
        "checkpoint": str(TINY),
        "samples": str(tiny_run / paths.samples("tiny")),
        "exported": str(base) if base else None,
        "out": str(out),
    }
    return process.run(quantizers.tool(variant).environment, "quantize", job, folder), out


@pytest.mark.parametrize("line", LINES)
def test_it_is_made_and_served(line: Served, tiny_run: Path, tmp_path: Path) -> None:
    variant = Variant(engine=line.engine, quantizer=line.quantizer, weights=line.weights, **line.example)
    made, out = make(variant, tiny_run, tmp_path)
    print(f"{name(line)}: {made.value['stored_types']} in {made.wall_s:.0f} s")
    stored = "bf16" if quantizers.tool(variant).simulated else line.weights
    assert made.value["stored_types"] == {stored: len(layers.linear_shapes(TINY))}
    environment = engines.ENGINES[line.engine].environment
    errors = run_probe(environment, "weights", line.engine, str(out), line.weights, out=tmp_path / "errors.json")
    assert errors.keys() >= {f"{layer}.weight" for layer in layers.linear_shapes(TINY)}
    found = run_probe(environment, line.engine, str(out), out=tmp_path / "found.json")
    served, weights = (np.concatenate([np.array(row) for row in found[key]]) for key in ("scores", "weights"))
    apart = ENGINE_ACTIVATIONS_APART if "activations" in line.example else ENGINE_APART
    assert np.abs(served - weights)[weights > LIKELY].mean() < apart


def test_a_tied_output_projection_is_kept_with_the_embedding(tiny_run: Path, tmp_path: Path) -> None:
    """NNCF would compress it through the embedding, without a word; the job itself refuses an output that was not kept."""
    keep = ["lm_head", "first"]
    variant = Variant(engine="openvino", quantizer="openvino", weights="int4", group_size=64, keep=keep)
    made, _ = make(variant, tiny_run, tmp_path)
    assert made.value["stored_types"] == {"bf16": 7, "int4": 14}
    assert len(made.value["layers"]["kept"]) == 7


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: f"{line.quantizers[0]}-{'-'.join(line.when)}")
def test_what_is_not_served_is_refused_with_reason_and_remedy(line: Refused, project: Path) -> None:
    given = {key: values[0] if values else None for key, values in line.when.items()}
    variant = Variant.model_validate({"engine": line.engine, "quantizer": line.quantizers[0], "weights": "int4", **given})
    said = refusal.problem(variant, "cpu")
    assert line.why in said
    assert f"Use {line.use}." in said


def test_the_printed_table_is_the_documented_one(root: Path) -> None:
    from pipeline.quantizers import listing

    assert (root / "docs" / "quantizers.md").read_text() == listing.as_markdown() + "\n"


def test_every_example_is_what_its_own_line_allows() -> None:
    for line in SERVED:
        variant = Variant(engine=line.engine, quantizer=line.quantizer, weights=line.weights, **line.example)
        assert refusal.problem(variant, None) == "", json.dumps(line.example)
