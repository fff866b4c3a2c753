"""Quality against bytes: each quantizer on one checkpoint, our defaults among the tools' own.

    python -m benchmarks.quality RECIPE [--out FILE]

RECIPE must have its reference and its unquantized OpenVINO artifact: `dvc repro reference@RECIPE
quantize@RECIPE--NAME`. All are calibrated on the recipe's samples and compared in float32 with the
weights that they store, over the recipe's compared windows. Writes benchmarks/results/quality.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import engines, paths, quantizers, records
from pipeline.errors import ArtifactError, QuantizeError, WorkerCrashed
from pipeline.evidence import keeping, opened
from pipeline.gate import statistics
from pipeline.recipe import Recipe, Variant, rungs
from pipeline.runtime import environments, machine, process
from pipeline.runtime.process import ENVIRONMENT, OFFLINE
from pipeline.source import checkpoint

CONFIDENCE = 0.95
FINDINGS = (
    QuantizeError,
    ArtifactError,
    WorkerCrashed,
    subprocess.CalledProcessError,
)  # an interruption is none
SAME_BYTES = 1.005  # what differs by less has the same bytes: zero-points, and g_idx of GPTQ files
OUR_DEFAULTS = {
    "openvino": ["openvino int4", "openvino int8"],
    "vllm": ["gptq int4", "awq int4", "compressed-tensors int4", "auto-round int4 format awq"],
}
OTHERS = {
    "openvino": [
        f"openvino int4 {words}"
        for words in ("g128 sym", "g128 awq", "g128 se", "g128 awq+se", "g32", "g32 awq+se")
    ],
    "vllm": [
        "gptq g128",
        "awq g128",
        "compressed-tensors g128 method awq",
        "compressed-tensors g128 method rtn",
        "auto-round g128 format gptq sym",
    ],
}
TOOLS_OWN = {
    "optimum-cli": ("openvino", "openvino"),
    "gptqmodel": ("gptq", "vllm"),
    "auto-round": ("compressed", "vllm"),
}


@dataclass
class Contender:
    """`bits` per weight of the linear layers; the lists are one a window: KL sums, positions, and
    change of the negative log-likelihood over the reference's, tokens."""

    name: str
    engine: str
    ours: bool
    bits: float = math.nan
    kl: list[float] = field(default_factory=list)
    positions: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    failure: str = ""


def run(name: str) -> str:
    """The results page. What was measured stays under artifacts/quality: a run that was stopped
    goes on there."""
    recipe, found = opened.recipe(name), []
    kept = paths.ARTIFACTS / "quality" / name
    for number, (contender, variant) in enumerate(tqdm(_jobs(), desc="quality", unit="artifact")):
        path = kept / f"{number}.json"
        known = Contender(**json.loads(path.read_text())) if path.is_file() else None
        if known is None or known.name != contender.name:
            known = _measured(name, recipe, contender, variant)
            records.write_text(path, json.dumps(asdict(known)))
        tqdm.write(known.failure or _line(known, []))
        found.append(known)
    return _page(name, found)


def _measured(
    name: str, recipe: Recipe, contender: Contender, variant: Variant | None
) -> Contender:
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.TEMPORARY, prefix="quality-") as temporary:
        try:
            _make(name, recipe, contender, variant, Path(temporary))
            _measure(name, recipe, contender, Path(temporary))
        except FINDINGS as error:
            contender.failure = " ".join(str(error).split())
    return contender


def _jobs() -> list[tuple[Contender, Variant | None]]:
    """None: made by the tool's own command under its own defaults."""
    jobs: list[tuple[Contender, Variant | None]] = []
    for engine, made in OUR_DEFAULTS.items():
        lines = made + OTHERS[engine]
        variants = rungs(Variant.model_validate({"engine": engine, "ladder": lines}))
        jobs += [
            (Contender(line, engine, line in made), variant)
            for line, variant in zip(lines, variants, strict=True)
        ]
    return [
        *jobs,
        *(
            (Contender(f"{tool}'s own", engine, ours=False), None)
            for tool, (_, engine) in TOOLS_OWN.items()
        ),
    ]


def _make(
    name: str, recipe: Recipe, contender: Contender, variant: Variant | None, folder: Path
) -> None:
    source, samples, out = (
        checkpoint.fetch(recipe.model).resolve(),
        paths.samples(name).resolve(),
        folder / "out",
    )
    out.mkdir()
    if variant is None:
        tool = contender.name.split("'")[0]
        _work(
            TOOLS_OWN[tool][0],
            {"task": tool, "source": str(source), "samples": str(samples), "artifact": str(out)},
            folder,
        )
        return
    base = quantizers.starts_from(recipe, variant)
    exported = keeping.verified(paths.place(name, base))[0] if base else None
    job = quantizers.job(variant, source, samples, exported, out)
    process.run(quantizers.tool(variant).environment, "quantize", job, folder)


