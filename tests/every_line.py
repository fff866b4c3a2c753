"""A recipe with every line of the quantizers' table that a CPU serves: each takes the whole way.

    python -m tests.every_line RECIPE [PROJECT]     then: quantgate index && dvc repro require@every-RECIPE

The model, the texts and the tasks are RECIPE's. Its limits for 4 bits hold for all: activations in 8 bits cost more than
weights do, and limits go by the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.quantizers.table import SERVED, TOOLS


def main(recipe: str, project: Path) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    found = yaml.load((project / paths.recipe(recipe)).read_text())
    for limits in found["gate"].values():
        if isinstance(limits, dict) and "int4" in limits:
            limits |= {line.weights: limits["int4"] for line in SERVED}
    found["gate"].pop("speedup", None)
    found["variants"] = {"ov-bf16": {"engine": "openvino"}, "vllm-bf16": {"engine": "vllm"}, **variants()}
    (project / paths.recipe(f"every-{recipe}")).write_text(json.dumps(found, indent=1) + "\n")  # JSON is YAML


def variants() -> dict[str, dict[str, Any]]:
    """A variant of each line; those of `rounding`, which is never shipped, are left out."""
    lines = [line for line in SERVED if "cpu" in line.devices and not TOOLS[line.quantizer].simulated]
    names: dict[str, dict[str, Any]] = {}
    for line in lines:
        name = f"{line.quantizer}-{line.weights}"
        if name in names:
            name = f"{name}-{sum(found.startswith(name) for found in names) + 1}"
        names[name] = line.asked()
    aliases = {name: {"engine": "vllm", "quantizer": name, "weights": "int4"} for name in ("auto-gptq", "autoawq")}
    return names | aliases


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path())
