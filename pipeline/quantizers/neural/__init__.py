"""Intel Neural Compressor: static INT8 for OpenVINO, 4-bit weights for vLLM."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.capabilities import IR
from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.neural import static, weights


def quantize(spec: Spec, out: Path) -> Outcome:
    """Makes what the variant's engine takes. Raises QuantizeError for a layer that was left out."""
    from neural_compressor.common import options

    make = static.quantize if spec.variant.served_by.artifact_format == IR else weights.quantize
    with tempfile.TemporaryDirectory() as folder:
        options.workspace = folder  # or it makes one in the folder that quantgate was called from
        return make(spec, out)
