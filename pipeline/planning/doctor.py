"""`quantgate doctor`: what this machine has, and what each missing part would enable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline import capabilities
from pipeline.runtime import environments, machine

ENABLES = {
    "control": "the quantgate command, DVC, the gate and the report",
    "openvino": (
        "OpenVINO INT8 and INT4 artifacts, their evaluation and speed, the float32 reference"
    ),
    "vllm": "evaluation and speed of GPTQ, AWQ and unquantized checkpoints on vLLM",
    "gptq": "GPTQ and AWQ artifacts",
    "compressed": "artifacts of llm-compressor (compressed-tensors) and AutoRound",
}
ALL_GIB = 9  # of the pinned environments together, by du
GIB = 1 << 30


class Part(NamedTuple):
    part: str
    state: str
    enables: str


def show(as_json: bool = False) -> None:
    parts = [*_installed(), *_machine()]
    if as_json:
        print(json.dumps([part._asdict() for part in parts], indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "part", "state", "what it enables", title="quantgate doctor", title_justify="left"
    )
    for part in parts:
        table.add_row(*part)
    Console().print(table)


def _installed() -> Iterator[Part]:
    for name in environments.NAMES:
        state = (
            "installed" if environments.is_complete(name) else f"missing: quantgate setup {name}"
        )
        yield Part(f"environment {name}", state, ENABLES[name])
    for name, (environment, enables) in _engines().items():
        state = (
            "ready" if environments.is_complete(environment) else f"needs environment {environment}"
        )
        yield Part(f"engine {name}", state, enables)


def _machine() -> Iterator[Part]:
    described = machine.describe()
    for name, enables in machine.INSTRUCTION_SETS.items():
        yield Part(
            f"instructions {name}",
            "yes" if name in described["instruction_sets"] else "no",
            enables,
        )
    memory = described["memory_bytes"] / GIB
    yield Part(
        "memory",
        f"{memory:.0f} GiB",
        f"float32 reference of up to {memory * 0.8 / 4:.1f}e9 parameters",
    )
    free = machine.free_bytes(Path.cwd()) / GIB
    yield Part("disk, project", f"{free:.0f} GiB free", "artifacts: see quantgate plan RECIPE")
    home = environments.root()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    yield Part(
        "disk, environments",
        f"{machine.free_bytes(existing) / GIB:.0f} GiB free",
        f"{home} (all {len(environments.NAMES)}: {ALL_GIB} GiB)",
    )
    gpus = machine.gpus()
    yield Part("GPU", ", ".join(gpus) or "none", "vLLM on CUDA: QUANTGATE_DEVICE=cuda make setup")
    yield Part("processor", f"{described['cores']} cores", described["cpu"])


def _engines() -> dict[str, tuple[str, str]]:
    """Of each its environment, and what it is."""
    words = {"cpu": "the CPU", "cuda": "CUDA"}
    states = {
        "reference": (
            "openvino",
            "torch in float32 on the CPU: what every variant is compared with",
        )
    }
    for name, engine in capabilities.ENGINES.items():
        states[name] = (
            engine.environment,
            f"{engine.title} on {words[engine.device(environments.device())]}",
        )
    return states
