"""Quantizers: the table of what each can make and which engine serves it; one file per tool beside this one.

A tool's module has `quantize(spec, source, samples, out) -> Outcome` and imports its heavy packages only inside.
`refuse` raises before any work what the table says is impossible; what it says was tried (docs/decisions.md).
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import layers
from pipeline.checkpoint import linear_shapes
from pipeline.errors import QuantizeError, RecipeError
from pipeline.recipe import Recipe, Variant
from pipeline.records import Samples, read


@dataclass(frozen=True)
class Row:
    """What one quantizer can make. `settings` are the recipe keys it understands."""

    module: str
    environment: str
    engines: tuple[str, ...]
    weights: tuple[str, ...]
    settings: tuple[str, ...]
    packages: tuple[str, ...]
    answered_by: str
    simulated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a tool did: every setting as it was really used, and notes worth a reviewer's eye."""

    resolved: dict[str, Any]
    notes: list[str] = field(default_factory=list)


_GPTQ = Row(
    module="pipeline.quantizers.gptqmodel",
    environment="gptq",
    engines=("vllm",),
    weights=("int4",),
    settings=("group_size", "symmetric", "desc_act"),
    packages=("gptqmodel", "torch", "transformers"),
    answered_by="GPTQModel",
)
_AWQ = replace(_GPTQ, settings=("group_size", "symmetric"))
_OPENVINO = Row(
    module="pipeline.quantizers.openvino",
    environment="openvino",
    engines=("openvino",),
    weights=("int8", "int4"),
    settings=("group_size", "symmetric", "ratio", "awq", "scale_estimation"),
    packages=("optimum-intel", "nncf", "openvino", "openvino-tokenizers", "torch", "transformers"),
    answered_by="optimum-intel with NNCF",
)
UNQUANTIZED = {
    "openvino": replace(_OPENVINO, weights=("bf16",), settings=(), answered_by="optimum-intel"),
    "vllm": Row(
        module="pipeline.quantizers.unquantized",
        environment="vllm",
        engines=("vllm",),
        weights=("bf16",),
        settings=(),
        packages=(),
        answered_by="copy of the source",
    ),
}
QUANTIZERS = {
    "openvino": _OPENVINO,
    "gptq": _GPTQ,
    "awq": _AWQ,
    "auto-gptq": replace(
        _GPTQ,
        note="auto-gptq 0.7.1 is at its end of life and refuses to quantize without CUDA; GPTQModel, its maintained "
        "successor, made this artifact in the same format.",
    ),
    "autoawq": replace(
        _AWQ,
        note="autoawq 0.2.9 is at its end of life and writes broken models on a CPU; GPTQModel, its maintained "
        "successor, made this artifact in the same format.",
    ),
    "rounding": Row(
        module="pipeline.quantizers.rounding",
        environment="openvino",
        engines=("openvino", "vllm"),
        weights=("int8", "int4", "int2"),
        settings=("group_size",),
        packages=("torch", "safetensors", "optimum-intel"),
        answered_by="quantgate",
        simulated=True,
        note="Simulated: weights rounded to the nearest level and stored as 16-bit floats. A baseline for the gate's own "
        "tests, never smaller or faster.",
    ),
}
METHOD = {"auto-gptq": "gptq", "autoawq": "awq"}
GROUP_SIZES = (-1, 32, 64, 128)  # that GPTQModel writes and vLLM's kernels read
RATIO_SLACK = 0.1  # whole layers are chosen, so a small model cannot meet a ratio exactly
DIVISOR = 32  # vLLM's 4-bit kernels need in and out features in multiples of this


def row(variant: Variant) -> Row:
    return UNQUANTIZED[variant.engine] if variant.quantizer is None else QUANTIZERS[variant.quantizer]


def refuse(file: Path, recipe: Recipe) -> None:
    """Raises RecipeError for every variant that no tool makes or no engine serves, with the nearest that is."""
    problems = [f"{file}: variants.{name}.{problem}" for name, variant in recipe.variants.items() for problem in _problems(variant)]
    if problems:
        raise RecipeError("\n".join(problems))


