"""A project of one recipe on a random-weight model of TinyLlama-1.1B's shape, made by the pipeline
itself but for the two packed artifacts (benchmarks/random_model). What the benchmarks on a model of
real size run in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import paths, quantizers
from pipeline import recipe as recipes
from pipeline.evidence import provenance
from pipeline.recipe import Recipe
from pipeline.records import Layers, Manifest, artifact
from pipeline.runtime import environments
from pipeline.runtime.process import ENVIRONMENT
from pipeline.stages import calibrate, pin, quantize

NAME = "random-1b"
LINKED = ("pipeline", "benchmarks", "calibration", "environments", "dvc.yaml")
SPEEDUP = {"int8": 1.2, "int4": 1.5}
RECIPE = """\
model: {{path: source}}
calibration: {{prompts: tiny-prompts, samples: 64, tokens: 512, max_overlap: 1}}
evaluate:
  perplexity: {{texts: [tiny-text], window: 256}}
  tasks: {{world_facts: all}}
  task_path: recipes/tiny/tasks
gate:
  perplexity_ratio: {{bf16: 2, int8: 2, int4: 2}}
  mean_kl: {{bf16: 2, int8: 2, int4: 2}}
  p99_kl: {{bf16: 2, int8: 2, int4: 2}}
  top1_agreement: {{bf16: 0.5, int8: 0.5, int4: 0.5}}
  accuracy_drop: {{bf16: 0.5, int8: 0.5, int4: 0.5}}
  task_drop: {{bf16: 0.5, int8: 0.5, int4: 0.5}}
  speedup: {speedup}
serve:
  {{max_model_len: 2048, max_num_seqs: 8, max_num_batched_tokens: 2048, kv_cache_gib: 1,
   eager: {eager}}}
benchmark:
  {{concurrency: [1, 8], prompt_tokens: 32, output_tokens: 48, requests: {requests},
   repeats: {repeats}}}
variants:
  ov-bf16: {{engine: openvino}}
  ov-int8: {{engine: openvino, quantizer: openvino, weights: int8}}
  ov-int4: {{engine: openvino, quantizer: openvino, weights: int4, group_size: 128}}
  vllm-bf16: {{engine: vllm}}
  gptq-int4: {{engine: vllm, quantizer: gptq, weights: int4, group_size: 128}}
  awq-int4: {{engine: vllm, quantizer: awq, weights: int4, group_size: 128}}
"""


@contextmanager
def opened(repeats: int, requests: int, eager: bool) -> Iterator[Recipe]:
    """The recipe, with the working directory inside its project, which is gone afterwards."""
    root = Path.cwd()
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="random-", dir=paths.TEMPORARY) as temporary:
        _project(root, Path(temporary), repeats, requests, eager)
        os.chdir(temporary)
        try:
            yield recipes.load(NAME)
        finally:
            os.chdir(root)


def _project(root: Path, folder: Path, repeats: int, requests: int, eager: bool) -> None:
    for name in LINKED:
        (folder / name).symlink_to(root / name)
    (folder / "recipes").mkdir()
    shutil.copytree(root / "recipes" / "tiny", folder / "recipes" / "tiny")
    text = RECIPE.format(
        repeats=repeats, requests=requests, eager=str(eager).lower(), speedup=json.dumps(SPEEDUP)
    )
    (folder / "recipes" / f"{NAME}.yaml").write_text(text)


def make(recipe: Recipe, layers: int, variants: Iterable[str]) -> None:
    """Checkpoint, calibration set and these variants' artifacts."""
    packed = {name: paths.model(NAME, name) for name in ("gptq-int4", "awq-int4")}
    inside("openvino", "benchmarks.random_model", "source", *map(str, packed.values()), str(layers))
    pin.run(NAME)
    calibrate.run(NAME)
    for name in variants:
        variant = recipe.variants[name]
        if name not in packed:
            quantize.run(NAME, name)
            continue
        Manifest(
            recipe=NAME,
            variant=name,
            engine=variant.engine,
            device="cpu",
            quantizer=variant.quantizer,
            answered_by="benchmarks/random_model",
            weights=variant.weights,
            requested=variant.settings(),
            resolved={},
            notes=["random bits: its speed means something, its answers do not"],
            layers=Layers(expected=0, quantized=0, skipped=[]),
            stored_types={},
            versions={},
            checkpoint_sha256="",
            samples_sha256=None,
            files=artifact.hash_files(packed[name]),
            wall_s=0.0,
            peak_memory_bytes=0,
            origin=provenance.now(NAME, quantizers.tool(variant).environment),
        ).write(paths.manifest(NAME, name))


def inside(environment: str, module: str, *arguments: str) -> Any:
    """Runs a module in a tool environment; its last line of output, if it is JSON."""
    command = [str(environments.python(environment)), "-m", module, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, check=True, stdout=subprocess.PIPE, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None
