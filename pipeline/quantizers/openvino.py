"""OpenVINO IR through optimum-intel and NNCF: unquantized, weights in 8 or 4 bits, or weights and activations in 8 bits.

NNCF weight compression and post-training quantization: https://docs.openvino.ai; AWQ: arXiv 2306.00978;
SmoothQuant: arXiv 2211.10438. One process makes one artifact: a second export in a process gives the same
weights but other automatic names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline.checkpoint import EMBEDDINGS, routers
from pipeline.errors import QuantizeError
from pipeline.quantizers import Outcome, Spec, group_size
from pipeline.quantizers.export import add_tokenizer, export, exported
from pipeline.recipe import Variant

ON_DATA = ("awq", "scale_estimation", "lora_correction")  # settings that look at the calibration set


def quantize(spec: Spec, out: Path) -> Outcome:
    """Exports or takes what is exported, quantizes and saves the model with its converted tokenizer and detokenizer."""
    model = exported(spec.exported) if spec.exported else export(spec.source, out.parent)
    if spec.variant.quantizer is None:
        model.save_pretrained(out)
        resolved: dict[str, Any] = {"weights": "16-bit, as exported"}
    elif spec.variant.activations:
        resolved = _quantize_activations(model, spec, out)
    else:
        resolved = _compress_weights(model, spec, out)
    add_tokenizer(spec.source, out)
    return Outcome(resolved)


def _compress_weights(model: Any, spec: Spec, out: Path) -> dict[str, Any]:
    from optimum.intel import OVWeightQuantizationConfig

    variant = spec.variant
    settings: dict[str, Any] = {"bits": 4 if variant.weights == "int4" else 8, "sym": bool(variant.symmetric)}
    if variant.weights == "int4":
        settings |= _four_bits(variant)
    calibrated = variant.weights == "int4" and (any(getattr(variant, name) for name in ON_DATA) or (variant.ratio or 1.0) < 1)
    if calibrated:
        settings["num_samples"] = len(spec.samples.ids)
    _run(model, OVWeightQuantizationConfig(**settings, ignored_scope=_ignored(spec)), spec if calibrated else None, out)
    return {**settings, "calibrated": calibrated, "keep": spec.keep, "nncf": _recorded_by_nncf(out, "weight_compression")}


def _four_bits(variant: Variant) -> dict[str, Any]:
    return {
        "group_size": group_size(variant),
        "ratio": 1.0 if variant.ratio is None else variant.ratio,
        "backup_precision": variant.backup,
        "quant_method": "awq" if variant.awq else "default",
        **{name: bool(getattr(variant, name)) for name in ON_DATA[1:]},
    }


def _quantize_activations(model: Any, spec: Spec, out: Path) -> dict[str, Any]:
    """Static: the ranges of the activations are those seen on the calibration set."""
    from optimum.intel import OVQuantizationConfig

    alpha = spec.variant.smooth_quant
    settings = {"bits": 8, "sym": bool(spec.variant.symmetric), "num_samples": len(spec.samples.ids), "smooth_quant_alpha": alpha}
    _run(model, OVQuantizationConfig(**settings, ignored_scope=_ignored(spec)), spec, out)
    quantized = _fake_quantizes(out)
    if not quantized:
        raise QuantizeError("NNCF quantized no activation: the saved model holds no FakeQuantize operation.")
    return {**settings, "keep": spec.keep, "fake_quantize": quantized, "nncf": _recorded_by_nncf(out, "quantization")}


def _run(model: Any, config: Any, calibrated_on: Spec | None, out: Path) -> None:
    from datasets import Dataset
    from optimum.intel import OVConfig, OVQuantizer

    rows = Dataset.from_list(calibrated_on.rows()) if calibrated_on else None
    ov_config = OVConfig(quantization_config=config)
    OVQuantizer.from_pretrained(model).quantize(ov_config=ov_config, calibration_dataset=rows, save_directory=out)


def _ignored(spec: Spec) -> dict[str, list[str]] | None:
    """NNCF's patterns over the names of operations, which hold the layer's name between dots and a slash.

    An output projection that is the embedding's matrix stays as it is only if the embedding does.
    """
    tied = json.loads((spec.source / "config.json").read_text()).get("tie_word_embeddings")
    tied_names = ["|".join(EMBEDDINGS)] if spec.output in spec.keep and tied else []
    names = [*map(re.escape, [*spec.keep, *routers(spec.source)]), *tied_names]
    return {"patterns": [rf".*\b({name})/.*" for name in names]} if names else None


def _fake_quantizes(out: Path) -> int:
    from pipeline.layers import read_ir

    return sum(operation.get_type_name() == "FakeQuantize" for operation in read_ir(out).get_ops())


def _recorded_by_nncf(out: Path, what: str) -> dict[str, str]:
    """What NNCF wrote into the IR about what it did: the tool's own word, next to what was asked."""
    from xml.etree import ElementTree

    section = ElementTree.parse(out / "openvino_model.xml").find(f"./rt_info/nncf/{what}")
    return {} if section is None else {item.tag: item.get("value", "") for item in section}
