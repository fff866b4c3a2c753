"""The variants that `quantgate init` gives a model: the usual ones, less what its family or its
shapes do not allow by the table of the quantizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import RecipeError
from pipeline.quantizers import refusal
from pipeline.recipe import Variant, defaults
from pipeline.recipe.variant import FINE_GROUP
from pipeline.runtime import environments
from pipeline.source import checkpoint

NO_GROUPS = "no group of 128, 64 or 32 columns divides all of its matrices, as vLLM needs"

Variants = dict[str, dict[str, Any]]  # settings by name, as a recipe has them


def of(
    folder: Path, config: dict[str, Any], size: defaults.Usual, has_weights: bool
) -> tuple[Variants, dict[str, str]]:
    """Eight and four bits for each engine, in groups that the matrices' columns can be divided
    into; and of what this model's family or shapes do not allow, why. `has_weights`: the folder has
    more than the configuration. Raises RecipeError if nothing is left."""
    possible: Variants = {}
    refused: dict[str, str] = {}
    shapes = checkpoint.linear_shapes(folder) if has_weights else {}
    columns = [*_columns(_language_model(config)), *(shape[1] for shape in shapes.values())]
    for name, variant in _usual(columns, size).items():
        if why := _refused(name, variant, config, folder if has_weights else None):
            refused[name] = why
        else:
            possible[name] = variant
    if not any("quantizer" in variant for variant in possible.values()):
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise RecipeError(f"{folder}: nothing usual can be made of this model: {reasons}")
    if "awq-int4" in possible:  # the other tool's is for models that this one cannot make it of
        possible.pop("ct-int4", None)
    return possible, {name: why for name, why in refused.items() if name != "ct-int4"}


def _refused(
    name: str, variant: dict[str, Any], config: dict[str, Any], weights: Path | None
) -> str:
    """What `plan` would say of a variant; empty if nothing. Without weights the shapes are not
    known, and the family is."""
    asked, device = Variant.model_validate(variant), environments.device()
    if asked.engine == "vllm" and asked.group_size == -1:
        return NO_GROUPS
    if problem := refusal.problem(asked, device):
        return problem
    for family in (config.get("model_type"), _language_model(config).get("model_type")):
        if line := refusal.unserved(asked, family, device):
            return f"{family}: {line.why}. Use {line.use}"
    if weights is None:
        return ""
    try:
        refusal.refuse_shapes(paths.recipe("it"), name, asked, weights)
    except RecipeError as error:
        return str(error).partition(f"variants.{name}")[2].lstrip(":. ")
    return ""


def _language_model(config: dict[str, Any]) -> dict[str, Any]:
    """Of a model that also sees or hears: the part that is a language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _columns(config: dict[str, Any]) -> list[int]:
    """Input features of the linear layers, as far as a configuration tells: heads may be wider or
    narrower together than the hidden size, experts have a width of their own."""
    keys = ("hidden_size", "intermediate_size", "moe_intermediate_size",
            "shared_expert_intermediate_size")  # fmt: skip
    columns = [config[key] for key in keys if isinstance(config.get(key), int) and config[key] > 0]
    heads, wide = config.get("num_attention_heads"), config.get("head_dim")
    if isinstance(heads, int) and isinstance(wide, int):
        columns.append(heads * wide)
    return columns


def _usual(columns: list[int], size: defaults.Usual) -> Variants:
    wanted = (128, 64, 32) if size is defaults.BY_SIZE[-1] else (64, 32)
    groups = next((group for group in wanted if all(width % group == 0 for width in columns)), -1)
    vllm = {"engine": "vllm"} | ({"target": "cuda"} if environments.device() == "cuda" else {})
    fine = groups if size is defaults.BY_SIZE[-1] else min(groups, FINE_GROUP)  # or -1
    grouped = {**vllm, "weights": "int4", "group_size": fine}
    awq = {
        "awq-int4": grouped | {"quantizer": "awq"},
        "ct-int4": grouped | {"quantizer": "compressed-tensors", "method": "awq"},
    }
    return {
        "ov-bf16": {"engine": "openvino"},
        "ov-int8": {"engine": "openvino", "quantizer": "openvino", "weights": "int8"},
        "ov-int4": {
            "engine": "openvino",
            "quantizer": "openvino",
            "weights": "int4",
            "group_size": groups,
            "awq": True,
            "scale_estimation": True,
        },
        "vllm-bf16": vllm,
        **awq,
    }
