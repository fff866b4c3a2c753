"""What an artifact's own files say that it is: precision, layout, settings, and who made it. Read, never asked. Worker side.

Layouts: config.json's quantization_config (GPTQ, AWQ, compressed-tensors), or the constants and rt_info of an OpenVINO IR.
What is measured does not rest on it: the layers are counted as they are stored, and the load check compares their values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import layers
from pipeline.engines import compressed, dequantized
from pipeline.errors import ArtifactError
from pipeline.layers import IR_LOW_BIT, Layer
from pipeline.records import Layers
from pipeline.records.base import Record
from pipeline.source import config

SYMMETRIC = ("i4", "i8", "nf4", "f4e2m1")  # IR types that have no zero-point
# What a config.json says of itself, of its file or of quantization, and not of the model.
OWN = ("_name_or_path", "dtype", "quantization_config", "torch_dtype", "transformers_version", "use_cache")


class Claim(Record):
    """In a recipe's words: `weights` is the type of most weights that have a low one, bf16 where none has; `quantizer` the layout.

    `settings` are those that a variant has; `said` and `versions` what the maker's tools wrote into the files.
    """

    quantizer: str | None
    weights: str
    settings: dict[str, Any]
    said: dict[str, Any]
    versions: dict[str, str]
    layers: Layers
    stored_types: dict[str, int]
    changed: list[str]


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: the Claim of job["artifact"] as JSON. Raises ArtifactError for what is no quantization of the source."""
    artifact, source = Path(job["artifact"]), Path(job["checkpoint"])
    found = layers.inspect(artifact, job["engine"])
    weights = _weights(found)
    quantizer, settings, said, versions = (_of_ir if job["engine"] == "openvino" else _of_config)(artifact, weights)
    if (quantizer is None) != (weights == "bf16"):
        says = f"says {quantizer or 'nothing of a quantization'}"
        raise ArtifactError(f"{artifact}: config.json {says}, its layers are stored as {layers.stored_types(found)}.")
    return Claim(
        quantizer=quantizer,
        weights=weights,
        settings=settings,
        said=said,
        versions=versions,
        layers=layers.compare(found, source, {weights}),
        stored_types=layers.stored_types(found),
        changed=changed(config(artifact), config(source)),
    ).model_dump(mode="json")


def _weights(found: dict[str, Layer]) -> str:
    low = sorted({layer.type for layer in found.values()} - {"bf16"})
    return max(low, key=lambda kind: layers.share(found, kind), default="bf16")


def changed(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What both config.json say of the model, and say differently."""
    keys = [key for key in theirs if key in ours and key not in OWN and ours[key] != theirs[key]]
    return [f"config.json: {key} is {json.dumps(ours[key])}, the source's {json.dumps(theirs[key])}" for key in keys]


Parts = tuple[str | None, dict[str, Any], dict[str, Any], dict[str, str]]  # quantizer, settings, said, versions


def _of_config(artifact: Path, weights: str) -> Parts:
    """Raises ArtifactError for a layout that is not known."""
    how = dequantized.packing(artifact)
    if how is None:
        return None, {}, {}, {}
    said = config(artifact)["quantization_config"]
    if how.method == "compressed-tensors":
        return how.method, _of_groups(said, weights), {}, _named(said, {"version": "compressed-tensors"})
    symmetric = not said["zero_point"] if "zero_point" in said else said.get("sym", how.method == "gptq")
    settings = {"group_size": how.group_size, "symmetric": bool(symmetric)}
    if how.method == "gptq":
        settings["desc_act"] = how.desc_act
    tools = dict(str(tool).partition(":")[::2] for tool in _listed((said.get("meta") or {}).get("quantizer")))
    return how.method, settings, {}, tools | _named(said, {"autoround_version": "auto-round"})


def _of_groups(said: dict[str, Any], weights: str) -> dict[str, Any]:
    """Of the config group whose layers have the claimed type."""
    groups = said["config_groups"].values()
    types: dict[Any, str] = {kind: f"int{bits}" if of == "int" else "fp8" for kind, (bits, of) in compressed.KINDS.items()}
    own = next((group for group in groups if types[group.get("format") or said.get("format")] == weights), None)
    if own is None:
        return {}
    settings: dict[str, Any] = {"symmetric": bool(own["weights"].get("symmetric", True))}
    if weights == "int4":
        settings["group_size"] = own["weights"].get("group_size") or -1
    if own.get("input_activations"):
        settings["activations"] = weights
    return settings


def _of_ir(artifact: Path, weights: str) -> Parts:
    """Group size and zero-points by the constants, the rest by what NNCF and optimum-intel wrote into rt_info."""
    model = layers.read_ir(artifact)
    wrote = {part: _information(model, part) for part in ("optimum", "nncf")}
    versions = _named(wrote["optimum"], {"optimum_intel_version": "optimum-intel", "transformers_version": "transformers"})
    versions |= _named(wrote["nncf"], {"version": "nncf"})
    if weights == "bf16":
        return None, {}, {}, versions
    kinds, groups, activations = set(), set(), False
    for operation in model.get_ops():
        activations |= operation.get_type_name() == "FakeQuantize"
        kind = operation.get_element_type().get_type_name() if operation.get_type_name() == "Constant" else ""
        shape = list(operation.get_output_shape(0)) if IR_LOW_BIT.get(kind) == weights else []
        if len(shape) > 1 and "/zero_point" not in operation.get_friendly_name():
            kinds.add(kind)
            groups.add(shape[-1] if len(shape) == 3 else -1)
    settings: dict[str, Any] = {"symmetric": kinds <= set(SYMMETRIC)} if weights in ("int8", "int4") else {}
    if weights != "int8" and len(groups) == 1:
        settings["group_size"] = int(groups.pop())
    if activations and weights == "int8":
        settings["activations"] = "int8"
    compression = (wrote["nncf"] or {}).get("weight_compression") or {}
    said = {key: value for key, value in compression.items() if key != "advanced_parameters" and isinstance(value, str)}
    return "openvino", settings, said, versions


def _information(model: Any, part: str) -> dict[str, Any]:
    """A part of an IR's rt_info as text; empty where it is not there."""
    return _plain(model.get_rt_info([part]).value) if model.has_rt_info([part]) else {}


def _plain(found: Any) -> Any:
    return {name: _plain(value) for name, value in found.items()} if isinstance(found, dict) else str(found)


def _named(said: dict[str, Any], tools: dict[str, str]) -> dict[str, str]:
    return {tool: str(said[key]) for key, tool in tools.items() if said.get(key)}


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found] if found else []
