"""What is read out of an OpenVINO IR: stored type and shape of a weight, and NaN in every float
type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

LAYER = "model.layers.0.mlp.down_proj"


@pytest.mark.engine
def test_types_shapes_and_nan(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [
        str(environments.python("openvino")),
        "-m",
        "tests.contract.ir_probe",
        str(tmp_path / "ir"),
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    told = json.loads(out.read_text())
    found, rounded = told["found"], told["rounded"]
    stored = {name: value[LAYER] for name, value in found.items() if isinstance(value, dict)}
    shape = [4, 8]
    assert stored == {
        "u4": ["int4", shape],
        "i4 in groups": ["int4", shape],
        "i8": ["int8", shape],
        "f16": ["bf16", shape],
        "bf16": ["bf16", shape],
        "bf16 large": ["bf16", shape],
    }
    said = {
        name: (one["bits"], one["group_size"], one["symmetric"]) for name, one in rounded.items()
    }
    assert said == {"u4": (4, -1, False), "i4 in groups": (4, 4, True), "i8": (8, -1, True)}
    for name in ("f16 nan", "bf16 nan"):
        assert "holds NaN or infinite values" in found[name]
