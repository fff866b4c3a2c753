"""How much memory does INT4 for OpenVINO take, from a checkpoint? Our two stages beside
`optimum-cli`, on random weights.

    python -m benchmarks.memory [--shape 1.5b] [--alone] [--group FOLDER] [--out FILE]

Peak anonymous memory of the process tree, sampled: what cannot be given back to the system, unlike
mapped files. The aim: 0.6 of optimum-cli's. Each side writes the unquantized and the 4-bit model's
files, the second of ours from the first. With `--alone` ours only. FOLDER is a control group, with
the memory limit under which the tools are to run (the weights are made outside it)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline import paths, quantizers
from pipeline.recipe import Variant
from pipeline.records import Samples
from pipeline.runtime import environments, machine
from pipeline.runtime.process import ENVIRONMENT

AIM = 0.6
SAMPLE_S = 0.1
GROUP_SIZE = 128
TASK = "text-generation-with-past"
# Of Qwen2.5-1.5B and Llama-3.1-8B, as Llamas.
SHAPES: dict[str, dict[str, Any]] = {
    "1.5b": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
# A shard a block: the machine need not hold the model to make it.
MAKE = """
import collections, json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from pipeline.quantizers.export import copy_companions
torch.manual_seed(0)
out = Path(sys.argv[1])
out.mkdir()
with torch.device("meta"):
    shape = LlamaConfig(**json.loads(sys.argv[2]), dtype="bfloat16")
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
shards = collections.defaultdict(list)
for name, tensor in model.named_parameters():  # a tied one once
    block = name.split(".layers.")[1].split(".")[0] if ".layers." in name else name
    shards[f"model-{block}.safetensors"].append((name, tensor.shape))
places = {}
for file, tensors in shards.items():
    made = {name: 0.02 * torch.randn(size, dtype=torch.bfloat16) for name, size in tensors}
    save_file(made, out / file, metadata={"format": "pt"})
    places |= dict.fromkeys(made, file)
index = {"metadata": {}, "weight_map": places}
(out / "model.safetensors.index.json").write_text(json.dumps(index))
shape.architectures = ["LlamaForCausalLM"]
shape.save_pretrained(out)
copy_companions(Path("recipes/tiny/checkpoint"), out)
"""


def anonymous_bytes(process: psutil.Process) -> int:
    """Of a process and its children now."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
        except (OSError, psutil.Error):  # it ended meanwhile
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return total


def measured(command: list[str], group: Path | None) -> dict[str, float]:
    """Peak anonymous memory in GB, wall and processor seconds."""
    start, peak = time.monotonic(), 0
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), *command]
    before = os.times()
    running = psutil.Popen(
        command, env={**os.environ, **ENVIRONMENT, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL
    )
    while running.poll() is None:
        peak = max(peak, anonymous_bytes(running))
        time.sleep(SAMPLE_S)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    after = os.times()
    spent = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {"peak_gb": peak / 1e9, "wall_s": time.monotonic() - start, "cpu_s": spent}


def run(shape: str, alone: bool, group: Path | None) -> str:
    python = str(environments.python("openvino"))
    paths.TEMPORARY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.TEMPORARY) as temporary:
        folder = Path(temporary)
        source, samples = folder / "source", folder / "samples.json"
        subprocess.run([python, "-c", MAKE, str(source), json.dumps(SHAPES[shape])], check=True)
        Samples(
            prompts="none",
            seed=0,
            prompts_used=0,
            sha256="",
            overlap=0,
            overlap_limit=1,
            ids=[[1, 2]],
        ).write(samples)
        size_gb = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 1e9
        found = {}
        for name, variant, base in (
            ("export to bf16", Variant(engine="openvino"), None),
            (
                "INT4 of the export",
                Variant(
                    engine="openvino", quantizer="openvino", weights="int4", group_size=GROUP_SIZE
                ),
                "bf16",
            ),
        ):
            out = folder / ("int4" if base else "bf16")
            out.mkdir()
            request = folder / f"{out.name}.json"
            request.write_text(
                json.dumps(
                    quantizers.job(variant, source, samples, folder / base if base else None, out)
                )
            )
            command = [
                python,
                "-m",
                "pipeline.runtime.worker",
                "quantize",
                str(request),
                str(folder / "answer.json"),
                str(os.getpid()),
            ]
            found[name] = measured(command, group)
        if alone:
            return _page(found, shape, size_gb, group)
        cli = str(Path(python).with_name("optimum-cli"))
        settings = [
            "--weight-format",
            "int4",
            "--group-size",
            str(GROUP_SIZE),
            "--ratio",
            "1",
            "--task",
            "text-generation-with-past",
        ]
        found["optimum-cli"] = measured(
            [cli, "export", "openvino", "--model", str(source), *settings, str(folder / "cli")],
            group,
        )
    return _page(found, shape, size_gb, group)


def _share(ours: float, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if theirs else "not run"


def _page(
    found: dict[str, dict[str, float]], shape: str, size_gb: float, group: Path | None
) -> str:
    host = machine.describe()
    theirs = found.get("optimum-cli", {}).get("peak_gb")
    rows = [
        f"| {name} | {row['peak_gb']:.2f} | {_share(row['peak_gb'], theirs)} |"
        f" {row['wall_s']:.0f} | {row['cpu_s']:.0f} |"
        for name, row in found.items()
    ]
    worst = max(row["peak_gb"] for name, row in found.items() if name != "optimum-cli")
    outcome = (
        f"The larger of ours is {worst / theirs:.2f} of optimum-cli's, the aim {AIM}:"
        f" {'met' if worst <= AIM * theirs else 'MISSED'}."
        if theirs
        else f"The larger of ours is {worst:.2f} GB; optimum-cli was not run."
    )
    limit = ""
    if group is not None:
        held = int((group / "memory.limit_in_bytes").read_text())
        limit = f" Under a limit of {held / 1e9:.1f} GB, files in memory counted (control group)."
    return "\n".join(
        [
            "# Memory of INT4 for OpenVINO",
            "",
            (
                f"`python -m benchmarks.memory --shape {shape}`: {size_gb:.2f} GB of random"
                f" bfloat16 weights, groups of {GROUP_SIZE}."
            ),
            "",
            "| what | peak anonymous memory, GB | of optimum-cli's | wall s | CPU s |",
            "|---|---|---|---|---|",
            *rows,
            "",
            (
                f"{outcome}{limit} {host['cpu']}, {host['cores']} cores, shared with other work:"
                " times are upper bounds."
            ),
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="1.5b")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.md"))
    parser.add_argument("--alone", action="store_true", help="without optimum-cli")
    parser.add_argument("--group", type=Path, help="folder of a control group (v1) to run in")
    given = parser.parse_args()
    page = run(given.shape, given.alone, given.group)
    given.out.write_text(page)
    print(page)
