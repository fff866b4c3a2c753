"""What an artifact's own files say that it is: precision, layout, settings, and who made it. Read,
never asked. Worker side.

Layouts: config.json's quantization_config (GPTQ, AWQ, compressed-tensors), or the constants and
rt_info of an OpenVINO IR. What is measured does not rest on it: the layers are counted as they are
stored, and the load check compares their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.capabilities import ENGINES, IR, SAFETENSORS
from pipeline.errors import ArtifactError
from pipeline.formats import layers, rounding
from pipeline.formats.layers import Layer
from pipeline.formats.packing import packing
from pipeline.records import Layers, Rounding
from pipeline.records.base import Record
from pipeline.source.files import config

# What a config.json says of itself, of its file or of quantization, and not of the model.
OWN = (
    "_name_or_path",
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)


class Claim(Record):
    """In a recipe's words: `weights` is the type of most weights that have a low one, bf16 where
    none has; `quantizer` the layout.

    `settings` are those that a variant has; `recorded` and `versions` what the maker's tools wrote
    into the files."""

    quantizer: str | None
    weights: str
    settings: dict[str, Any]
    rounding: Rounding | None
    recorded: dict[str, Any]
    versions: dict[str, str]
    layers: Layers
    stored_types: dict[str, int]
    changed: list[str]


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: the Claim of job["artifact"] as JSON. Raises ArtifactError for what is no
    quantization of the source."""
    artifact, source = Path(job["artifact"]), Path(job["checkpoint"])
    stored = layers.inspect(artifact, job["engine"])
    weights = _weights(stored)
    quantizer, settings, recorded, versions = CLAIMS[ENGINES[job["engine"]].artifact_format](
        artifact, weights
    )
    if (quantizer is None) != (weights == "bf16"):
        says = f"says {quantizer or 'nothing of a quantization'}"
        raise ArtifactError(
            f"{artifact}: config.json {says}, its layers are stored as"
            f" {layers.stored_types(stored)}."
        )
    made = rounding.read(artifact, job["engine"], weights)
    return Claim(
        quantizer=quantizer,
        weights=weights,
        settings=_settings(made, weights) | settings,
        rounding=made,
        recorded=recorded,
        versions=versions,
        layers=layers.compare(stored, source, {weights}),
        stored_types=layers.stored_types(stored),
        changed=changed(config(artifact), config(source)),
    ).model_dump(mode="json")


def _weights(stored: dict[str, Layer]) -> str:
    low = sorted({layer.type for layer in stored.values()} - {"bf16"})
    return max(low, key=lambda kind: layers.share(stored, kind), default="bf16")


def changed(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What both config.json say of the model, and say differently."""
    keys = [key for key in theirs if key in ours and key not in OWN and ours[key] != theirs[key]]
    return [
        f"config.json: {key} is {json.dumps(ours[key])}, the source's {json.dumps(theirs[key])}"
        for key in keys
    ]


Parts = tuple[
    str | None, dict[str, Any], dict[str, Any], dict[str, str]
]  # quantizer, settings, recorded, versions


def _of_config(artifact: Path, weights: str) -> Parts:
    """Raises ArtifactError for a layout that is not known."""
    how = packing(artifact)
    if how is None:
        return None, {}, {}, {}
    quantization = config(artifact)["quantization_config"]
    if how.method == "compressed-tensors":
        group = rounding.config_group(quantization, weights) or {}
        activations = {"activations": weights} if group.get("input_activations") else {}
        return how.method, activations, {}, _named(quantization, {"version": "compressed-tensors"})
    tools = dict(
        str(tool).partition(":")[::2]
        for tool in _listed((quantization.get("meta") or {}).get("quantizer"))
    )
    order = {"desc_act": how.desc_act} if how.method == "gptq" else {}
    return how.method, order, {}, tools | _named(quantization, {"autoround_version": "auto-round"})


def _of_ir(artifact: Path, weights: str) -> Parts:
    """What NNCF and optimum-intel wrote into rt_info."""
    model = layers.read_ir(artifact)
    wrote = {part: _information(model, part) for part in ("optimum", "nncf")}
    versions = _named(
        wrote["optimum"],
        {"optimum_intel_version": "optimum-intel", "transformers_version": "transformers"},
    )
    versions |= _named(wrote["nncf"], {"version": "nncf"})
    if weights == "bf16":
        return None, {}, {}, versions
    activations = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
    settings = {"activations": "int8"} if activations and weights == "int8" else {}
    compression = (wrote["nncf"] or {}).get("weight_compression") or {}
    recorded = {
        key: value
        for key, value in compression.items()
        if key != "advanced_parameters" and isinstance(value, str)
    }
    return "openvino", settings, recorded, versions


CLAIMS = {IR: _of_ir, SAFETENSORS: _of_config}


def _settings(made: Rounding | None, weights: str) -> dict[str, Any]:
    """Of a variant: floats have no zero-points to choose, 8 bits no groups."""
    settings: dict[str, Any] = {}
    if made and weights in ("int8", "int4"):
        settings["symmetric"] = made.symmetric
    if made and weights in ("int4", "nf4", "mxfp4") and made.group_size is not None:
        settings["group_size"] = made.group_size
    return settings


def _information(model: Any, part: str) -> dict[str, Any]:
    """A part of an IR's rt_info as text; empty where it is not there."""
    return _plain(model.get_rt_info([part]).value) if model.has_rt_info([part]) else {}


def _plain(information: Any) -> Any:
    return (
        {name: _plain(value) for name, value in information.items()}
        if isinstance(information, dict)
        else str(information)
    )


def _named(fields: dict[str, Any], tools: dict[str, str]) -> dict[str, str]:
    return {tool: str(fields[key]) for key, tool in tools.items() if fields.get(key)}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []
