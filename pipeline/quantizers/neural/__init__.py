"""Intel Neural Compressor: static INT8 for OpenVINO, 4-bit weights for vLLM."""

from __future__ import annotations

from pathlib import Path

from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.neural import static, weights


def quantize(spec: Spec, out: Path) -> Outcome:
    """Makes what the variant's engine takes. Raises QuantizeError for a layer that was left out."""
    if spec.variant.engine == "openvino":
        return static.quantize(spec, out)
    return weights.quantize(spec, out)
