"""What the files say about each layer's precision, and that a layer left out is an error."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import quantizers
from pipeline.errors import ArtifactError, CheckpointError, QuantizeError
from pipeline.formats import layers
from pipeline.recipe import Variant
from tests.build import write_checkpoint, write_safetensors

Q, D = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"


def gptq(rows: int, columns: int, group: int = 32) -> dict[str, tuple[str, np.ndarray]]:
    """The tensors of a GPTQ layer of shape [columns, rows]."""
    groups = rows // group
    return {
        "qweight": ("I32", np.zeros((rows // 8, columns))),
        "qzeros": ("I32", np.zeros((groups, columns // 8))),
        "scales": ("F16", np.ones((groups, columns))),
    }


def write_artifact(folder: Path, *, left_out: bool = False, **change: np.ndarray) -> Path:
    folder.mkdir()
    tensors = {f"{Q}.{name}": value for name, value in gptq(64, 64).items()}
    if left_out:
        tensors[f"{D}.weight"] = ("F32", np.ones((64, 128)))
    else:
        tensors |= {f"{D}.{name}": value for name, value in gptq(128, 64).items()}
    for name, values in change.items():
        tensors[f"{Q}.{name}"] = (tensors[f"{Q}.{name}"][0], values)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source")
    return tmp_path / "source"


def test_a_layer_that_is_stored_twice_is_an_error(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    packed = {f"{D}.{name}": value for name, value in gptq(128, 64).items()}
    write_safetensors(
        folder / "model.safetensors", packed | {f"{D}.weight": ("F32", np.ones((64, 128)))}
    )
    with pytest.raises(
        ArtifactError, match=r"1 layers are stored twice: model\.layers\.0\.mlp\.down_proj"
    ):
        layers.inspect(folder, "vllm")


def test_weights_that_only_vllm_would_load_are_an_error(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    write_safetensors(folder / "more.safetensors", {f"{D}.weight": ("F32", np.ones((64, 128)))})
    with pytest.raises(CheckpointError, match=r"more\.safetensors: no part of the model"):
        layers.inspect(folder, "vllm")


def test_gptq_and_awq_layouts_are_told_apart(tmp_path: Path, source: Path) -> None:
    found = layers.inspect(write_artifact(tmp_path / "a"), "vllm")
    assert found == {Q: layers.Layer("int4", (64, 64)), D: layers.Layer("int4", (64, 128))}
    awq = {
        "qweight": ("I32", np.zeros((128, 8))),
        "qzeros": ("I32", np.zeros((4, 8))),
        "scales": ("F16", np.ones((4, 64))),
    }
    (tmp_path / "b").mkdir()
    write_safetensors(
        tmp_path / "b" / "model.safetensors", {f"{D}.{name}": value for name, value in awq.items()}
    )
    assert layers.inspect(tmp_path / "b", "vllm") == {D: layers.Layer("int4", (64, 128))}


def test_complete_artifact_counts_as_quantized(tmp_path: Path, source: Path) -> None:
    counted = layers.compare(
        layers.inspect(write_artifact(tmp_path / "a"), "vllm"), source, {"int4"}
    )
    assert (counted.expected, counted.quantized, counted.skipped) == (2, 2, [])


def test_nan_scales_are_named(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "a", scales=np.full((2, 64), np.nan))
    with pytest.raises(ArtifactError, match=r"q_proj\.scales holds 128 NaN"):
        layers.inspect(artifact, "vllm")


def test_a_layer_of_another_shape_is_refused(tmp_path: Path, source: Path) -> None:
    artifact = write_artifact(tmp_path / "a", qweight=np.zeros((4, 64)))
    with pytest.raises(ArtifactError, match=r"q_proj: shape \[64, 32\], the source has \[64, 64\]"):
        layers.compare(layers.inspect(artifact, "vllm"), source, {"int4"})


def run_work(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow_skipped: int,
    quantizer: str = "gptq",
) -> dict[str, Any]:
    """The worker verb with a tool that leaves a layer out without a word."""

    def quantize(spec: quantizers.Spec, out: Path) -> quantizers.Outcome:
        write_artifact(out, left_out=True)
        said = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
        (out / "config.json").write_text(json.dumps({"quantization_config": said}))
        return quantizers.Outcome({})

    module = types.ModuleType("a_careless_tool")
    module.quantize = quantize  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_careless_tool", module)
    careless = replace(quantizers.TOOLS[quantizer], module="a_careless_tool", packages=("numpy",))
    monkeypatch.setitem(quantizers.TOOLS, quantizer, careless)
    samples = {
        "prompts": "p",
        "seed": 0,
        "prompts_used": 1,
        "sha256": "",
        "overlap": 0,
        "overlap_limit": 0,
        "ids": [],
    }
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    variant = Variant(
        engine="vllm", quantizer=quantizer, weights="int4", allow_skipped=allow_skipped
    )
    job = {"variant": variant.model_dump(), "checkpoint": str(source), "out": str(tmp_path / "out"),
           "samples": str(tmp_path / "samples.json"), "exported": None}  # fmt: skip
    return quantizers.work(job)


def test_a_silently_skipped_layer_is_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        QuantizeError,
        match=r"left 1 of 2 layers out of int4: model\.layers\.0\.mlp\.down_proj \(bf16\)",
    ):
        run_work(tmp_path, source, monkeypatch, allow_skipped=0)


def test_unless_the_recipe_allows_it(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_work(tmp_path, source, monkeypatch, allow_skipped=1)
    assert done["layers"]["quantized"] == 1
    assert done["stored_types"] == {"bf16": 1, "int4": 1}
    assert done["rounding"] == {
        "format": "gptq",
        "bits": 4,
        "group_size": 32,
        "symmetric": True,
        "outside": [],
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("auto-gptq", "refuses to quantize without CUDA"),
        ("autoawq", "writes broken models on a CPU"),
    ],
)
def test_the_manifest_says_who_answered_an_old_name_and_why(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    notes = run_work(tmp_path, source, monkeypatch, allow_skipped=1, quantizer=name)["notes"]
    assert len(notes) == 1
    assert why in notes[0]
    assert "GPTQModel, its maintained successor, made this artifact" in notes[0]
