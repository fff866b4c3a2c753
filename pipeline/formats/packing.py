"""How a vLLM artifact stores its quantized layers, by config.json's quantization_config: GPTQ, AWQ
or compressed-tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pipeline import reading
from pipeline.errors import ArtifactError

FORMATS = {
    "gptq": ("gptq", "gptq_v2"),
    "awq": ("gemm",),
}  # by quant_method; the first is what a config means that says none
BITS = {"gptq": (4, 8), "awq": (4,)}
# AutoRound's own format is one of these two under another name (its packing_format;
# intel/auto-round, auto_round/export).
AUTOROUND = {"auto_round:auto_gptq": "gptq", "auto_round:auto_awq": "awq"}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word holds column AWQ_ORDER[i]
KINDS = {
    "pack-quantized": (4, "int"),
    "int-quantized": (8, "int"),
    "float-quantized": (8, "float"),
}  # by format: bits, type


class Packing(NamedTuple):
    """How the quantized layers are stored; `group_size` in input features, -1 for one group, 0
    where the layers say it."""

    method: str
    format: str
    group_size: int
    desc_act: bool
    bits: int = 4

    @property
    def order(self) -> tuple[int, ...]:
        """Which value of its word each place holds, from the lowest bits."""
        return AWQ_ORDER if self.method == "awq" else tuple(range(32 // self.bits))


def packing(artifact: Path) -> Packing | None:
    """From config.json; None if the artifact is not quantized. Raises ArtifactError for a layout
    that is not known."""
    config = reading.json_object(artifact / "config.json", ArtifactError).get("quantization_config")
    try:
        return None if config is None else _packing(artifact, config)
    except (AttributeError, KeyError, TypeError) as error:  # its values may be of any kind
        raise ArtifactError(
            f"{artifact}: quantization_config: found {str(config)[:80]}, expected what GPTQ, AWQ or"
            " compressed-tensors write."
        ) from error


def _packing(artifact: Path, config: Any) -> Packing:
    if config.get("quant_method") == "compressed-tensors":
        if wrong := wrong_groups(config):
            raise ArtifactError(f"{artifact}: quantization_config: found {wrong}.")
        return Packing("compressed-tensors", config["format"], 0, False)
    if config.get("quant_method") == "auto-round" and config.get("packing_format") in AUTOROUND:
        config = {**config, "quant_method": AUTOROUND[config["packing_format"]]}
    known = FORMATS.get(config.get("quant_method"), ())
    # GPTQModel says checkpoint_format, AutoAWQ version; AutoGPTQ said nothing while there was only
    # v1.
    stored = str(
        config.get("checkpoint_format") or config.get("version") or (*known, "")[0]
    ).lower()
    size, bits = config.get("group_size"), config.get("bits")
    of_a_size = isinstance(size, int) and (size == -1 or size > 0)
    if bits not in BITS.get(config.get("quant_method"), ()) or stored not in known or not of_a_size:
        settings = {
            key: config.get(key)
            for key in ("quant_method", "checkpoint_format", "version", "bits", "group_size")
        }
        raise ArtifactError(
            f"{artifact}: quantization_config: found {settings}, expected 4 bits (GPTQ also 8), a"
            f" group_size and one of {FORMATS}."
        )
    return Packing(config["quant_method"], stored, size, bool(config.get("desc_act")), bits)


def wrong_groups(config: dict[str, Any]) -> str | None:
    """What is wrong with a quantization_config, or None: 4 bits packed in groups, 8 bits per
    channel, or layers of both."""
    groups = list(config.get("config_groups", {}).values())
    if not groups:
        return "no config_groups"
    return next(
        (problem for group in groups if (problem := _check_group(group, config.get("format")))),
        None,
    )


def _check_group(group: dict[str, Any], usual: str | None) -> str | None:
    """Where layers are stored in several formats, each group says its own."""
    stored, weights = group.get("format") or usual, group.get("weights") or {}
    if stored not in KINDS:
        return f"format {stored!r}, expected one of {', '.join(KINDS)}"
    if (weights.get("num_bits"), weights.get("type")) != KINDS[stored] or weights.get(
        "actorder"
    ) == "group":
        return (
            f"weights {weights}, expected {KINDS[stored][0]} bits, type {KINDS[stored][1]}, groups"
            " in order"
        )
    return None
