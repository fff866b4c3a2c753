"""OpenVINO and vLLM side by side on a random-weight model of TinyLlama-1.1B's shape, against the memory bandwidth.

    python -m benchmarks.engines [--repeats N] [--out FILE]

The artifacts are made by the pipeline itself, but for the two packed ones (benchmarks/random_model). The timing is the
benchmark stage's own. Nothing is evaluated: the weights mean nothing. Writes benchmarks/results/engines.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import three_ways
from pipeline import artifact, environments, machine, paths, records, stages
from pipeline import recipe as recipes
from pipeline.benchmark import performance, remote, rounds
from pipeline.benchmark.statistics import closed_levels
from pipeline.process import ENVIRONMENT
from pipeline.recipe import Recipe
from pipeline.records import Benchmark, Layers, Level, Manifest

NAME = "random-1b"
SERVED = "vllm-bf16"  # measured over HTTP too
EMBEDDING = 32000 * 2048  # parameters that a token looks up and does not read whole
EMBEDDING_BYTES = {"bf16": 2, "int8": 1, "int4": 1}  # OpenVINO's; vLLM's packed formats leave it in 16 bits
LINKED = ("pipeline", "benchmarks", "calibration", "environments", "dvc.yaml")
SPEEDUP = {"int8": 1.2, "int4": 1.5}
RECIPE = """\
model: {{path: source}}
calibration: {{prompts: tiny-prompts, samples: 64, tokens: 512, max_overlap: 1}}
evaluate: {{perplexity: {{texts: [tiny-text], window: 256}}, tasks: {{world_facts: all}}, task_path: recipes/tiny/tasks}}
gate:
  perplexity_ratio: {{bf16: 2, int8: 2, int4: 2}}
  mean_kl: {{bf16: 2, int8: 2, int4: 2}}
  p99_kl: {{bf16: 2, int8: 2, int4: 2}}
  top1_agreement: {{bf16: 0.5, int8: 0.5, int4: 0.5}}
  accuracy_drop: {{bf16: 0.5, int8: 0.5, int4: 0.5}}
  task_drop: {{bf16: 0.5, int8: 0.5, int4: 0.5}}
  speedup: {speedup}
serve: {{max_model_len: 2048, max_num_seqs: 8, max_num_batched_tokens: 2048, kv_cache_gib: 1, eager: {eager}}}
benchmark: {{concurrency: [1, 8], prompt_tokens: 32, output_tokens: 48, requests: {requests}, repeats: {repeats}}}
variants:
  ov-bf16: {{engine: openvino}}
  ov-int8: {{engine: openvino, quantizer: openvino, weights: int8}}
  ov-int4: {{engine: openvino, quantizer: openvino, weights: int4, group_size: 128}}
  vllm-bf16: {{engine: vllm}}
  gptq-int4: {{engine: vllm, quantizer: gptq, weights: int4, group_size: 128}}
  awq-int4: {{engine: vllm, quantizer: awq, weights: int4, group_size: 128}}
