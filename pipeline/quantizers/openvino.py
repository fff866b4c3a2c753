"""OpenVINO IR through optimum-intel and NNCF: unquantized, or weight-only INT8 and INT4.

NNCF weight compression: https://docs.openvino.ai (weight compression); AWQ: arXiv 2306.00978. One process makes one
artifact: a second export in a process gives the same weights but other automatic names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.quantizers import Outcome, group_size
from pipeline.quantizers.export import add_tokenizer, export
from pipeline.recipe import Variant
from pipeline.records import Samples


def quantize(variant: Variant, source: Path, samples: Samples, out: Path) -> Outcome:
    """Exports, compresses and saves the model with its converted tokenizer and detokenizer."""
    model = export(source, out.parent)
    if variant.quantizer is None:
        model.save_pretrained(out)
        resolved: dict[str, Any] = {"weights": "16-bit, as exported"}
    else:
        resolved = _compress(model, variant, samples, out)
    add_tokenizer(source, out)
    return Outcome(resolved)


def _compress(model: Any, variant: Variant, samples: Samples, out: Path) -> dict[str, Any]:
    from datasets import Dataset
    from optimum.intel import OVConfig, OVQuantizer, OVWeightQuantizationConfig

    settings: dict[str, Any] = {"bits": 4 if variant.weights == "int4" else 8, "sym": bool(variant.symmetric)}
    if variant.weights == "int4":
        settings |= {
            "group_size": group_size(variant),
            "ratio": 1.0 if variant.ratio is None else variant.ratio,
            "quant_method": "awq" if variant.awq else "default",
            "scale_estimation": bool(variant.scale_estimation),
        }
    calibrated = bool(variant.awq or variant.scale_estimation or (variant.ratio or 1.0) < 1)
    rows = None
    if calibrated:
        settings["num_samples"] = len(samples.ids)
        rows = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples.ids])
    config = OVWeightQuantizationConfig(**settings)
    OVQuantizer.from_pretrained(model).quantize(
        ov_config=OVConfig(quantization_config=config), calibration_dataset=rows, save_directory=out
    )
    return {**settings, "calibrated": calibrated, "nncf": _recorded_by_nncf(out)}


def _recorded_by_nncf(out: Path) -> dict[str, str]:
    """What NNCF wrote into the IR about the compression it did: the tool's own word, next to what was asked."""
    from xml.etree import ElementTree

    tree = ElementTree.parse(out / "openvino_model.xml")
    section = tree.find("./rt_info/nncf/weight_compression")
    return {} if section is None else {item.tag: item.get("value", "") for item in section}
