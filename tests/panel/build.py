"""`python -m tests.panel.build JOB.json`: makes the panel's artifacts in one process of a tool
environment.

A job is {"item": ..., "variant": ..., "source": ..., "samples": ..., "base": ..., "work": ...,
"out": ...}. The way from a damaged checkpoint to an artifact is the project's own quantizer."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline import quantizers
from pipeline.formats import layers
from pipeline.quantizers.export import add_tokenizer, export
from pipeline.recipe import Variant
from pipeline.records import Samples, read
from tests.panel import damage


def build(job: dict[str, Any]) -> dict[str, int]:
    """Makes the artifact and returns what an honest manifest would say of its stored types."""
    item, source, out = job["item"], Path(job["source"]), Path(job["out"])
    variant = Variant.model_validate(job["variant"])
    if item["made"] == "artifact":
        honest = layers.stored_types(layers.inspect(Path(job["base"]), variant.engine))
        damage.run(
            {
                "kind": "artifact",
                "name": item["how"],
                "source": str(source),
                "artifact": job["base"],
                "out": str(out),
            }
        )
        return honest
    if item["made"] == "checkpoint":
        damaged = Path(job["work"]) / "checkpoint"
        damage.run(
            {"kind": "checkpoint", "name": item["how"], "source": str(source), "out": str(damaged)}
        )
        make(variant, damaged, read(Path(job["samples"]), Samples), out)
        shutil.rmtree(damaged)
        return {
            "bf16" if variant.quantizer == "rounding" else variant.weights: len(
                layers.linear_shapes(source)
            )
        }
    make(variant, source, read(Path(job["samples"]), Samples), out)
    return layers.stored_types(layers.inspect(out, variant.engine))


def make(variant: Variant, source: Path, samples: Samples, out: Path) -> None:
    """The damaged arithmetic is in the checkpoint already where the claim is `rounding`: export as
    it is."""
    out.mkdir()
    if variant.quantizer == "rounding":
        export(source, out.parent).save_pretrained(out)
        add_tokenizer(source, out)
        return
    spec = quantizers.Spec(variant, source, samples, keep=[])
    importlib.import_module(quantizers.tool(variant).module).quantize(spec, out)


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    found = {}
    for number, job in enumerate(jobs, 1):
        print(f"panel: {number} of {len(jobs)}: {job['item']['name']}", flush=True)
        found[job["item"]["name"]] = build(job)
        Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
