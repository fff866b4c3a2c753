"""One artifact measured in process, over HTTP by quantgate, and by the `vllm bench serve` command
on the server that quantgate starts: do they agree?

    python -m benchmarks.three_ways [--variant NAME] [--rounds N] [--layers N] [--out FILE]

A random-weight model of TinyLlama-1.1B's shape. The three take turns (A B C, C B A, ...), each
starting its engine anew; the command sends random prompts of the same lengths. Writes
benchmarks/results/three_ways.md, for other variants three_ways-VARIANT.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import random_project
from benchmarks.random_project import NAME
from pipeline import paths, records
from pipeline.benchmark.speed_statistics import closed_levels
from pipeline.engines import server
from pipeline.engines.server import Served, Server
from pipeline.recipe import Recipe
from pipeline.records import Benchmark
from pipeline.runtime import environments, machine
from pipeline.runtime.process import ENVIRONMENT
from pipeline.stages import benchmark, benchmark_http, trace

USUAL = "vllm-bf16"
RESULTS = Path("benchmarks/results")
REPEATS = 2  # within a turn
AGREE = 0.10
MODEL = "served"
Rates = list[float]  # output tokens/s, one a concurrency


def run(variant: str, turns: int, requests: int, layers: int) -> str:
    """The results page."""
    found: dict[str, list[Rates]] = {}
    with random_project.opened(REPEATS, requests, eager=True) as recipe:
        random_project.make(recipe, layers, [variant])
        trace.run(NAME)
        ways: dict[str, Callable[[Recipe, str], Rates]] = {
            "in process": _in_process,
            "over HTTP by quantgate": _over_http,
            "`vllm bench serve`": _bench_serve,
        }
        for turn in range(turns):
            for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                found.setdefault(way, []).append(ways[way](recipe, variant))
                print(way, found[way][-1], flush=True)
    return _page(recipe, variant, layers, turns, {way: found[way] for way in ways})


def _in_process(recipe: Recipe, variant: str) -> Rates:
    benchmark.measure(recipe, [variant])
    return _rates(records.read(paths.benchmark(NAME, variant), Benchmark))


def _over_http(recipe: Recipe, variant: str) -> Rates:
    benchmark_http.run(NAME, variant, None, None)
    return _rates(records.read(paths.http(NAME, variant), Benchmark))


def _rates(record: Benchmark) -> Rates:
    return [
        level.output_tokens_per_s.median for level in closed_levels(record.profiles["deployed"])
    ]


def _bench_serve(recipe: Recipe, variant: str) -> Rates:
    model, engine = paths.model(NAME, variant), recipe.variants[variant].engine
    with (
        tempfile.TemporaryDirectory() as folder,
        server.served(Served(engine, model, recipe.serve, MODEL), Path(folder)) as running,
    ):
        return [
            _command(model, recipe, running, concurrency, Path(folder))
            for concurrency in recipe.benchmark.concurrency
        ]


def _command(model: Path, recipe: Recipe, running: Server, concurrency: int, folder: Path) -> float:
    plan, python = recipe.benchmark, environments.python("vllm")
    command = [
        str(python),
        str(python.with_name("vllm")),
        "bench",
        "serve",
        "--backend",
        "openai",
        "--base-url",
        running.url.removesuffix("/v1"),
        "--model",
        MODEL,
        "--tokenizer",
        str(model),
        "--dataset-name",
        "random",
        "--random-input-len",
        str(plan.prompt_tokens),
        "--random-output-len",
        str(plan.output_tokens),
        "--num-prompts",
        str(plan.requests * plan.repeats),
        "--ignore-eos",
        "--max-concurrency",
        str(concurrency),
        "--num-warmups",
        str(2 * concurrency),
        "--temperature",
        "0",
        "--disable-tqdm",
        "--save-result",
        "--result-dir",
        str(folder),
        "--result-filename",
        f"{concurrency}.json",
    ]
    subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT, "HF_HUB_OFFLINE": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return float(json.loads((folder / f"{concurrency}.json").read_text())["output_throughput"])


def _page(
    recipe: Recipe, variant: str, layers: int, turns: int, found: dict[str, list[Rates]]
) -> str:
    plan, host = recipe.benchmark, machine.describe()
    one, eight = (f"at {concurrency}" for concurrency in plan.concurrency)
    lines = [
        f"# {variant} measured three ways, TinyLlama-1.1B's shape, {layers} layers",
        (
            f"`{' '.join(['python -m benchmarks.three_ways', *sys.argv[1:]])}`,"
            f" {time.strftime('%Y-%m-%d')}. {turns} turns each, {plan.requests} requests x"
            f" {plan.repeats} a turn, {plan.prompt_tokens} prompt and {plan.output_tokens} output"
            " tokens. Output tokens/s: median of the turns (lowest to highest); the ratio is the"
            " median of each turn's own."
        ),
        "",
        f"| way | {one} | over in process | {eight} | over in process | within {AGREE:.0%} |",
        "|---|---|---|---|---|---|",
    ]
    for way, turns_of in found.items():
        cells, ratios = [], []
        for own, base in zip(
            zip(*turns_of, strict=True), zip(*found["in process"], strict=True), strict=True
        ):
            ratios.append(median(a / b for a, b in zip(own, base, strict=True)))
            cells += [f"{median(own):.1f} ({min(own):.1f} to {max(own):.1f})", f"{ratios[-1]:.3f}"]
        met = "yes" if all(abs(ratio - 1) <= AGREE for ratio in ratios) else "NO"
        lines.append(f"| {way} | {' | '.join(cells)} | {met} |")
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
            f" {host['system']}."
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default=USUAL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument(
        "--layers", type=int, default=22, help="fewer, to see whether all of it runs"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    page = run(given.variant, given.rounds, given.requests, given.layers)
    name = "three_ways" if given.variant == USUAL else f"three_ways-{given.variant}"
    out = given.out or RESULTS / f"{name}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    print(page)
