"""`quantgate plan`: what would run, where, and a rough estimate of disk, memory and time before anything starts.

The estimates are rules of thumb, set by hand from a few runs and not fitted; they tell hours from
minutes and whether it fits, no more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import checkpoint, engines, machine, paths, power, quantizers
from pipeline.errors import CheckpointError
from pipeline.gate import limits
from pipeline.recipe import Recipe, Variant, ladder, rungs
from pipeline.records import Checkpoint, Texts, read

# Per parameter, embeddings and scales included.
BYTES = {"bf16": 2.0, "int8": 1.05, "int4": 0.65, "nf4": 0.65, "mxfp4": 0.65, "fp8": 1.05, "int2": 2.0}
ENGINE_OVERHEAD_BYTES = {"openvino": 0.6e9, "vllm": 1.5e9, "reference": 0.6e9}
START_S = {"openvino": 10, "vllm": 30, "reference": 10}
FLOPS_PER_CORE = 60e9
DEFAULT_WINDOWS = 141  # WikiText-2 test in windows of 2048
DEFAULT_ITEMS = 2500
USUAL_VOCABULARY = 128_256
EXPERTS = ("moe", "mixtral")
TOKENS_PER_ITEM = 96  # LAMBADA 80, ARC-Easy and PIQA 60, whose choices share their context; more where there are examples
QUANTIZE_S_PER_PARAMETER = {"openvino": 1e-7, "gptqmodel": 8e-7, "compressed": 8e-7, "autoround": 8e-6, "neural": 3e-7,
                            "unquantized": 1e-9, "rounding": 1e-7}  # fmt: skip
QUANTIZE_MEMORY_PER_PARAMETER = {"openvino": 4.5, "gptqmodel": 3.0, "compressed": 4.0, "autoround": 6.0, "neural": 12.0,
                                 "unquantized": 0.0, "rounding": 4.5}  # fmt: skip
QUANTIZE_MEMORY_BYTES = {"openvino": 3.1e9, "gptqmodel": 0.8e9, "compressed": 0.8e9, "autoround": 0.8e9, "neural": 3.1e9,
                         "unquantized": 0.1e9, "rounding": 3.1e9}  # fmt: skip


class Estimate(NamedTuple):
    stage: str
    environment: str
    disk_bytes: float
    memory_bytes: float
    seconds: float


def show(name: str, recipe: Recipe) -> None:
    from rich.console import Console
    from rich.table import Table

    parameters = _parameters(name, recipe)
    console = Console()
    if parameters is None:
        console.print("The checkpoint is not here and model.parameters is not given: no estimates.")
    table = Table("stage", "environment", "disk", "memory", "time", title=f"plan {name}", title_justify="left")
    rows = estimate(name, recipe, parameters or 0)
    for row in rows:
        figures = (_size(row.disk_bytes), _size(row.memory_bytes), _duration(row.seconds)) if parameters else ("?",) * 3
        table.add_row(row.stage, row.environment, *figures)
    if parameters:
        table.add_section()
        peak = max(row.memory_bytes for row in rows)
        table.add_row("all", "", _size(sum(r.disk_bytes for r in rows)), f"{_size(peak)} at most",
                      _duration(sum(r.seconds for r in rows)))  # fmt: skip
    console.print(table)
    if parameters:
        for shortage in _shortages(rows):
            console.print(f"[red]Does not fit: {shortage}[/]")
    _show_power(console, name, recipe, power.count_items(name, recipe))
    console.print(f"Everything:  dvc repro require@{name}\nOne variant: dvc repro gate@{name}--VARIANT", soft_wrap=True)


def _show_power(console: Any, name: str, recipe: Recipe, items: dict[str, int | None]) -> None:
    """The smallest drop of accuracy that the items tell from none, beside the limits that they are to decide."""
    from rich.table import Table

    heads = [f"at {rate:.0%} changed" for rate in power.FLIPS]
    table = Table("task", "items", *heads, "limits", title=f"smallest drop decided (power {power.POWER:.0%})", title_justify="left")
    for row in power.of(recipe, items):
        margins = ", ".join(f"{weights} {margin:.2%}" for weights, margin in row.margins.items())
        cells = [f"{drop:.2%}" for drop in row.detectable] or ["?"] * len(heads)
        table.add_row(row.task, "?" if row.items is None else f"{row.items:,}", *cells, margins)
    console.print(table)
    console.print(
        "A limit below the drop that is decided mostly ends INCONCLUSIVE: draw more items or widen the limit.", soft_wrap=True
    )
    _show_blindness(console, name, recipe)


def _show_blindness(console: Any, name: str, recipe: Recipe) -> None:
    """Which share of damaged windows the compared ones can miss, and whether gate.rare allows that."""
    rare, confidence = recipe.gate.rare, recipe.gate.confidence
    compared = len(recipe.evaluate.divergence.chosen(_windows(name, recipe)))
    blind = limits.unseen(compared, confidence)
    console.print(f"{compared} compared windows can miss damage that sits in {blind:.1%} of a text's windows.", soft_wrap=True)
    if rare is not None and blind > rare:
        wanted = limits.windows_for(rare, confidence)
        console.print(
            f"[red]No PASS can come: gate.rare asks for {rare:.1%}. Set evaluate.divergence.windows to {wanted}, and take texts "
            "with as many windows.[/]",
            soft_wrap=True,
        )


def _windows(name: str, recipe: Recipe) -> int:
    """Of the shortest text; where the texts are not here, what the recipe asks for or a usual text has."""
    if paths.texts(name).is_file():
        return min(len(text.windows) for text in read(paths.texts(name), Texts).texts)
    return recipe.evaluate.perplexity.max_windows or DEFAULT_WINDOWS


def _shortages(rows: list[Estimate]) -> list[str]:
    """Which resource of this machine is smaller than the plan needs."""
    memory, disk = max(row.memory_bytes for row in rows), sum(row.disk_bytes for row in rows)
    has_memory, has_disk = machine.describe()["memory_bytes"], machine.free_bytes(Path.cwd())
    found = [("memory", memory, has_memory), ("disk", disk, has_disk)]
    return [f"{name} {_size(needs)}, this machine has {_size(has)}" for name, needs, has in found if needs > has]


def estimate(name: str, recipe: Recipe, parameters: int) -> list[Estimate]:
    """One row a stage, in the order in which DVC runs them; of a ladder all rungs, though it may end at the first."""
    tokens = _evaluation_tokens(name, recipe)
    positions = recipe.evaluate.divergence.positions
    rows = [
        Estimate("pin", "control", 0 if recipe.model.path else 2 * parameters, 0.2e9, parameters * 4e-9),
        _calibration(name, recipe, parameters),
        _evaluation("reference", "reference", 4.0, parameters, tokens)._replace(disk_bytes=4.0 * positions * _vocabulary(recipe)),
    ]
    for variant_name, variant in recipe.variants.items():
        for rung in rungs(variant):
            label = f"{variant_name}, {ladder.words(rung)}" if variant.ladder else variant_name
            rows += _variant(label, rung, recipe, parameters, tokens)
    return [*rows, _benchmark(recipe, parameters)]


def _calibration(name: str, recipe: Recipe, parameters: int) -> Estimate:
    """Of a mixture of experts the source itself runs, to count the tokens of each expert."""
    tokens = recipe.calibration.samples * recipe.calibration.tokens
    with_model = Estimate("calibrate", "openvino", 0, 0.6e9 + 2 * parameters, 10 + _forward_s(parameters, tokens))
    return with_model if _has_experts(name, recipe) else Estimate("calibrate", "openvino", 0, 0.6e9, 10)


def _variant(label: str, variant: Variant, recipe: Recipe, parameters: int, tokens: float) -> list[Estimate]:
    made_by = quantizers.tool(variant)
    tool, size = made_by.module.rsplit(".", 1)[1], _size_per_parameter(variant)
    memory = QUANTIZE_MEMORY_PER_PARAMETER[tool] * parameters + QUANTIZE_MEMORY_BYTES[tool]
    seconds = 15 + QUANTIZE_S_PER_PARAMETER[tool] * parameters
    return [
        Estimate(f"quantize {label}", made_by.environment, size * parameters, memory, seconds),
        _evaluation(f"evaluate {label}", variant.engine, size, parameters, tokens, recipe),
    ]


def _evaluation(stage: str, engine: str, size: float, parameters: int, tokens: float, recipe: Recipe | None = None) -> Estimate:
    again = recipe.evaluate if recipe else None  # the weights view scores the compared windows once more
    compared = again.divergence.windows * len(again.perplexity.texts) * again.perplexity.window if again else 0
    seconds = START_S[engine] + _forward_s(parameters, tokens + compared)
    return Estimate(stage, engines.ENGINES[engine].environment, 0, _memory(engine, size, parameters, recipe), seconds)


def _forward_s(parameters: int, tokens: float) -> float:
    return 2 * parameters * tokens / (FLOPS_PER_CORE * (os.cpu_count() or 1))


def _benchmark(recipe: Recipe, parameters: int) -> Estimate:
    """All variants in one stage; those that memory has no room for besides the others are loaded again each turn."""
    sizes = {name: _size_per_parameter(variant) * parameters for name, variant in recipe.variants.items()}
    seconds = sum(_timed_s(variant, sizes[name], recipe) for name, variant in recipe.variants.items())
    memory = max(_memory(v.engine, _size_per_parameter(v), parameters, recipe) for v in recipe.variants.values())
    return Estimate("benchmark", "openvino, vllm", 0, memory, seconds)


def _timed_s(variant: Variant, size_bytes: float, recipe: Recipe) -> float:
    plan = recipe.benchmark
    profiles = 2 if plan.matched and variant.engine == "openvino" else 1
    closed = sum(plan.repeats * plan.requests / level * plan.output_tokens for level in plan.concurrency)
    opened = sum(plan.repeats * plan.requests / max(plan.concurrency) * plan.output_tokens / part for part in plan.open_loop)
    step_s = size_bytes / 10e9 + 0.005  # each decoding step reads all weights once
    return profiles * (START_S[variant.engine] + closed * step_s) + opened * step_s


def _size_per_parameter(variant: Variant) -> float:
    return BYTES["bf16" if quantizers.tool(variant).simulated else variant.weights]


def _memory(engine: str, size: float, parameters: int, recipe: Recipe | None) -> float:
    cache = recipe.serve.kv_cache_gib * (1 << 30) if recipe else 0
    return size * parameters + ENGINE_OVERHEAD_BYTES[engine] + cache


def _evaluation_tokens(name: str, recipe: Recipe) -> float:
    if paths.texts(name).is_file():
        windows = sum(len(text.windows) for text in read(paths.texts(name), Texts).texts)
    else:
        perplexity = recipe.evaluate.perplexity
        windows = len(perplexity.texts) * (perplexity.max_windows or DEFAULT_WINDOWS)
    items = sum(DEFAULT_ITEMS if wanted == "all" else wanted for wanted in recipe.evaluate.items.values())
    return windows * recipe.evaluate.perplexity.window + items * TOKENS_PER_ITEM


def _parameters(name: str, recipe: Recipe) -> int | None:
    if paths.checkpoint(name).is_file():
        return read(paths.checkpoint(name), Checkpoint).parameters
    if recipe.model.path is not None:
        try:
            tensors = checkpoint.source_tensors(checkpoint.fetch(recipe.model))
        except CheckpointError:
            return recipe.model.parameters
        return sum(_count(tensor.shape) for tensor in tensors.values())
    return recipe.model.parameters


def _has_experts(name: str, recipe: Recipe) -> bool:
    """By the name of the architecture, of a checkpoint that lies here or was pinned."""
    if paths.checkpoint(name).is_file():
        architecture = read(paths.checkpoint(name), Checkpoint).architecture
    else:
        config = Path(recipe.model.path or "") / "config.json"
        architecture = json.loads(config.read_text())["architectures"][0] if recipe.model.path and config.is_file() else ""
    return any(word in architecture.lower() for word in EXPERTS)


def _vocabulary(recipe: Recipe) -> int:
    """Of a local checkpoint; of one that is not here, what large models have today."""
    config = Path(recipe.model.path or "") / "config.json"
    return int(json.loads(config.read_text())["vocab_size"]) if recipe.model.path and config.is_file() else USUAL_VOCABULARY


def _count(shape: tuple[int, ...]) -> int:
    from math import prod

    return prod(shape)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
