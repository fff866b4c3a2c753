"""Runs inside a tool environment: an artifact's weights against its source's, and the engine's
scores against those weights'.

python -m tests.contract.family_probe ENGINE ARTIFACT SOURCE PRECISION ROWS.json OUT.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipeline import engines
from pipeline.formats import fidelity
from tests.contract.probe import SERVE, gathered


def main(name: str, artifact: str, source: str, weights: str, given: str, out: str) -> None:
    rows = json.loads(Path(given).read_text())
    errors = fidelity.check(
        Path(artifact), Path(source), name, fidelity.Claim(weights)
    ).relative_error
    with engines.open_engine(name, Path(artifact), SERVE) as engine:
        scores = [engine.echo(row) for row in rows]
        decoded = engines.generate(engine, rows[:2], [1, 4], stop_at_eos=False)
    with engines.open_weights(name, Path(artifact), SERVE) as model:
        own, _ = gathered(model, rows)
    Path(out).write_text(
        json.dumps({"errors": errors, "scores": scores, "weights": own, "decoded": decoded})
    )
    sys.stdout.flush()
    os._exit(0)  # as the worker does: native threads of an engine may hang at exit


if __name__ == "__main__":
    main(*sys.argv[1:])
