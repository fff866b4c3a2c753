"""Large matrices go through NNCF's rounding to 8 bits a slice of rows at a time: whole, they set
the peak of a compression.

NNCF 3.4 rounds a matrix with a small OpenVINO model in float32, which took 8.6 bytes a weight: 2 GB
for an embedding of 152 thousand tokens by 1536, where all that is kept of a model of 1.5 billion
parameters is half of that. Each row has a step of its own, so that slices give the same bytes."""

from __future__ import annotations

from typing import Any

SLICE = 1 << 24  # weights


def replace_in_nncf() -> None:
    """From then on NNCF in this process slices; calling it again changes nothing."""
    from nncf.quantization.algorithms.weight_compression import weight_lowering

    whole = weight_lowering.do_integer_quantization
    if not hasattr(whole, "whole"):
        sliced = _sliced(whole)
        sliced.whole = whole
        weight_lowering.do_integer_quantization = sliced


def _sliced(whole: Any) -> Any:
    import numpy as np
    from nncf.quantization.algorithms.weight_compression.weight_lowering import CompressedWeight
    from nncf.tensor import Tensor, TensorBackend

    def quantize(
        weight: Any, config: Any, reduction_axes: Any = None, *precomputed: Any, **more: Any
    ) -> Any:
        by_row = (
            reduction_axes in ((1,), 1)
            and len(weight.shape) == 2
            and config.group_size == -1
            and config.num_bits == 8
        )
        given = [*precomputed, *more.values()]
        if (
            weight.backend != TensorBackend.ov
            or not by_row
            or weight.size <= SLICE
            or any(one is not None for one in given)
        ):
            return whole(weight, config, reduction_axes, *precomputed, **more)
        made = [whole(Tensor(part), config, reduction_axes) for part in _rows(weight.data)]

        def joined(name: str) -> Any:
            parts = [getattr(one, name) for one in made]
            return (
                None if parts[0] is None else Tensor(np.concatenate([part.data for part in parts]))
            )

        return CompressedWeight(joined("tensor"), joined("scale"), joined("zero_point"))

    return quantize


def _rows(matrix: Any) -> Any:
    """Copies of the rows of an openvino.Tensor, about SLICE weights each: NNCF reads a view of it
    from the matrix' first row."""
    import openvino as ov

    rows, columns = matrix.shape
    step = max(1, SLICE // columns)
    for first in range(0, rows, step):
        view = ov.Tensor(
            matrix, ov.Coordinate([first, 0]), ov.Coordinate([min(first + step, rows), columns])
        )
        part = ov.Tensor(matrix.element_type, view.shape)
        view.copy_to(part)
        yield part