def _problems(variant: Variant) -> list[str]:
    quantizer, engine = variant.quantizer, variant.engine
    if quantizer is None:
        return []
    if quantizer not in QUANTIZERS:
        close = difflib.get_close_matches(quantizer, QUANTIZERS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return [f"quantizer: found {quantizer!r}, expected one of {', '.join(QUANTIZERS)}.{hint}"]
    table = QUANTIZERS[quantizer]
    problems = []
    if engine not in table.engines:
        fits = [name for name, other in QUANTIZERS.items() if engine in other.engines and not other.simulated]
        problems.append(
            f"quantizer: {quantizer!r} artifacts are not served by {engine!r}, expected engine "
            f"{' or '.join(table.engines)}. For {engine!r} use quantizer {' or '.join(fits)}."
        )
    if variant.weights not in table.weights:
        problems.append(
            f"weights: found {variant.weights!r}; of {quantizer!r}, {' and '.join(table.engines)} on a CPU serves "
            f"{' or '.join(table.weights)} only. Use {table.weights[-1]!r}."
        )
    unknown = sorted(variant.settings().keys() - set(table.settings))
    if unknown:
        problems.append(f"{unknown[0]}: {quantizer!r} has no such setting. It has: {', '.join(table.settings)}.")
    return problems or _impossible_settings(variant, METHOD.get(quantizer, quantizer))


def _impossible_settings(variant: Variant, method: str) -> list[str]:
    if method in ("gptq", "awq") and group_size(variant) not in GROUP_SIZES:
        return [f"group_size: found {variant.group_size}, expected one of {', '.join(map(str, GROUP_SIZES))}. Use 128."]
    if method == "gptq" and variant.symmetric is False:
        return ["symmetric: found false; vLLM refuses asymmetric GPTQ on a CPU. Use true, or quantizer awq."]
    if method == "gptq" and variant.desc_act and variant.group_size != -1:
        return ["desc_act: found true; vLLM no longer serves it with groups. Use false, or group_size -1."]
    if method == "awq" and variant.group_size == -1:
        return ["group_size: found -1; AWQ's gemm layout needs groups. Use 128."]
    if method == "openvino" and variant.weights == "int8":
        wrong = sorted(variant.settings().keys() - {"symmetric"})
        if wrong:
            return [f"{wrong[0]}: NNCF compresses int8 weights per channel, without it. Remove it, or use weights int4."]
    return []


def refuse_shapes(file: Path, name: str, variant: Variant, source: Path) -> None:
    """Raises RecipeError naming every layer whose shape the variant's group size or engine cannot take."""
    if variant.quantizer is None or (variant.weights == "int8" and variant.group_size is None):
        return
    group = group_size(variant)
    shapes = linear_shapes(source)
    uneven = {layer: shape for layer, shape in shapes.items() if group > 0 and shape[1] % group}
    if uneven:
        sizes = sorted({shape[1] for shape in shapes.values()})
        fits = [size for size in (128, 64, 32, 16, 8, 4) if all(columns % size == 0 for columns in sizes)]
        raise RecipeError(
            f"{file}: variants.{name}.group_size: found {group}, which does not divide the input features of "
            f"{len(uneven)} of {len(shapes)} layers: {_list(uneven)}. "
            f"{'Use ' + str(fits[0]) if fits else 'Use -1 (one group per channel)'}."
        )
    narrow = {layer: shape for layer, shape in shapes.items() if any(size % DIVISOR for size in shape)}
    if variant.engine == "vllm" and narrow and not row(variant).simulated:
        raise RecipeError(
            f"{file}: variants.{name}: vLLM serves 4-bit layers whose features are multiples of {DIVISOR}; not so for "
            f"{len(narrow)} of {len(shapes)} layers: {_list(narrow)}. Use engine openvino for this model."
        )


def group_size(variant: Variant) -> int:
    """The group size in force: the recipe's, or 128 (the default of GPTQ, AWQ and NNCF publications)."""
    return 128 if variant.group_size is None else variant.group_size


def _list(found: dict[str, tuple[int, int]]) -> str:
    shown = [f"{layer} {list(shape)}" for layer, shape in list(found.items())[:4]]
    return ", ".join(shown) + (", ..." if len(found) > 4 else "")


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: quantizes into job["out"] and counts what came out. Raises QuantizeError, ArtifactError."""
    variant = Variant.model_validate(job["variant"])
    table = row(variant)
    source, out = Path(job["checkpoint"]), Path(job["out"])
    samples = read(Path(job["samples"]), Samples)
    outcome: Outcome = importlib.import_module(table.module).quantize(variant, source, samples, out)
    accepted: set[str] = {"bf16"} if table.simulated else {variant.weights}
    ratio = 1.0 if variant.ratio is None else variant.ratio
    if ratio < 1:
        accepted.add("int8")
    found = layers.inspect(out, variant.engine)
    counted = layers.compare(found, source, accepted)
    if ratio < 1 and (share := layers.int4_share(found)) < ratio - RATIO_SLACK:
        raise QuantizeError(f"{table.answered_by} put {share:.0%} of the weights in int4, the recipe's ratio is {ratio:.0%}.")
    if len(counted.skipped) > variant.allow_skipped:
        raise QuantizeError(
            f"{table.answered_by} left {len(counted.skipped)} of {counted.expected} layers out of {variant.weights}: "
            f"{', '.join(counted.skipped[:5])}. Allowed are {variant.allow_skipped} (allow_skipped)."
        )
    return {
        "resolved": outcome.resolved,
        "notes": [*([table.note] if table.note else []), *outcome.notes],
        "layers": counted.model_dump(),
        "stored_types": layers.stored_types(found),
        "versions": {name: version(name) for name in table.packages},
    }
