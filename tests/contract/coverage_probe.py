"""Runs inside the openvino environment: tokens per expert as quantgate counts them, and from the
routers' own logits.

python -m tests.contract.coverage_probe CHECKPOINT IDS.json OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.source import coverage


def by_logits(source: str, rows: list[list[int]]) -> dict[str, list[int]]:
    """The experts with the largest logits, in numpy."""
    import numpy
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    chosen, experts = model.config.num_experts_per_tok, len(model.model.layers[0].mlp.gate.weight)
    counts = numpy.zeros((model.config.num_hidden_layers, experts), int)
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row]), output_router_logits=True).router_logits
        for layer, found in enumerate(logits):
            best = numpy.argsort(-found.float().numpy(), axis=-1)[:, :chosen]
            counts[layer] += numpy.bincount(best.ravel(), minlength=experts)
    return {f"model.layers.{layer}.mlp.experts": line.tolist() for layer, line in enumerate(counts)}


def main(source: str, ids: str, out: str) -> None:
    rows = json.loads(Path(ids).read_text())
    found = {"ours": coverage.count(Path(source), rows), "theirs": by_logits(source, rows)}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
