"""Runs inside the openvino environment: writes small IRs with known weights and tells what
pipeline.formats.layers sees in them.

python -m tests.contract.ir_probe FOLDER OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.formats import layers, rounding

LAYER = "model.layers.0.mlp.down_proj"
NAME = f"self.{LAYER}.weight"


def write(folder: Path, element: str, values: Any) -> Path:
    """An IR whose one weight is a constant of that element type, kept as it is."""
    import openvino
    from openvino import opset13 as ops

    folder.mkdir(parents=True)
    kind = getattr(openvino.Type, element)
    constant = (
        ops.constant(openvino.Tensor(values, values.shape, kind))
        if element == "bf16"
        else ops.constant(values, dtype=kind)
    )
    constant.set_friendly_name(NAME)
    model = openvino.Model([ops.convert(constant, openvino.Type.f32)], [], "m")
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    return folder


def main(folder: str, out: str) -> None:
    import numpy as np

    ones = np.ones((4, 8), np.float32)
    bits = np.full((4, 8), 0x3F80, np.uint16)  # 1.0 in bfloat16
    large, nan = bits.copy(), bits.copy()
    large[0, 0], nan[0, 0] = 0x7F7F, 0x7FC0  # the largest finite value; NaN
    cases = {
        "u4": ("u4", ones.astype(np.uint8)),
        "i4 in groups": ("i4", ones.astype(np.int8).reshape(4, 2, 4)),
        "i8": ("i8", ones.astype(np.int8)),
        "f16": ("f16", ones.astype(np.float16)),
        "f16 nan": ("f16", (ones * np.nan).astype(np.float16)),
        "bf16": ("bf16", bits.view(np.float16)),
        "bf16 large": ("bf16", large.view(np.float16)),
        "bf16 nan": ("bf16", nan.view(np.float16)),
    }
    found: dict[str, Any] = {}
    rounded: dict[str, Any] = {}
    for name, (element, values) in cases.items():
        artifact = write(Path(folder) / name.replace(" ", "-"), element, values)
        try:
            found[name] = layers.inspect(artifact, "openvino")
            if (made := rounding.read(artifact, "openvino", found[name][LAYER].type)) is not None:
                rounded[name] = made.model_dump()
        except ArtifactError as error:
            found[name] = str(error)
    Path(out).write_text(json.dumps({"found": found, "rounded": rounded}))


if __name__ == "__main__":
    main(*sys.argv[1:])
