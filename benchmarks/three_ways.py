"""One vLLM artifact measured in process, over HTTP by quantgate, and by the `vllm bench serve` command on random prompts of the
same lengths: do they agree? Used by benchmarks.engines.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from pipeline import environments, serving
from pipeline.benchmark.statistics import closed_levels
from pipeline.process import ENVIRONMENT
from pipeline.recipe import Recipe
from pipeline.records import Benchmark

AGREE = 0.10
MODEL = "served"


def rates(record: Benchmark) -> list[float]:
    """Output tokens/s, one a concurrency."""
    return [level.output_tokens_per_s.median for level in closed_levels(record.profiles["deployed"])]


def bench_serve(model: Path, recipe: Recipe) -> list[float]:
    """The command's own output throughput at each concurrency, on a server started for it."""
    with tempfile.TemporaryDirectory() as folder, serving.served(model, recipe.serve, MODEL, Path(folder)) as server:
        return [_command(model, recipe, server, concurrency, Path(folder)) for concurrency in recipe.benchmark.concurrency]


def _command(model: Path, recipe: Recipe, server: serving.Server, concurrency: int, folder: Path) -> float:
    plan, python = recipe.benchmark, environments.python("vllm")
    command = [
        str(python), str(python.with_name("vllm")), "bench", "serve",
        "--backend", "openai", "--base-url", server.url.removesuffix("/v1"),
        "--model", MODEL, "--tokenizer", str(model), "--dataset-name", "random", "--random-input-len", str(plan.prompt_tokens),
        "--random-output-len", str(plan.output_tokens), "--num-prompts", str(plan.requests * plan.repeats), "--ignore-eos",
        "--max-concurrency", str(concurrency), "--num-warmups", str(2 * concurrency), "--temperature", "0", "--disable-tqdm",
        "--save-result", "--result-dir", str(folder), "--result-filename", f"{concurrency}.json",
    ]  # fmt: skip
    subprocess.run(command, env={**os.environ, **ENVIRONMENT, "HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((folder / f"{concurrency}.json").read_text())["output_throughput"])


def page(variant: str, ways: dict[str, list[float]]) -> str:
    base = ways["in process"]
    head = "| way | output tokens/s at 1 | over in process | at 8 | over in process | within 10 % |"
    lines = ["", f"## {variant} measured three ways", "", head, "|---|---|---|---|---|---|"]
    for way, found in ways.items():
        ratios = [own / first for own, first in zip(found, base, strict=True)]
        met = "yes" if all(abs(ratio - 1) <= AGREE for ratio in ratios) else "NO"
        lines.append(f"| {way} | {found[0]:.1f} | {ratios[0]:.3f} | {found[1]:.1f} | {ratios[1]:.3f} | {met} |")
    return "\n".join(lines) + "\n"
