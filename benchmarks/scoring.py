"""Does the deployed engine score at no less than 85 % of its bare prefill throughput? Both engines,
in one run.

    python -m benchmarks.scoring [--shape 1b|tiny] [--tokens N] [--repeats N]

Bare prefill: the same engine under the same settings put to the same token ids, for one new token
and no log-probabilities. Scoring: the pass of pipeline/evaluation/text.py. Writes
benchmarks/results/scoring.md."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline import engines, paths
from pipeline.runtime import environments, machine
from pipeline.runtime.process import ENVIRONMENT

LEAST = 0.85
SEED = 0
PASSES = ("prefill", "scoring", "divergence")
# TinyLlama-1.1B's shape, under the serving settings and the window of recipes/qwen3-0.6b.yaml; and
# recipes/tiny's own.
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "model": {
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 5632,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
        "serve": {
            "max_model_len": 4096,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "kv_cache_gib": 2,
        },
        "window": 2048,
        "tokens": 512,  # many short repeats: a machine's other load changes within minutes
    },
    "tiny": {
        "model": {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 256,
            "vocab_size": 1024,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
        },
        "serve": {
            "max_model_len": 512,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "kv_cache_gib": 1,
            "eager": True,
        },
        "window": 256,
        "tokens": 32768,
    },
}


def run(name: str, tokens: int | None, repeats: int) -> str:
    """The results page. Everything that is made on the way lies in one temporary folder."""
    shape = SHAPES[name]
    wanted = tokens or shape["tokens"]
    window = min(wanted, shape["window"])
    count = wanted // window
    rng = random.Random(SEED)
    ids = range(3, shape["model"]["vocab_size"])
    rounds = [[rng.choices(ids, k=window) for _ in range(count)] for _ in range(repeats)]
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scoring-", dir=paths.TEMPORARY) as temporary:
        folder = Path(temporary)
        (folder / "reference").mkdir()
        artifacts = {"openvino": folder / "exported", "vllm": folder / "checkpoint"}
        shared = {"rounds": rounds, "reference": str(folder / "reference")}
        places = {"checkpoint": str(artifacts["vllm"]), "exported": str(artifacts["openvino"])}
        made = _work(
            "openvino",
            {"task": "make", "seed": SEED, "model": shape["model"], **places, **shared},
            folder,
        )
        found = {}
        for engine, artifact in artifacts.items():
            job = {
                "task": "measure",
                "engine": engine,
                "artifact": str(artifact),
                "serve": shape["serve"],
                **shared,
            }
            load = [os.getloadavg()[0]]
            found[engine] = _work(engines.ENGINES[engine].environment, job, folder)
            found[engine]["load"] = [*load, os.getloadavg()[0]]
    about = {
        "shape": name,
        "parameters": made["parameters"],
        "vocabulary": shape["model"]["vocab_size"],
        "windows": count,
        "window": window,
        "repeats": repeats,
        "wall_s": time.monotonic() - started,
    }
    return _page(about, shape["serve"], found)


def _work(environment: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    request, out = folder / "job.json", folder / "out.json"
    request.write_text(json.dumps({**job, "out": str(out)}))
    print(f"scoring benchmark: {job['task']} {job.get('engine', '')}", file=sys.stderr, flush=True)
    command = [
        str(environments.python(environment)),
        "-m",
        "benchmarks.scoring_worker",
        str(request),
    ]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT, "TQDM_DISABLE": "1"}, check=True)
    answer: dict[str, Any] = json.loads(out.read_text())
    return answer


def _page(about: dict[str, Any], serve: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    tokens, host = about["windows"] * about["window"], machine.describe()
    lines = [
        f"# Scoring against bare prefill ({about['shape']})",
        (
            f"`python -m benchmarks.scoring --shape {about['shape']} --tokens {tokens} --repeats"
            f" {about['repeats']}`, {time.strftime('%Y-%m-%d')}, {about['wall_s']:.0f} s in all."
            f" Llama of random weights, {about['parameters'] / 1e6:.1f} M parameters, vocabulary"
            f" {about['vocabulary']}; a repeat is {about['windows']} window(s) of {about['window']}"
            f" random token ids; {about['repeats']} repeats of each pass, interleaved A B C C B A"
            " after a warm-up of each; divergence is taken at"
            f" {about['repeats'] * about['windows'] * (about['window'] - 1)} positions."
        ),
        "",
        (
            "Tokens/s: median (lowest to highest). Ratio to bare prefill: of the medians (95 %"
            " bootstrap over rounds); also in tokens per second of the worker's processor time,"
            " which other processes disturb less."
        ),
        "",
        (
            "| engine | bare prefill | scoring | ratio | at least 85 % | processor time | with"
            " divergence | ratio | processor time |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for engine, result in found.items():
        bare, scoring, divergence = (tokens / np.array(result["seconds"][key]) for key in PASSES)
        bare_cpu, scoring_cpu, divergence_cpu = (
            tokens / np.array(result["processor"][key]) for key in PASSES
        )
        met = "yes" if np.median(scoring) >= LEAST * np.median(bare) else "NO"
        lines.append(
            f"| {engine} | {_spread(bare)} | {_spread(scoring)} | {_ratio(scoring, bare)} | {met} |"
            f" {_ratio(scoring_cpu, bare_cpu)} | {_spread(divergence)} | {_ratio(divergence, bare)}"
            f" | {_ratio(divergence_cpu, bare_cpu)} |"
        )
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
            f" {host['system']}. `serve`: {json.dumps(serve)}."
        ),
        "",
    ]
    for engine, result in found.items():
        lines.append(
            f"- {engine}: {', '.join(f'{k} {v}' for k, v in result['versions'].items())};"
            f" {result['nats_per_token']:.4f} nats/token; loading the scorer"
            f" {result['loading_s']:.1f} s; load before and after {result['load'][0]:.1f},"
            f" {result['load'][1]:.1f}; other processes took {result['others_share']:.1%} of the"
            f" cores; settings {json.dumps(result['settings'])}"
        )
    return "\n".join(lines) + "\n"


def _spread(rates: Any) -> str:
    return f"{np.median(rates):.1f} ({rates.min():.1f} to {rates.max():.1f})"


def _ratio(ours: Any, bare: Any) -> str:
    """Rounds are drawn whole: the passes of one round ran next to each other, under much the same
    load."""
    drawn = np.random.default_rng(SEED).integers(0, len(bare), (10_000, len(bare)))
    low, high = np.quantile(
        np.median(ours[drawn], axis=1) / np.median(bare[drawn], axis=1), [0.025, 0.975]
    )
    return f"{median(ours) / median(bare):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--tokens", type=int, help="tokens of one repeat: one window or several")
    parser.add_argument("--repeats", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.md"))
    given = parser.parse_args()
    page = run(given.shape, given.tokens, given.repeats)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)
