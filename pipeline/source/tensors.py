"""Safetensors headers and a streaming NaN/Inf check, without torch.

Format: https://github.com/huggingface/safetensors (8 bytes little-endian header length, JSON
header, data)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import reading
from pipeline.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
ENTRY = {"dtype", "shape", "data_offsets"}
# A float whose exponent bits are all ones is NaN or infinite (IEEE 754, section 3.4); one of
# F8_E4M3 whose bits are all ones is NaN, and it has no infinity (arXiv 2209.05433).
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
    """The tensors of one file, in the order of their data. Raises CheckpointError unless the header
    describes the whole file.

    That is as the format demands: known dtypes, shapes that fit, names that are there once, data
    without overlap, gap or rest."""
    header, start, size = _header(path)
    _require_texts(path, header.pop("__metadata__", {}))
    spans = sorted(
        (_entry(path, name, entry) for name, entry in header.items()), key=lambda item: item[1:]
    )
    last = start
    for tensor, begin, end in spans:
        if start + end > size:
            raise CheckpointError(
                f"{path}: truncated: tensor {tensor.name} ends at byte {start + end}, the file has"
                f" {size}. Fetch it again."
            )
        if start + begin != last:
            what = "overlaps the one before" if start + begin < last else "leaves a gap"
            raise CheckpointError(
                f"{path}: tensor {tensor.name} begins at byte {start + begin} and {what}, expected"
                f" {last}. Fetch the file again."
            )
        last = start + end
    if last != size:
        raise CheckpointError(
            f"{path}: {size - last} bytes behind the last tensor, expected none. Fetch the file"
            " again."
        )
    return {
        tensor.name: Tensor(tensor.name, tensor.dtype, tensor.shape, start + begin, path)
        for tensor, begin, _ in spans
    }


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header's JSON, where the data begins, and the file's size, in bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: not a whole safetensors file (header of {length} bytes in a file of"
                    f" {size} bytes). Fetch the file again."
                )
            written = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    header = reading.json_value(
        written, f"{path}: the safetensors header", CheckpointError, unique=True
    )
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: the safetensors header is a JSON {type(header).__name__}, expected an object."
        )
    return header, 8 + length, size


def _require_texts(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise CheckpointError(
            f"{path}: __metadata__: found {str(metadata)[:80]}, expected an object of strings."
        )


def _entry(path: Path, name: str, entry: Any) -> tuple[Tensor, int, int]:
    """One tensor of the header, and where its data begins and ends, counted from the first byte of
    data."""
    if not isinstance(entry, dict) or set(entry) != ENTRY:
        raise CheckpointError(
            f"{path}: tensor {name}: found {str(entry)[:80]}, expected {', '.join(sorted(ENTRY))}."
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(
            f"{path}: tensor {name}: found dtype {str(dtype)[:40]!r}, expected one of"
            f" {', '.join(BITS)}."
        )
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        stated = f"shape {str(shape)[:60]} at {str(offsets)[:60]}"
        raise CheckpointError(
            f"{path}: tensor {name}: found {stated}, expected sizes and two offsets of 0 or more."
        )
    bits, (begin, end) = math.prod(shape) * BITS[dtype], offsets
    if 8 * (end - begin) != bits:
        raise CheckpointError(
            f"{path}: tensor {name} spans {end - begin} bytes, {dtype}{list(shape)} needs"
            f" {-(-bits // 8)}."
        )
    return Tensor(name, dtype, tuple(shape), begin, path), begin, end


def _counts(values: Any) -> bool:
    few = isinstance(values, list) and len(values) <= MAX_DIMENSIONS
    return few and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def not_finite(tensor: Tensor) -> int:
    """How many values of a float tensor are NaN or infinite; 0 for integer types. Reads block by
    block."""
    count = math.prod(tensor.shape)
    if tensor.dtype not in EXPONENT or count == 0:
        return 0
    kind, _ = EXPONENT[tensor.dtype]
    return not_finite_in(
        np.memmap(tensor.file, dtype=kind, mode="r", offset=tensor.begin, shape=(count,)),
        tensor.dtype,
    )


def not_finite_in(values: np.ndarray, dtype: str) -> int:
    """The same of an array that holds the bits of a float type, by safetensors' name, under
    whatever name of that size."""
    kind, mask = EXPONENT[dtype]
    bits = values.reshape(-1).view(kind)
    blocks = (bits[start : start + BLOCK_VALUES] for start in range(0, len(bits), BLOCK_VALUES))
    return sum(int(((block & mask) == mask).sum()) for block in blocks)
