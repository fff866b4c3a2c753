"""The bridge from Neural Compressor's observers to OpenVINO: fake quantization against integer
arithmetic written out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.runtime import environments
from tests.conftest import ROOT

SCALE, ZERO = 0.02, 131  # as in the probe, which this environment cannot import: it needs torch


@pytest.mark.engine
def test_the_bridge_is_integer_arithmetic(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    subprocess.run(
        [str(environments.python("openvino")), "-m", "tests.contract.neural_probe", str(out)],
        cwd=ROOT,
        check=True,
    )
    given, weight, bias, scales, answer = (
        np.array(value, np.float64) for value in json.loads(out.read_text()).values()
    )
    inputs = np.clip(np.rint(given / SCALE) + ZERO, 0, 255).astype(int) - ZERO
    assert inputs.min() == -ZERO, "some input is clipped, or the test shows less than it should"
    weights = np.clip(np.rint(weight / scales[:, None]), -128, 127).astype(int)
    np.testing.assert_allclose(answer, inputs @ weights.T * SCALE * scales + bias, atol=1e-4)