def _measure(name: str, recipe: Recipe, contender: Contender, folder: Path) -> None:
    job = {
        "task": "measure",
        "engine": contender.engine,
        "artifact": str(folder / "out"),
        "source": str(checkpoint.fetch(recipe.model).resolve()),
        "serve": recipe.serve.model_dump(),
        "divergence": recipe.evaluate.divergence.model_dump(),
        "texts": str(paths.texts(name)),
        "logprobs": str(paths.logprobs(name)),
    }
    found = _work(engines.ENGINES[contender.engine].environment, job, folder)
    contender.bits = found["bits"]
    reference = (
        records.read(paths.evaluation(name, "reference"), records.Evaluation)
        .views["reference"]
        .perplexity
    )
    theirs = {
        (text.text, window.index): window.nll_nats for text in reference for window in text.windows
    }
    for window in found["windows"]:
        contender.kl.append(sum(window["kl_nats"]))
        contender.positions.append(float(len(window["kl_nats"])))
        contender.loss.append(window["nll_nats"] - theirs[window["text"], window["index"]])
        contender.tokens.append(float(window["tokens"]))


def _work(environment: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    request, out = folder / "job.json", folder / "answer.json"
    request.write_text(json.dumps(job))
    command = [
        str(environments.python(environment)),
        "-m",
        "benchmarks.quality_worker",
        str(request),
        str(out),
    ]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT, **OFFLINE}, check=True)
    answer: dict[str, Any] = json.loads(out.read_text())
    return answer


def better(one: Contender, other: Contender) -> bool:
    """Is `one` no larger, its mean KL surely smaller, and its perplexity not surely larger? Paired
    by window, one-sided."""
    if one.bits > other.bits * SAME_BYTES:
        return False
    closer = _lead(one.kl, other.kl, one.positions).low > 0
    return closer and _lead(one.loss, other.loss, one.tokens).high >= 0


def _lead(ours: list[float], theirs: list[float], counts: list[float]) -> statistics.Estimate:
    return statistics.ratio([b - a for a, b in zip(ours, theirs, strict=True)], counts, CONFIDENCE)


def _page(name: str, found: list[Contender]) -> str:
    made = sorted((one for one in found if not one.failure), key=lambda one: (one.engine, one.bits))
    host = machine.describe()
    lines = [
        f"# Quality against bytes: {name}",
        (
            f"`{' '.join(['python -m benchmarks.quality', *sys.argv[1:]])}`,"
            f" {time.strftime('%Y-%m-%d')}, on {host['cpu']}, {host['cores']} cores. In float32"
            " with the weights as stored, against the source in float32: mean KL at"
            f" {sum(made[0].positions):.0f} positions, and the ratio of perplexities over"
            f" {len(made[0].kl)} windows, one-sided 95 % bounds clustered by window. Bits are those"
            " of the linear layers in the blocks, scales and zero-points included. `ours`:"
            " quantizer and weights alone, everything else at our defaults; `own`: the tool itself"
            " at its defaults, on the same samples where it wants any. Better: no more bytes,"
            " surely a smaller mean KL, not surely a larger perplexity (paired by window)."
        ),
    ]
    for engine in dict.fromkeys(one.engine for one in made):
        group = [one for one in made if one.engine == engine]
        lines += [
            "",
            f"## For {engine}",
            "| | bits per weight | mean KL, nats | perplexity ratio | better ones |",
            "|---|---|---|---|---|",
        ]
        lines += [
            _line(one, [other.name for other in group if better(other, one)]) for one in group
        ]
    lines += ["", *(f"- {one.name}: not made: {one.failure}" for one in found if one.failure)]
    off = [
        one.name
        for one in made
        if one.ours and any(better(other, one) for other in made if other.engine == one.engine)
    ]
    lines += ["", f"Our defaults off the front: {', '.join(off) or 'none'}."]
    return "\n".join(lines) + "\n"


def _line(one: Contender, better_ones: list[str]) -> str:
    kl = statistics.ratio(one.kl, one.positions, CONFIDENCE)
    loss = statistics.ratio(one.loss, one.tokens, CONFIDENCE)
    name = f"**{one.name}** (ours)" if one.ours else one.name
    return (
        f"| {name} | {one.bits:.3f} | {kl.value:.5f} ({kl.low:.5f} to {kl.high:.5f}) |"
        f" {math.exp(loss.value):.4f} ({math.exp(loss.low):.4f} to {math.exp(loss.high):.4f}) |"
        f" {', '.join(better_ones) or 'none'} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.md"))
    given = parser.parse_args()
    page = run(given.recipe)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)
