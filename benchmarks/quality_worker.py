"""Runs inside a tool environment: makes an artifact as the tool itself would, or measures one in
float32.

python -m benchmarks.quality_worker JOB.json ANSWER.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.evaluation import text
from pipeline.formats import layers
from pipeline.recipe import Divergence, Serve
from pipeline.records import Samples, Texts, read
from pipeline.source.checkpoint import linear_shapes


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Bits per weight of the linear layers; KL and negative log-likelihood of every compared
    window."""
    artifact, texts = Path(job["artifact"]), read(Path(job["texts"]), Texts)
    plan, serve = Divergence.model_validate(job["divergence"]), Serve.model_validate(job["serve"])
    with engines.open_weights(job["engine"], artifact, serve) as model:
        perplexity, divergence = text.measure(
            model, texts, plan, Path(job["logprobs"]), str, "weights", plan.chosen
        )
    windows = [
        {
            "text": scored.text,
            "index": window.index,
            "nll_nats": window.nll_nats,
            "tokens": window.tokens,
            "kl_nats": compared.kl_nats,
        }
        for scored, found in zip(perplexity, divergence, strict=True)
        for window, compared in zip(scored.windows, found.windows, strict=True)
    ]
    shapes = linear_shapes(Path(job["source"]))
    stored = (
        _ir_bytes(artifact, set(shapes))
        if job["engine"] == "openvino"
        else _safetensors_bytes(artifact, set(shapes))
    )
    return {
        "windows": windows,
        "bits": 8 * stored / sum(rows * columns for rows, columns in shapes.values()),
    }


def _safetensors_bytes(artifact: Path, names: set[str]) -> int:
    from safetensors import safe_open

    stored = 0
    for file in sorted(artifact.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            keys = tensors.keys()
            stored += sum(
                tensors.get_tensor(key).nbytes for key in keys if key.rpartition(".")[0] in names
            )
    return stored


def _ir_bytes(artifact: Path, names: set[str]) -> int:
    """Of every constant that ends in the weight of one of these layers."""
    stored = 0
    for operation in layers.read_ir(artifact).get_ops():
        if operation.get_type_name() == "Constant" and layers.ir_consumer(operation) in names:
            stored += operation.get_byte_size()
    return stored


def optimum_cli(job: dict[str, Any]) -> dict[str, Any]:
    command = [
        str(Path(sys.executable).with_name("optimum-cli")),
        "export",
        "openvino",
        "--model",
        job["source"],
        "--task",
        "text-generation-with-past",
        "--weight-format",
        "int4",
        job["artifact"],
    ]
    subprocess.run(command, check=True)
    return {}


def gptqmodel(job: dict[str, Any]) -> dict[str, Any]:
    os.environ.setdefault(
        "GPTQMODEL_CPU_WORKERS", "2"
    )  # with 2 cores or fewer its pool is too small without it
    from gptqmodel import GPTQModel, QuantizeConfig

    model = GPTQModel.load(
        job["source"], QuantizeConfig(bits=4, group_size=128, device="cpu"), trust_remote_code=False
    )
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in _samples(job)])
    model.save(job["artifact"])
    return {}


def auto_round(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from auto_round import AutoRound

    rows = [torch.tensor([ids]) for ids in _samples(job)]
    rounder = AutoRound(
        job["source"], scheme="W4A16", dataset=rows, seqlen=rows[0].shape[1], device_map="cpu"
    )
    rounder.quantize_and_save(job["artifact"], format="auto_gptq")
    for path in list(Path(job["artifact"]).glob("*/*")):  # it saves into a folder of its own
        path.rename(Path(job["artifact"]) / path.name)
    return {}


def _samples(job: dict[str, Any]) -> list[list[int]]:
    return read(Path(job["samples"]), Samples).ids


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "measure": measure,
    "optimum-cli": optimum_cli,
    "gptqmodel": gptqmodel,
    "auto-round": auto_round,
}

if __name__ == "__main__":
    request, answer = sys.argv[1:]
    job = json.loads(Path(request).read_text())
    Path(answer).write_text(json.dumps(TASKS[job["task"]](job)))
