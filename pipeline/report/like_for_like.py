"""Which variants of two engines can be compared like for like: equally many bits in equal groups,
at the same precision. Pure.

OpenVINO's profile "matched" is timed at vLLM's precision; a variant without that profile is taken
as deployed. What the engines then really report is compared here, and where it differs nobody wins.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pipeline.records import VariantSummary
from pipeline.report.formatting import listed

NAMES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "half": "float16",
    "f32": "float32",
    "float": "float32",
    "u8": "uint8_t",
}
PER_CHANNEL = -1


@dataclass(frozen=True)
class Group:
    """`profiles` is each variant's profile to compare. `withheld` says why nobody wins; empty where
    somebody may."""

    title: str
    note: str
    profiles: dict[str, str]
    withheld: str


def groups(variants: dict[str, VariantSummary]) -> list[Group]:
    """Those that were timed on two engines."""
    by_format: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name, row in variants.items():
        if row.benchmark.measured and (made := _format(row)) is not None:
            by_format[made].append(name)
    both = {
        key: names
        for key, names in by_format.items()
        if len({variants[name].engine for name in names}) > 1
    }
    return [
        _group(_title(variants[names[0]]), {name: variants[name] for name in names})
        for names in both.values()
    ]


def left_out(variants: dict[str, VariantSummary], groups: list[Group]) -> list[str]:
    """A sentence for each precision that both engines have, but no two variants in the same
    format."""
    grouped = {name for group in groups for name in group.profiles}
    by_weights: dict[str, list[str]] = defaultdict(list)
    for name, row in variants.items():
        if row.benchmark.measured and name not in grouped:
            by_weights[row.weights].append(name)
    return [
        f"No like-for-like section for {weights}:"
        f" {listed([f'{name} has {_layout(variants[name])}' for name in names])}."
        for weights, names in by_weights.items()
        if len({variants[name].engine for name in names}) > 1
    ]


def _format(row: VariantSummary) -> tuple[Any, ...] | None:
    """Bits, group size and how the layers are stored: half of them in 8 bits is another format, and
    so are simulated ones.

    None where the manifest does not say.
    """
    if row.quantizer is None:
        return (16,)
    made = row.manifest.rounding
    return (
        None
        if made is None
        else (made.bits, made.group_size, tuple(sorted(row.manifest.stored_types)))
    )


def _layout(row: VariantSummary) -> str:
    if row.quantizer is None:
        return "16-bit weights"
    made = row.manifest.rounding
    if made is None:
        return "a manifest of before its bits and groups were recorded (quantize it again)"
    size = made.group_size
    groups = (
        "groups of several sizes"
        if size is None
        else "one group per channel"
        if size == PER_CHANNEL
        else f"groups of {size}"
    )
    return (
        f"{made.bits}-bit weights in {groups}, layers stored as"
        f" {' and '.join(sorted(row.manifest.stored_types))}"
    )


def _title(row: VariantSummary) -> str:
    return (
        "Like for like:"
        f" {'unquantized' if row.quantizer is None else _layout(row).split(', layers')[0]}"
    )


def _group(title: str, rows: dict[str, VariantSummary]) -> Group:
    profiles = {
        name: "matched" if "matched" in row.benchmark.profiles else "deployed"
        for name, row in rows.items()
    }
    precisions = {name: precision(row, profiles[name]) for name, row in rows.items()}
    different = _different(precisions)
    if different:
        withheld = f"Nobody wins: the settings do not agree in {'; '.join(different)}."
        agreed = f"NOT at the same precision, so that nobody wins here: {'; '.join(different)}."
    else:
        withheld, agreed = (
            "",
            (
                "All at the same precision:"
                f" {', '.join(f'{k} {v}' for k, v in next(iter(precisions.values())).items())}."
            ),
        )
    formats = _different({name: _own(row) for name, row in rows.items()})
    still = f" Still different: {'; '.join(formats)}." if formats else ""
    note = (
        f"{agreed}{still} Quality is that of the weights view (float32 arithmetic), in which tasks"
        " are not answered."
    )
    return Group(title, note, profiles, withheld)


def precision(row: VariantSummary, profile: str) -> dict[str, str]:
    """KV cache and arithmetic as the engine itself reported them."""
    settings = row.benchmark.profiles[profile].settings
    quantized = row.quantizer is not None
    if "inference_precision_hint" in settings:  # OpenVINO's word for it
        arithmetic, cache = settings["inference_precision_hint"], settings.get("kv_cache_precision")
        group = str(settings.get("dynamic_quantization_group_size", "0"))
        activations = (
            f", activations in 8 bits by groups of {group}" if quantized and group != "0" else ""
        )
        return {"KV cache": _name(cache), "arithmetic": _name(arithmetic) + activations}
    dtype = settings.get("dtype")
    cache = settings.get("kv_cache_dtype")
    activations = ", activations in 8 bits (W4A8)" if _w4a8(row, settings) else ""
    return {
        "KV cache": _name(dtype if cache == "auto" else cache),
        "arithmetic": _name(dtype) + activations,
    }


def _w4a8(row: VariantSummary, settings: dict[str, Any]) -> bool:
    """vLLM's switch takes effect on machines with AMX only (docs/decisions.md)."""
    amx = "amx_int8" in row.benchmark.machine.get("instruction_sets", [])
    return (
        settings.get("device") == "cpu"
        and "int4" in row.manifest.stored_types
        and settings.get("int4_w4a8") == "1"
        and amx
    )


def _name(reported: Any) -> str:
    """<Type: 'bfloat16'>, torch.bfloat16 and bf16 are the same."""
    if reported is None:
        return "not reported"
    plain = str(reported).removeprefix("<Type: '").removesuffix("'>").removeprefix("torch.")
    return NAMES.get(plain, plain)


def _own(row: VariantSummary) -> dict[str, str]:
    """What makes two artifacts of one format different still."""
    made = row.manifest.rounding
    if made is None:
        return {}
    return {
        "scheme": "symmetric" if made.symmetric else "asymmetric",
        "method": f"{row.quantizer} by {row.answered_by}",
        "embedding and output layer": " and ".join(
            "floats" if kind == "bf16" else kind for kind in made.outside
        ),
    }


def _different(by_variant: dict[str, dict[str, str]]) -> list[str]:
    """Each key whose values differ, with who has which."""
    differences = []
    for key in next(iter(by_variant.values())):
        holders: dict[str, list[str]] = defaultdict(list)
        for name, values in by_variant.items():
            holders[values[key]].append(name)
        if len(holders) > 1:
            differences.append(
                f"{key}: "
                + ", ".join(f"{value} ({listed(names)})" for value, names in holders.items())
            )
    return differences
