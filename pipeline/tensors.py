"""Safetensors headers and a streaming NaN/Inf check, without torch.

Format: https://github.com/huggingface/safetensors (8 bytes little-endian header length, JSON header, data).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
        "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8}  # fmt: skip
# A float whose exponent bits are all ones is NaN or infinite (IEEE 754, section 3.4); one of F8_E4M3 whose bits are all ones is
# NaN, and it has no infinity (arXiv 2209.05433).
EXPONENT = {
    "F8_E4M3": ("u1", 0x7F),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F64": ("<u8", 0x7FF0 << 48),
}
BLOCK_VALUES = 1 << 24


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header; `begin` is the absolute offset of its data in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    file: Path


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises CheckpointError if the header is no header or the file is cut short."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path}: not a whole safetensors file (header of {length} bytes in a file of {size} bytes). Fetch the file again."
            )
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise CheckpointError(f"{path}: the safetensors header is not JSON ({error}). Fetch it again.") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        expected = int(np.prod(shape, dtype=np.int64)) * BITS.get(dtype, 0) // 8
        if dtype in BITS and end - begin != expected:
            raise CheckpointError(f"{path}: tensor {name} spans {end - begin} bytes, {dtype}{list(shape)} needs {expected}.")
        if 8 + length + end > size:
            raise CheckpointError(
                f"{path}: truncated: tensor {name} ends at byte {8 + length + end}, the file has {size}. Fetch it again."
            )
        tensors[name] = Tensor(name, dtype, shape, 8 + length + begin, path)
    return tensors


def not_finite(tensor: Tensor) -> int:
    """How many values of a float tensor are NaN or infinite; 0 for integer types. Reads block by block."""
    if tensor.dtype not in EXPONENT:
        return 0
    kind, mask = EXPONENT[tensor.dtype]
    return sum(int(((block & mask) == mask).sum()) for block in _blocks(tensor, kind))


def _blocks(tensor: Tensor, kind: str) -> Iterator[np.ndarray]:
    count = int(np.prod(tensor.shape, dtype=np.int64))
    if count == 0:
        return
    values = np.memmap(tensor.file, dtype=kind, mode="r", offset=tensor.begin, shape=(count,))
    for start in range(0, count, BLOCK_VALUES):
        yield values[start : start + BLOCK_VALUES]
