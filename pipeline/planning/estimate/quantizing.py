"""What making an artifact takes: time, and the memory that no file backs.

One row of coefficients for each way to quantize, fitted to runs of SmolLM2-135M, Qwen2.5-Coder-0.5B
and a 1.5B shape of random weights; docs/plan.md has the runs beside the estimates."""

from __future__ import annotations

from typing import NamedTuple

from pipeline import quantizers
from pipeline.capabilities import IR
from pipeline.planning.estimate.rates import Work
from pipeline.planning.estimate.shape import Shape
from pipeline.quantizers import autoround
from pipeline.quantizers.gptqmodel import AWQ_TOKENS
from pipeline.recipe import Calibration, Variant

# Bytes per parameter on disk, embeddings and scales included.
BYTES = {
    "bf16": 2.0,
    "int8": 1.05,
    "int4": 0.65,
    "nf4": 0.65,
    "mxfp4": 0.65,
    "fp8": 1.05,
    "int2": 2.0,
}


class Method(NamedTuple):
    """`start_s`: imports and what else does not depend on the model; `serial_ns`: of one core, a
    parameter; `passes`: how often the calibration tokens go through the blocks, other products of
    tokens and weights counted as such. Memory: `base_bytes` and `per_parameter` bytes."""

    start_s: float
    serial_ns: float
    passes: float
    base_bytes: float
    per_parameter: float


METHODS = {
    "copy": Method(0.3, 2, 0, 0.05e9, 0),
    "export": Method(13, 13, 0, 0.6e9, 0.8),
    "openvino": Method(10, 13, 0, 0.6e9, 1.5),
    "openvino, on data": Method(10, 60, 6, 0.6e9, 4.0),
    "openvino, activations": Method(15, 60, 3, 0.7e9, 4.0),
    "rounding, checkpoint": Method(5, 60, 0, 0.5e9, 4.0),
    "rounding": Method(18, 80, 0, 0.8e9, 4.0),
    "neural, activations": Method(15, 60, 3, 0.7e9, 8.0),
    "neural": Method(15, 200, 4, 0.8e9, 6.0),
    "gptq": Method(5, 250, 2.4, 0.6e9, 2.0),
    "awq": Method(8, 400, 10, 0.6e9, 2.0),
    "compressed, gptq": Method(15, 300, 6, 0.7e9, 2.0),
    "compressed, awq": Method(15, 300, 40, 0.7e9, 2.0),
    "compressed, rtn": Method(15, 100, 2, 0.7e9, 2.0),
    "autoround": Method(15, 300, 1.5, 0.8e9, 4.0),
}


def method(variant: Variant) -> str:
    """The row of METHODS for a variant."""
    tool = quantizers.tool(variant)
    activations = ", activations" if variant.activations else ""
    on_data = (
        variant.awq
        or variant.scale_estimation
        or variant.gptq
        or variant.lora_correction
        or (variant.ratio or 1) < 1
    )
    rows = {
        "unquantized": "copy",
        "openvino": (
            "export"
            if variant.quantizer is None
            else f"openvino{activations or (', on data' if on_data else '')}"
        ),
        "rounding": (
            "rounding" if variant.served_by.artifact_format == IR else "rounding, checkpoint"
        ),
        "gptqmodel": tool.method,
        "neural": f"neural{activations}",
        "compressed": (
            f"compressed, {variant.method or ('rtn' if variant.weights == 'fp8' else 'gptq')}"
        ),
        "autoround": "autoround",
    }
    return rows[tool.module.rsplit(".", 1)[1]]


def work(variant: Variant, shape: Shape, calibration: Calibration) -> Work:
    """Of making the artifact and writing it."""
    name = method(variant)
    row, tokens = METHODS[name], calibration.samples * calibration.tokens
    if name == "awq" and not shape.has_experts:
        tokens = min(tokens, AWQ_TOKENS)
    if name == "autoround":
        # Each step goes through a block there and back, whatever the number of samples.
        tokens = autoround.iterations(variant) * autoround.BATCH_ROWS * calibration.tokens
    return Work(
        serial_s=row.start_s + row.serial_ns * 1e-9 * shape.parameters,
        flops=row.passes * 2 * shape.blocks * tokens,
        written_bytes=stored_bytes(variant, shape),
    )


def memory_bytes(variant: Variant, shape: Shape) -> float:
    row = METHODS[method(variant)]
    return row.base_bytes + row.per_parameter * shape.parameters


def stored_bytes(variant: Variant, shape: Shape) -> float:
    return (
        BYTES["bf16" if quantizers.tool(variant).simulated else variant.weights] * shape.parameters
    )
