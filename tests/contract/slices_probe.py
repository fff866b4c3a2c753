"""Runs inside the openvino environment: one matrix through NNCF's rounding to 8 bits, whole and in
slices, as JSON.

python -m tests.contract.slices_probe OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
import torch
from nncf.quantization.algorithms.weight_compression import weight_lowering
from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
from nncf.tensor import Tensor

from pipeline.quantizers import nncf_slices

ROWS, COLUMNS, SLICED = 250, 64, 100 * 64  # three slices, the last one shorter


def matrix(kind: str) -> Any:
    torch.manual_seed(0)
    values = torch.randn(ROWS, COLUMNS, dtype=torch.float32)
    if kind == "bf16":
        bits = values.bfloat16().view(torch.int16).numpy().view(np.float16)
        return openvino.Tensor(bits, bits.shape, openvino.Type.bf16)
    return openvino.Tensor(values.half().numpy())


def rounded(kind: str, mode: Any) -> dict[str, Any]:
    made = weight_lowering.compress_weight(
        Tensor(matrix(kind)), (1,), WeightCompressionConfig(mode=mode)
    )
    parts = {"tensor": made.tensor, "scale": made.scale, "zero_point": made.zero_point}
    return {
        name: None if part is None else [str(part.data.dtype), part.data.tolist()]
        for name, part in parts.items()
    }


def main(out: str) -> None:
    asked = [
        (kind, mode)
        for kind in ("f16", "bf16")
        for mode in (nncf.CompressWeightsMode.INT8_ASYM, nncf.CompressWeightsMode.INT8_SYM)
    ]
    whole = [rounded(*one) for one in asked]
    calls = 0
    original = weight_lowering.do_integer_quantization

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*given, **more)

    weight_lowering.do_integer_quantization = counted
    nncf_slices.SLICE = SLICED
    nncf_slices.replace_in_nncf()
    sliced = [rounded(*one) for one in asked]
    Path(out).write_text(json.dumps({"whole": whole, "sliced": sliced, "calls": calls}))


if __name__ == "__main__":
    main(sys.argv[1])
