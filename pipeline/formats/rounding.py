"""How the weights of an artifact were rounded, by its own files: config.json, or the constants of
an OpenVINO IR. Worker side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.capabilities import ENGINES, IR, SAFETENSORS
from pipeline.formats import layers
from pipeline.formats.layers import IR_LOW_BIT
from pipeline.formats.packing import KINDS, packing
from pipeline.records import Rounding
from pipeline.source.files import config

BITS = {"int2": 2, "int4": 4, "nf4": 4, "mxfp4": 4, "int8": 8, "fp8": 8}  # of a recipe's types
SYMMETRIC = ("i4", "i8", "nf4", "f4e2m1")  # IR types that have no zero-point


def read(artifact: Path, engine: str, weights: str) -> Rounding | None:
    """Of the layers stored as `weights`, a recipe's type; None where there are none. Raises
    ArtifactError for an unknown layout."""
    if weights == "bf16":
        return None
    return READERS[ENGINES[engine].artifact_format](artifact, weights)


def _of_config(artifact: Path, weights: str) -> Rounding | None:
    how = packing(artifact)
    if how is None:
        return None
    quantization = config(artifact)["quantization_config"]
    if how.method == "compressed-tensors":
        own = config_group(quantization, weights)
        if own is None:
            return None
        group, symmetric = (
            own["weights"].get("group_size") or -1,
            own["weights"].get("symmetric", True),
        )
    else:
        group = how.group_size
        symmetric = (
            not quantization["zero_point"]
            if "zero_point" in quantization
            else quantization.get("sym", how.method == "gptq")
        )
    return Rounding(
        format=how.method,
        bits=BITS[weights],
        group_size=group,
        symmetric=bool(symmetric),
        outside=layers.outside(artifact, "vllm"),
    )


def config_group(quantization: dict[str, Any], weights: str) -> dict[str, Any] | None:
    """The group of a compressed-tensors quantization_config whose layers are stored as
    `weights`."""
    types: dict[Any, str] = {
        kind: f"int{bits}" if of == "int" else "fp8" for kind, (bits, of) in KINDS.items()
    }
    groups = quantization["config_groups"].values()
    return next(
        (
            group
            for group in groups
            if types[group.get("format") or quantization.get("format")] == weights
        ),
        None,
    )


def _of_ir(artifact: Path, weights: str) -> Rounding | None:
    stored = [one for one in layers.ir_weights(layers.read_ir(artifact)) if ".layers." in one.layer]
    own = [one for one in stored if IR_LOW_BIT.get(one.type) == weights]
    if not own:
        return None
    groups = {_group(one) for one in own}
    return Rounding(
        format="openvino",
        bits=BITS[weights],
        group_size=groups.pop() if len(groups) == 1 else None,
        symmetric=all(one.type in SYMMETRIC for one in own),
        outside=layers.outside(artifact, "openvino"),
    )


def _group(weight: layers.IrWeight) -> int:
    columns = (
        weight.shape[2:] if layers.ir_experts(weight.layer, weight.shape[0]) else weight.shape[1:]
    )
    return columns[-1] if len(columns) == 2 else -1


READERS = {IR: _of_ir, SAFETENSORS: _of_config}
