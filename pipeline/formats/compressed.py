"""Layers in the compressed-tensors format, as llm-compressor and AutoRound write it for vLLM, back
to float32.

    pack-quantized   weight_packed [out, in/8] int32, eight 4-bit values along in; weight_scale
                     [out, groups]; perhaps
                     weight_zero_point [out/8, groups], packed along out; weight_shape says [out,
                     in]
    int-quantized    weight [out, in] int8; weight_scale [out, 1]
    float-quantized  weight [out, in] in 8-bit floats (E4M3); weight_scale [out, 1]

A packed value is stored plus 8. weight[o, i] = (quantized[o, i] - zero[o, g]) * scale[o, g], g = i
// group_size (vllm-project/compressed-tensors, compressors/pack_quantized and
quantization/lifecycle/forward.py)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.errors import ArtifactError

MAIN = ("weight_packed", "weight")  # the parts that a layer is known by
PARTS = ("weight_scale", "weight_zero_point", "weight_shape")  # beside it
OFFSET, NIBBLES = 8, 8


def dequantize(layer: str, main: np.ndarray, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """One layer's float32 weight [out, in]. Raises ArtifactError if its parts do not fit each
    other."""
    scale, packed = parts.get("weight_scale"), main.dtype == np.int32
    rows, columns = len(main), main.shape[1] * (NIBBLES if packed else 1)
    shapes = {"main": main.shape, **{name: part.shape for name, part in parts.items()}}
    if scale is None or scale.ndim != 2 or len(scale) != rows or columns % scale.shape[1]:
        raise ArtifactError(
            f"{layer}: found {shapes}, expected weight_scale [out, groups] that divide the columns."
        )
    if packed and list(parts.get("weight_shape", ())) != [rows, columns]:
        raise ArtifactError(f"{layer}: found {shapes}, expected weight_shape {[rows, columns]}.")
    groups = scale.shape[1]
    values = (_nibbles(main) if packed else main).astype(np.float32).reshape(rows, groups, -1)
    if (zeros := parts.get("weight_zero_point")) is not None:
        if zeros.shape != (-(-rows // NIBBLES), groups):
            raise ArtifactError(
                f"{layer}: found {shapes}, expected weight_zero_point"
                f" {[-(-rows // NIBBLES), groups]}."
            )
        values -= _nibbles(zeros.T).T[:rows, :, None]
    weight: np.ndarray = (values * scale.astype(np.float32)[:, :, None]).reshape(rows, columns)
    return weight


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """int32 [rows, n] -> int8 [rows, 8 n] of -8..7, the lowest four bits first."""
    words = np.ascontiguousarray(packed).view(np.uint32)[..., None] >> np.arange(
        0, 32, 4, dtype=np.uint32
    )
    return (words & 15).astype(np.int8).reshape(len(packed), -1) - OFFSET
