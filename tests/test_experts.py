"""A mixture of experts: which of its matrices are layers, what is kept together, and what is told
of its calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ArtifactError, CheckpointError, RecipeError
from pipeline.formats import layers
from pipeline.quantizers import refusal
from pipeline.recipe import Variant
from pipeline.report.card import render
from pipeline.report.provenance import made
from pipeline.source import coverage
from pipeline.source.checkpoint import linear_shapes, output_layer
from tests import timed_summaries
from tests.build import write_safetensors

BLOCK = "model.layers.0.mlp"
EXPERTS = [
    f"{BLOCK}.experts.{number}.{part}_proj"
    for number in range(2)
    for part in ("down", "gate", "up")
]
ROUTED = {"model.layers.0.mlp.experts": [3, 0, 5], "model.layers.1.mlp.experts": [4, 4, 0]}


def write(folder: Path, extra: dict[str, np.ndarray] | None = None) -> Path:
    tensors = {f"{name}.weight": np.ones((32, 32)) for name in EXPERTS}
    tensors |= {
        f"{BLOCK}.gate.weight": np.ones((2, 32)),
        f"{BLOCK}.shared_expert_gate.weight": np.ones((1, 32)),
    }
    tensors |= extra or {}
    write_safetensors(
        folder / "model.safetensors", {name: ("F32", values) for name, values in tensors.items()}
    )
    return folder


def test_every_expert_is_a_layer_and_no_router_is(tmp_path: Path) -> None:
    assert linear_shapes(write(tmp_path)) == dict.fromkeys(sorted(EXPERTS), (32, 32))


def test_experts_in_one_tensor_are_refused_and_not_overlooked(tmp_path: Path) -> None:
    source = write(tmp_path, {f"{BLOCK}.experts.gate_up_proj": np.ones((2, 64, 32))})
    with pytest.raises(
        CheckpointError, match=r"gate_up_proj holds all experts in one tensor \[2, 64, 32\]"
    ):
        linear_shapes(source)


def test_experts_under_names_of_no_engine_are_missing(tmp_path: Path) -> None:
    """vllm-project/llm-compressor#2939: vLLM loads such a file and serves nonsense (MMLU 82.2 ->
    24.7)."""
    for name in ("source", "artifact"):
        (tmp_path / name).mkdir()
    fused = {
        f"{BLOCK}.experts.gate_up_proj_{part}": ("I32", np.zeros((2, 4, 64)))
        for part in ("packed", "scale", "shape")
    }
    kept = {
        f"{name}.weight": ("F32", np.ones((32, 32)))
        for name in EXPERTS
        if name.endswith("down_proj")
    }
    write_safetensors(tmp_path / "artifact" / "model.safetensors", fused | kept)
    with pytest.raises(ArtifactError, match=r"mlp.experts.0.gate_proj: missing"):
        layers.compare(
            layers.inspect(tmp_path / "artifact", "vllm"),
            write(tmp_path / "source"),
            {"int4", "bf16"},
        )


def test_a_quantized_router_is_an_error(tmp_path: Path) -> None:
    assert layers.inspect(write(tmp_path), "vllm").keys() == set(EXPERTS)
    packed = {
        "qweight": ("I32", np.zeros((4, 8))),
        "qzeros": ("I32", np.zeros((1, 1))),
        "scales": ("F16", np.ones((1, 8))),
    }
    write_safetensors(
        tmp_path / "model.safetensors",
        {f"{BLOCK}.gate.{name}": value for name, value in packed.items()},
    )
    with pytest.raises(
        ArtifactError,
        match=r"routers of experts are not to be quantized: model.layers.0.mlp.gate \(int4\)",
    ):
        layers.inspect(tmp_path, "vllm")


def test_vllm_keeps_all_experts_of_a_block_or_none(tmp_path: Path) -> None:
    source = write(tmp_path, {"model.layers.0.self_attn.o_proj.weight": np.ones((32, 32))})
    asked = {"engine": "vllm", "quantizer": "gptq", "weights": "int4", "group_size": 32}
    with pytest.raises(
        RecipeError, match=r"vLLM fuses .*experts.0.down_proj with .*experts.1.down_proj"
    ):
        refusal.refuse_shapes(
            Path("r.yaml"),
            "v",
            Variant.model_validate({**asked, "keep": ["*.experts.0.*"]}),
            source,
        )
    refusal.refuse_shapes(
        Path("r.yaml"), "v", Variant.model_validate({**asked, "keep": ["*.experts.*"]}), source
    )


def test_the_output_projection_of_gpt_neox(tmp_path: Path) -> None:
    assert output_layer(write(tmp_path)) == "lm_head"
    assert output_layer(write(tmp_path, {"embed_out.weight": np.ones((8, 32))})) == "embed_out"


def test_experts_without_a_calibration_token_are_named() -> None:
    assert coverage.unseen(ROUTED) == [
        "model.layers.0.mlp.experts.1",
        "model.layers.1.mlp.experts.2",
    ]
    assert coverage.notes(ROUTED)[0].startswith(
        "No calibration token is sent to 2 of 6 experts: model.layers.0.mlp.experts.1, "
    )
    assert coverage.notes({"model.layers.0.mlp.experts": [1, 1]}) == []
    assert coverage.notes({}) == []


def test_page_and_card_show_the_tokens_of_each_expert() -> None:
    rows = timed_summaries.variants()
    rows["gptq-int4"]["manifest"]["coverage"] = ROUTED
    found = timed_summaries.summary(rows)
    table = next(table for table in made(found.variants["gptq-int4"]) if "expert" in table.caption)
    assert [cell.text for cell in table.rows[0]] == ["model.layers.0.mlp.experts", "3, 0, 5"]
    assert not [table for table in made(found.variants["awq-int4"]) if "expert" in table.caption]
    assert "| calibration tokens that an expert is sent | 0 to 5 |" in render(found, "gptq-int4")
    assert "that an expert is sent" not in render(found, "awq-int4")


def test_a_family_that_is_not_served_is_refused_with_reason_and_remedy(tmp_path: Path) -> None:
    from pipeline.quantizers.families import UNSERVED

    for line in UNSERVED:
        for family in line.models:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
            given = {key: values[0] if values else None for key, values in line.when.items()}
            asked = {
                "engine": line.engine,
                "quantizer": [*line.quantizers, "openvino"][0],
                "weights": "int4",
                **given,
            }
            with pytest.raises(RecipeError) as error:
                refusal.refuse_model(
                    Path("r.yaml"), "v", Variant.model_validate(asked), tmp_path, line.devices[0]
                )
            assert f"r.yaml: variants.v: the model's family is {family!r}; {line.why}" in str(
                error.value
            )
            assert f"Use {line.use}." in str(error.value)
