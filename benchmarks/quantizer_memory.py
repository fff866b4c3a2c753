"""How much memory do GPTQ, AWQ and AutoRound take beside the model's own size? The same widths with
few and with more blocks, of random weights.

    python -m benchmarks.quantizer_memory [--blocks N N] [--methods NAME ...] [--out FILE]

Peak anonymous memory of the process tree, as in benchmarks/memory.py, whose shape of 1.5 billion
parameters this is. A tool that goes block by block over a mapped source holds no more for more
blocks: what a block adds to the peak is given beside the bytes that it has in the source."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.memory import MAKE, SHAPES, measured
from pipeline import paths, quantizers
from pipeline.recipe import Variant
from pipeline.records import Samples
from pipeline.runtime import environments, machine

SHAPE = "1.5b"
ROWS, TOKENS = 128, 256  # of calibration, as the recipes of tests/real have it
LEAST_ID = 5  # below are special tokens
COMMON: dict[str, Any] = {"engine": "vllm", "weights": "int4", "group_size": 128}
METHODS = {
    "gptq": Variant(**COMMON, quantizer="gptq"),
    "awq": Variant(**COMMON, quantizer="awq"),
    "auto-round": Variant(**COMMON, quantizer="auto-round", format="awq", iterations=20),
    "compressed-tensors": Variant(**COMMON, quantizer="compressed-tensors"),
}


def made(blocks: int, folder: Path) -> tuple[Path, int]:
    """The checkpoint, and the bytes of one of its blocks."""
    source = folder / f"source-{blocks}"
    shape = json.dumps(SHAPES[SHAPE] | {"num_hidden_layers": blocks})
    python = str(environments.python("openvino"))
    subprocess.run([python, "-c", MAKE, str(source), shape], check=True)
    return source, (source / "model-0.safetensors").stat().st_size


def calibration(folder: Path) -> Path:
    drawn = random.Random(0)
    most = SHAPES[SHAPE]["vocab_size"] - 1
    ids = [[drawn.randint(LEAST_ID, most) for _ in range(TOKENS)] for _ in range(ROWS)]
    path = folder / "samples.json"
    Samples(
        prompts="random", seed=0, prompts_used=ROWS, sha256="", overlap=0, overlap_limit=1, ids=ids
    ).write(path)
    return path


def quantized(method: str, source: Path, samples: Path, folder: Path) -> dict[str, float]:
    variant, out = METHODS[method], folder / f"{method}-{source.name}"
    out.mkdir()
    request = folder / f"{out.name}.json"
    request.write_text(json.dumps(quantizers.job(variant, source, samples, None, out)))
    python = environments.python(quantizers.tool(variant).environment)
    answer = folder / f"{out.name}.answer.json"
    worker = [str(python), "-m", "pipeline.runtime.worker", "quantize"]
    return measured([*worker, str(request), str(answer), str(os.getpid())], None)


def run(methods: list[str], blocks: list[int]) -> str:
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(dir=paths.TEMPORARY) as temporary:
        folder = Path(temporary)
        samples = calibration(folder)
        (few, a_block), (more, _) = (made(count, folder) for count in blocks)
        for method in methods:
            first, then = (quantized(method, source, samples, folder) for source in (few, more))
            added = (then["peak_gb"] - first["peak_gb"]) / (blocks[1] - blocks[0])
            rows.append(
                f"| {method} | {first['peak_gb']:.2f} | {then['peak_gb']:.2f} |"
                f" {1e3 * added:.0f} | {1e9 * added / a_block:.2f} |"
                f" {then['wall_s']:.0f} | {then['cpu_s']:.0f} |"
            )
            print(rows[-1], flush=True)
    return page(rows, blocks, methods, a_block)


def page(rows: list[str], blocks: list[int], methods: list[str], a_block: int) -> str:
    host = machine.describe()
    few, more = blocks
    arguments = f"--blocks {few} {more} --methods {' '.join(methods)}"
    return "\n".join(
        [
            "# Memory of the quantizers for vLLM",
            "",
            (
                f"`python -m benchmarks.quantizer_memory {arguments}`: blocks of Qwen2.5-1.5B's"
                f" widths, {a_block / 1e6:.0f} MB each in bfloat16, random weights; {ROWS} rows of"
                f" {TOKENS} tokens."
            ),
            "",
            (
                f"| method | peak at {few} blocks, GB | at {more} | added by a block, MB |"
                f" of its size | wall s at {more} | CPU s |"
            ),
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Peaks are anonymous memory. {host['cpu']}, {host['cores']} cores, shared with other"
            " work: times are upper bounds.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, nargs=2, default=[2, 8])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantizer_memory.md"))
    options = parser.parse_args()
    text = run(options.methods, options.blocks)
    print(text)
    options.out.write_text(text)


if __name__ == "__main__":
    main()