"""


def run(repeats: int, requests: int, eager: bool, layers: int) -> str:
    """The results page. Everything that is made on the way lies in one temporary project."""
    root, started = Path.cwd(), time.monotonic()
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="engines-", dir=paths.TEMPORARY) as temporary:
        _project(root, Path(temporary), repeats, requests, eager)
        os.chdir(temporary)
        try:
            recipe = recipes.load(NAME)
            _make(recipe, layers)
            rounds.trace(NAME)
            reads_gb_per_s = max(_in("openvino", "benchmarks.bandwidth").values())
            rounds.measure(NAME, recipe, list(recipe.variants))
            found = {name: records.read(paths.benchmark(NAME, name), Benchmark) for name in recipe.variants}
            ways = _over_http(recipe, found[SERVED])
        finally:
            os.chdir(root)
    return _page(recipe, layers, found, reads_gb_per_s, time.monotonic() - started) + three_ways.page(SERVED, ways)


def _project(root: Path, folder: Path, repeats: int, requests: int, eager: bool) -> None:
    for name in LINKED:
        (folder / name).symlink_to(root / name)
    (folder / "recipes").mkdir()
    (folder / "recipes" / "tiny").symlink_to(root / "recipes" / "tiny")
    text = RECIPE.format(repeats=repeats, requests=requests, eager=str(eager).lower(), speedup=json.dumps(SPEEDUP))
    (folder / "recipes" / f"{NAME}.yaml").write_text(text)


def _make(recipe: Recipe, layers: int) -> None:
    packed = {name: paths.model(NAME, name) for name in ("gptq-int4", "awq-int4")}
    _in("openvino", "benchmarks.random_model", "source", *map(str, packed.values()), str(layers))
    stages.pin(NAME)
    stages.calibrate(NAME)
    for name, variant in recipe.variants.items():
        if name not in packed:
            stages.quantize(NAME, name)
            continue
        Manifest(
            recipe=NAME, variant=name, engine=variant.engine, device="cpu", quantizer=variant.quantizer,
            answered_by="benchmarks/random_model", weights=variant.weights, requested=variant.settings(), resolved={},
            notes=["random bits: its speed means something, its answers do not"],
            layers=Layers(expected=0, quantized=0, skipped=[]), stored_types={}, versions={}, checkpoint_sha256="",
            samples_sha256=None, files=artifact.hash_files(packed[name]), wall_s=0.0, peak_memory_bytes=0,
        ).write(paths.manifest(NAME, name))  # fmt: skip


def _over_http(recipe: Recipe, in_process: Benchmark) -> dict[str, list[float]]:
    remote.benchmark_http(NAME, SERVED, None, None)
    over_http = records.read(paths.http(NAME, SERVED), Benchmark)
    return {
        "in process": three_ways.rates(in_process),
        "over HTTP by quantgate": three_ways.rates(over_http),
        "`vllm bench serve`": three_ways.bench_serve(paths.model(NAME, SERVED), recipe),
    }


def _in(environment: str, module: str, *arguments: str) -> Any:
    """Runs a module in a tool environment; its last line of output, if it is JSON."""
    command = [str(environments.python(environment)), "-m", module, *arguments]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, stdout=subprocess.PIPE, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def _page(recipe: Recipe, layers: int, found: dict[str, Benchmark], reads_gb_per_s: float, wall_s: float) -> str:
    plan, host = recipe.benchmark, machine.describe()
    lines = [
        f"# OpenVINO and vLLM side by side, TinyLlama-1.1B's shape, {layers} layers",
        f"`{' '.join(['python -m benchmarks.engines', *sys.argv[1:]])}`, {time.strftime('%Y-%m-%d')}, {wall_s / 60:.0f} min. "
        f"Random weights. {plan.requests} requests a replay, {plan.prompt_tokens} prompt and "
        f"{plan.output_tokens} output tokens, greedy, exact lengths; {plan.repeats} repeats, the variants taking turns A B B A.",
        "",
        f"Output tokens/s: median (95 % interval). Limit: {reads_gb_per_s:.1f} GB/s of memory reads, measured in this run "
        "(benchmarks/bandwidth), over the bytes of the weights that a token reads.",
        "",
        "| variant | profile | MB | at 1 | of the limit | at 8 | TTFT at 1, ms | TPOT at 1, ms | load, s | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in found.items():
        for profile, result in record.profiles.items():
            one, eight = closed_levels(result)
            share = one.output_tokens_per_s.median * _bytes_read(recipe, name, record) / 1e9 / reads_gb_per_s
            lines.append(
                f"| {name} | {profile} | {(record.size_bytes or 0) / 1e6:.0f} | {_spread(one)} | {share:.0%} | {_spread(eight)} "
                f"| {_milliseconds(one, 'ttft_ms')} | {_milliseconds(one, 'tpot_ms')} | {result.load_s.median:.1f} "
                f"| {result.peak_memory_bytes / 1e9:.2f} |"
            )
    lines += ["", f"The performance gate at `speedup: {json.dumps(SPEEDUP)}`:", ""]
    for name, variant in recipe.variants.items():
        base = recipe.baseline(variant)
        verdict = performance.performance(recipe, variant, found[name], found[base] if base else None)
        lines.append(f"- {name}: {verdict.status}: {verdict.reason}")
    lines += ["", f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}), {host['system']}. "
              f"`serve`: {json.dumps(recipe.serve.model_dump())}.", ""]  # fmt: skip
    for name, record in found.items():
        lines += [f"- {name}, {p}: {json.dumps(r.settings)}" for p, r in record.profiles.items()]
        lines += [f"- {name}: notice: {notice}" for notice in record.notices]
    return "\n".join(lines) + "\n"


def _bytes_read(recipe: Recipe, name: str, record: Benchmark) -> float:
    """Everything but the embedding table, of which a token reads one row."""
    kept_whole = record.engine == "vllm"
    return (record.size_bytes or 0) - EMBEDDING * (2 if kept_whole else EMBEDDING_BYTES[recipe.variants[name].weights])


def _spread(level: Level) -> str:
    rate = level.output_tokens_per_s
    return f"{rate.median:.1f} ({rate.low:.1f} to {rate.high:.1f})" if rate.low is not None else f"{rate.median:.1f}"


def _milliseconds(level: Level, key: str) -> str:
    latency = getattr(level, key)
    return "failed" if latency is None else f"{latency.estimate.median:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--compiled", action="store_true", help="vLLM with torch.compile: starts minutes later")
    parser.add_argument("--layers", type=int, default=22, help="fewer, to see whether all of it runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.md"))
    given = parser.parse_args()
    page = run(given.repeats, given.requests, eager=not given.compiled, layers=given.layers)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)
