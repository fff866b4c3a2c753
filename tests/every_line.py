"""A recipe with every example of the quantizers' table that a CPU serves: each takes the whole way.

    python -m tests.every_line RECIPE [PROJECT] then: quantgate index && dvc repro
    require@every-RECIPE

The model, the texts and the tasks are RECIPE's. Its limits are wide and its benchmark is short:
what is asked here is that nothing is missing on any line's way to a verdict and a benchmark, not
that each is good."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.quantizers.table import SERVED, TOOLS

WIDE = {
    "perplexity_ratio": 1.2,
    "mean_kl": 0.2,
    "p99_kl": 2.0,
    "top1_agreement": 0.6,
    "accuracy_drop": 0.1,
    "task_drop": 0.2,
}


def main(recipe: str, project: Path) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    found = yaml.load((project / paths.recipe(recipe)).read_text())
    weights = sorted({line.weights for line in SERVED} | {"bf16"})
    found["gate"] |= {name: dict.fromkeys(weights, limit) for name, limit in WIDE.items()}
    found["gate"].pop("speedup", None)
    found["benchmark"] |= {"concurrency": [1], "repeats": 2, "open_loop": [], "matched": False}
    found["variants"] = {
        "ov-bf16": {"engine": "openvino"},
        "vllm-bf16": {"engine": "vllm"},
        **variants(),
    }
    (project / paths.recipe(f"every-{recipe}")).write_text(
        json.dumps(found, indent=1) + "\n"
    )  # JSON is YAML


def variants() -> dict[str, dict[str, Any]]:
    """A variant of each example; those of `rounding`, which is never shipped, are left out."""
    lines = [
        line for line in SERVED if "cpu" in line.devices and not TOOLS[line.quantizer].simulated
    ]
    names: dict[str, dict[str, Any]] = {}
    for asked in [asked for line in lines for asked in line.asked()]:
        name = f"{asked['quantizer']}-{asked['weights']}"
        names[f"{name}-{sum(found.startswith(name) for found in names) + 1}"] = asked
    aliases = {
        name: {"engine": "vllm", "quantizer": name, "weights": "int4"}
        for name in ("auto-gptq", "autoawq")
    }
    return names | aliases


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path())
