"""The layers of a vLLM artifact, unpacked and dequantized to float32.

Four bits, eight values to an int32, value i of a word being `word >> 4 * i & 15`; GPTQ also eight
bits, four values to an int32:

    GPTQ      qweight [in/8, out] packed along in, qzeros [groups, out/8] along out, scales [groups,
              out], perhaps g_idx [in] (AutoGPTQ/AutoGPTQ nn_modules/qlinear; v1 stores a zero less
              one: ModelCloud/GPTQModel utils/model.py)
    AWQ gemm  qweight [in, out/8] and qzeros packed along out, the eight columns of a word in
              AWQ_ORDER, scales as above (mit-han-lab/llm-awq; casper-hansen/AutoAWQ
              utils/packing_utils.py)

compressed-tensors is in pipeline/formats/compressed.py; which of them it is says
pipeline/formats/packing.py.

weight[o, i] = (quantized[i, o] - zero[g, o]) * scale[g, o], where g is the group of input i:
g_idx[i], else i // group_size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ArtifactError
from pipeline.formats import compressed
from pipeline.formats.packing import Packing, packing
from pipeline.source.checkpoint import source_tensors

if TYPE_CHECKING:
    import torch

PARTS = ("qweight", "qzeros", "scales", "g_idx")
FLOATS = ("F32", "F16", "BF16")
ONES = {4: np.uint32(0x11111111), 8: np.uint32(0x01010101)}  # a one in every value of a word


def unpack(packed: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """int32 [rows, n] -> int16 [rows, len(order) n]; value i of a word, from its lowest bits, is
    order[i] of those it holds."""
    words = np.ascontiguousarray(packed).view(np.uint32)
    values, bits = np.empty((*words.shape, len(order)), np.int16), 32 // len(order)
    for number, place in enumerate(order):
        values[..., place] = words >> bits * number & (1 << bits) - 1
    return values.reshape(len(words), -1)


def dequantize(layer: str, parts: Mapping[str, np.ndarray], how: Packing) -> np.ndarray:
    """One layer's float32 weight [out, in] from its PARTS. Raises ArtifactError if they do not fit
    each other and `how`."""
    types = {name: str(parts[name].dtype) if name in parts else "none" for name in PARTS[:3]}
    if (
        types["qweight"] != "int32"
        or types["qzeros"] != "int32"
        or not types["scales"].startswith("float")
    ):
        raise ArtifactError(
            f"{layer}: found {types}, expected int32 qweight, int32 qzeros and float scales."
        )
    qweight, qzeros, scales = (parts[name] for name in PARTS[:3])
    awq, out = how.method == "awq", scales.shape[-1]
    inputs, each = len(qweight) * (1 if awq else len(how.order)), len(how.order)
    size = inputs if how.group_size == -1 else how.group_size
    groups = -(-inputs // size)
    packed = (inputs, out // each) if awq else (inputs // each, out)
    expected = {
        "qweight": packed,
        "qzeros": (groups, out // each),
        "scales": (groups, out),
        "g_idx": (inputs,),
    }
    shapes = {name: part.shape for name, part in parts.items()}
    if shapes != {name: expected[name] for name in shapes} or (
        how.desc_act and groups > 1 and "g_idx" not in shapes
    ):
        raise ArtifactError(
            f"{layer}: found {shapes}, expected {expected} for {how}; g_idx only needed with"
            " desc_act."
        )
    group = parts.get("g_idx", np.arange(inputs) // size)
    if group.min() < 0 or group.max() >= groups:
        raise ArtifactError(
            f"{layer}: g_idx: found {group.min()} to {group.max()}, expected groups 0 to"
            f" {groups - 1}."
        )
    if not how.desc_act and (group != np.arange(inputs) // size).any():
        # vLLM reads no g_idx: what the files say rightly would be served wrongly.
        raise ArtifactError(
            f"{layer}: g_idx has groups that are not in order, but config.json says desc_act false:"
            " vLLM takes them in order. Quantize again."
        )
    if how.format == "gptq":
        # On whole words, as GPTQModel took the one away: what a zero of 0 borrowed from its
        # neighbour goes back to it.
        qzeros = (np.ascontiguousarray(qzeros).view(np.uint32) + ONES[how.bits]).view(np.int32)
    zeros = unpack(qzeros, how.order)
    quantized = unpack(qweight, how.order).T if awq else unpack(qweight.T, how.order)
    weight: np.ndarray = (quantized - zeros.T[:, group]).astype(np.float32, order="C")
    weight *= scales.astype(np.float32).T[:, group]
    return weight


def weights(artifact: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights in float32, one after the other, by the names of an unquantized checkpoint.

    Packed layers come as `<layer>.weight` [out, in]. Raises ArtifactError for a layout that is not
    known, CheckpointError for files that are not whole."""
    import torch
    from safetensors import safe_open

    how, tensors = packing(artifact), source_tensors(artifact)
    files = {path: safe_open(path, "pt") for path in {tensor.file for tensor in tensors.values()}}
    mains, others = _parts(how)
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        packed = kind in mains and tensor.dtype not in FLOATS
        if how and packed:
            names = {
                part: f"{layer}.{part}" for part in (kind, *others) if f"{layer}.{part}" in tensors
            }
            tensors_of_layer = {
                part: files[tensors[full].file].get_tensor(full) for part, full in names.items()
            }
            arrays = {
                part: (value.float() if value.is_floating_point() else value).numpy()
                for part, value in tensors_of_layer.items()
            }
            if how.method == "compressed-tensors":
                weight = compressed.dequantize(layer, arrays.pop(kind), arrays)
            else:
                weight = dequantize(layer, arrays, how)
            yield f"{layer}.weight", torch.from_numpy(weight)
        elif kind in others and any(f"{layer}.{main}" in tensors for main in mains):
            continue
        elif tensor.dtype in FLOATS:
            yield name, files[tensor.file].get_tensor(name).float()
        else:
            raise ArtifactError(
                f"{layer}: found {kind} of type {tensor.dtype}, expected a float or a layer of"
                f" {how or 'no packing'}."
            )


def _parts(how: Packing | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts that a packed layer is known by, and those that may be beside them."""
    if how is None:
        return (), ()
    return (
        (compressed.MAIN, compressed.PARTS)
        if how.method == "compressed-tensors"
        else (PARTS[:1], PARTS[1:])
    )
