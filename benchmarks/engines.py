"""OpenVINO and vLLM side by side on a random-weight model of TinyLlama-1.1B's shape, against the
memory bandwidth.

    python -m benchmarks.engines [--repeats N] [--out FILE]

The timing is the benchmark stage's own. Nothing is evaluated: the weights mean nothing. Writes
benchmarks/results/engines.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import random_project
from benchmarks.random_project import NAME
from pipeline import paths, records
from pipeline.benchmark import performance
from pipeline.benchmark.speed_statistics import closed_levels
from pipeline.recipe import Recipe
from pipeline.records import Benchmark, Level
from pipeline.runtime import machine
from pipeline.stages import benchmark, trace

EMBEDDING = 32000 * 2048  # parameters that a token looks up and does not read whole
EMBEDDING_BYTES = {
    "bf16": 2,
    "int8": 1,
    "int4": 1,
}  # OpenVINO's; vLLM's packed formats leave it in 16 bits


def run(repeats: int, requests: int, eager: bool, layers: int) -> str:
    """The results page. Everything that is made on the way lies in one temporary project."""
    started = time.monotonic()
    with random_project.opened(repeats, requests, eager) as recipe:
        random_project.make(recipe, layers, recipe.variants)
        trace.run(NAME)
        reads_gb_per_s = max(random_project.inside("openvino", "benchmarks.bandwidth").values())
        benchmark.measure(recipe, list(recipe.variants))
        found = {
            name: records.read(paths.benchmark(NAME, name), Benchmark) for name in recipe.variants
        }
    return _page(recipe, layers, found, reads_gb_per_s, time.monotonic() - started)


def _page(
    recipe: Recipe, layers: int, found: dict[str, Benchmark], reads_gb_per_s: float, wall_s: float
) -> str:
    plan, host = recipe.benchmark, machine.describe()
    lines = [
        f"# OpenVINO and vLLM side by side, TinyLlama-1.1B's shape, {layers} layers",
        (
            f"`{' '.join(['python -m benchmarks.engines', *sys.argv[1:]])}`,"
            f" {time.strftime('%Y-%m-%d')}, {wall_s / 60:.0f} min. Random weights. {plan.requests}"
            f" requests a replay, {plan.prompt_tokens} prompt and {plan.output_tokens} output"
            f" tokens, greedy, exact lengths; {plan.repeats} repeats, the variants taking turns A B"
            " B A."
        ),
        "",
        (
            f"Output tokens/s: median (95 % interval). Limit: {reads_gb_per_s:.1f} GB/s of memory"
            " reads, measured in this run (benchmarks/bandwidth), over the bytes of the weights"
            " that a token reads."
        ),
        "",
        (
            "| variant | profile | MB | at 1 | of the limit | at 8 | TTFT at 1, ms | TPOT at 1, ms"
            " | load, s | peak memory, GB |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in found.items():
        for profile, result in record.profiles.items():
            one, eight = closed_levels(result)
            share = (
                one.output_tokens_per_s.median
                * _bytes_read(recipe, name, record)
                / 1e9
                / reads_gb_per_s
            )
            lines.append(
                f"| {name} | {profile} | {(record.size_bytes or 0) / 1e6:.0f} | {_spread(one)} |"
                f" {share:.0%} | {_spread(eight)} | {_milliseconds(one, 'ttft_ms')} |"
                f" {_milliseconds(one, 'tpot_ms')} | {result.load_s.median:.1f} |"
                f" {result.peak_memory_bytes / 1e9:.2f} |"
            )
    lines += ["", f"The performance gate at `speedup: {json.dumps(random_project.SPEEDUP)}`:", ""]
    for name, variant in recipe.variants.items():
        base = recipe.baseline(variant)
        verdict = performance.performance(
            recipe, variant, found[name], found[base] if base else None
        )
        lines.append(f"- {name}: {verdict.status}: {verdict.reason}")
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
            f" {host['system']}. `serve`: {json.dumps(recipe.serve.model_dump())}."
        ),
        "",
    ]
    for name, record in found.items():
        lines += [f"- {name}, {p}: {json.dumps(r.settings)}" for p, r in record.profiles.items()]
        lines += [f"- {name}: notice: {notice}" for notice in record.notices]
    return "\n".join(lines) + "\n"


def _bytes_read(recipe: Recipe, name: str, record: Benchmark) -> float:
    """Everything but the embedding table, of which a token reads one row."""
    kept_whole = record.engine == "vllm"
    return (record.size_bytes or 0) - EMBEDDING * (
        2 if kept_whole else EMBEDDING_BYTES[recipe.variants[name].weights]
    )


def _spread(level: Level) -> str:
    rate = level.output_tokens_per_s
    return (
        f"{rate.median:.1f} ({rate.low:.1f} to {rate.high:.1f})"
        if rate.low is not None
        else f"{rate.median:.1f}"
    )


def _milliseconds(level: Level, key: str) -> str:
    latency = getattr(level, key)
    return "failed" if latency is None else f"{latency.estimate.median:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument(
        "--compiled", action="store_true", help="vLLM with torch.compile: starts minutes later"
    )
    parser.add_argument(
        "--layers", type=int, default=22, help="fewer, to see whether all of it runs"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.md"))
    given = parser.parse_args()
    page = run(given.repeats, given.requests, eager=not given.compiled, layers=given.layers)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)
