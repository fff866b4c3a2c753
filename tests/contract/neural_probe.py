"""Runs inside the OpenVINO environment: one layer through the fake-quantization bridge, as JSON.

python -m tests.contract.neural_probe OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from pipeline.quantizers.neural.static import Observed, fake_quantized

SCALE, ZERO = 0.02, 131


def main(out: str) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 6)
    scales = linear.weight.detach().abs().amax(1) / 127
    given = torch.randn(5, 16) * 2
    with torch.no_grad():
        answer = fake_quantized(linear, Observed(SCALE, ZERO, scales))(given)
    found = {
        "given": given,
        "weight": linear.weight,
        "bias": linear.bias,
        "scales": scales,
        "answer": answer,
    }
    Path(out).write_text(json.dumps({name: value.tolist() for name, value in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
