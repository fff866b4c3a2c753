"""Runs inside the vllm environment: the dequantized engine over packed weights beside the reference
over the same ones unpacked.

python -m tests.contract.dequantized_probe PACKED PLAIN TORN OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.engines.dequantized import DequantizedEngine
from pipeline.engines.reference import ReferenceEngine
from pipeline.errors import ArtifactError
from tests.contract.probe import SERVE, sequences


def probe(engine: engines.Engine) -> dict[str, Any]:
    with engine:
        scores = [engine.echo(row) for row in sequences()]
        return {
            "scores": scores,
            "decoded": engines.generate(engine, sequences()[:2], [8, 8], stop_at_eos=False),
        }


def main(packed: str, plain: str, torn: str, out: str) -> None:
    found: dict[str, Any] = {
        "packed": probe(DequantizedEngine(Path(packed), SERVE)),
        "plain": probe(ReferenceEngine(Path(plain), SERVE)),
        "unquantized": probe(DequantizedEngine(Path(plain), SERVE)),
    }
    try:
        probe(DequantizedEngine(Path(torn), SERVE))
    except ArtifactError as error:
        found["torn"] = str(error)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
