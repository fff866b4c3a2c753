"""OpenVINO IR through optimum-intel and NNCF: unquantized, weights in 8 or 4 bits, or weights and
activations in 8 bits.

NNCF weight compression and post-training quantization: https://docs.openvino.ai; AWQ: arXiv
2306.00978; SmoothQuant: arXiv 2211.10438. One process makes one artifact: a second export in a
process gives the same weights but other automatic names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline.errors import QuantizeError
from pipeline.quantizers import Outcome, Spec, nncf_slices
from pipeline.quantizers.export import add_tokenizer, export, exported
from pipeline.recipe import Variant
from pipeline.source.checkpoint import EMBEDDINGS, routers, source_tensors

SMOOTH_QUANT = 0.95  # NNCF's own alpha, which it takes where none is given
ON_DATA = (
    "awq",
    "scale_estimation",
    "gptq",
    "lora_correction",
)  # settings that look at the calibration set


def quantize(spec: Spec, out: Path) -> Outcome:
    """Exports or takes what is exported, quantizes and saves the model with its converted tokenizer
    and detokenizer."""
    model = exported(spec.exported) if spec.exported else export(spec.source, out.parent)
    if spec.variant.quantizer is None:
        resolved: dict[str, Any] = {"weights": "16-bit, as exported"}
    elif spec.variant.activations:
        resolved = _quantize_activations(model, spec)
    else:
        resolved = _compress_weights(model, spec)
    model.save_pretrained(out)
    add_tokenizer(spec.source, out)
    return Outcome(resolved)


def _compress_weights(model: Any, spec: Spec) -> dict[str, Any]:
    """Straight through NNCF: optimum-intel takes a model once, and layers of another width are a
    second pass.

    The 4 bits come first, since AWQ moves scale into neighbouring layers, which it can do to floats
    only."""
    import nncf

    nncf_slices.replace_in_nncf()
    settings = _settings(spec.variant)
    calibrated = settings.get("ratio", 1.0) < 1 or any(settings.get(name) for name in ON_DATA)
    samples = (
        {"dataset": _dataset(model, spec), "subset_size": len(spec.samples.ids)}
        if calibrated
        else {}
    )
    enums = {"mode": nncf.CompressWeightsMode(settings["mode"])}
    if "backup_mode" in settings:
        enums["backup_mode"] = nncf.BackupMode(settings["backup_mode"])
    scope = nncf.IgnoredScope(**_patterns([*_kept(spec), *spec.int8]))
    compressed = nncf.compress_weights(
        model.model, **{**settings, **enums}, **samples, ignored_scope=scope
    )
    resolved = {
        **settings,
        "calibrated": calibrated,
        "keep": spec.keep,
        "nncf": _recorded(compressed, "weight_compression"),
    }
    if spec.int8:
        mode = _int8(spec.variant)
        # a dot: constants have names too
        others = rf"(?!.*\b({'|'.join(map(re.escape, spec.int8))})[/.])"
        scope = nncf.IgnoredScope(patterns=[others])
        compressed = nncf.compress_weights(
            compressed, mode=nncf.CompressWeightsMode(mode), ignored_scope=scope
        )
        resolved |= {"int8_layers": spec.int8, "int8_mode": mode}
    _drop_cache_precision(compressed)
    model.model = compressed
    return resolved


def _settings(variant: Variant) -> dict[str, Any]:
    """NNCF's own words for what the recipe asks; a setting that it does not name keeps NNCF's
    default."""
    if variant.weights == "int8":
        return {"mode": _int8(variant)}
    symmetric = "sym" if variant.symmetric else "asym"
    return {
        "mode": f"int4_{symmetric}" if variant.weights == "int4" else variant.weights,
        "group_size": variant.groups_of,
        "ratio": 1.0 if variant.ratio is None else variant.ratio,
        "backup_mode": variant.backup
        or "int8_asym",  # NNCF's own for MXFP4 is 8-bit floats, four times less exact
        **{name: True for name in ON_DATA if getattr(variant, name)},
    }


def _int8(variant: Variant) -> str:
    return "int8_sym" if variant.symmetric else "int8_asym"


def _dataset(model: Any, spec: Spec) -> Any:
    """The calibration set as the exported model takes it, one sample [1, tokens] at a time.

    optimum-intel's own adds a flag that resets the model's state; NNCF's GPTQ runs parts of the
    model, which have none."""
    import nncf
    import numpy as np

    taken = {name for port in model.model.inputs for name in port.get_names()}

    def inputs(ids: list[int]) -> dict[str, Any]:
        row, places = np.array([ids], np.int64), np.arange(len(ids), dtype=np.int64)[None]
        given = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "position_ids": places,
            "beam_idx": np.zeros(1, np.int32),
        }
        return {name: value for name, value in given.items() if name in taken}

    return nncf.Dataset(list(map(inputs, spec.samples.ids)))


def _quantize_activations(model: Any, spec: Spec) -> dict[str, Any]:
    """Static: the ranges of the activations are those seen on the calibration set."""
    from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer

    alpha = SMOOTH_QUANT if spec.variant.smooth_quant is None else spec.variant.smooth_quant
    settings = {
        "bits": 8,
        "sym": bool(spec.variant.symmetric),
        "num_samples": len(spec.samples.ids),
        "smooth_quant_alpha": alpha,
    }
    config = OVConfig(
        quantization_config=OVQuantizationConfig(
            **settings, ignored_scope=_patterns(_kept(spec)) or None
        )
    )
    OVQuantizer.from_pretrained(model).quantize(
        ov_config=config, calibration_dataset=_dataset(model, spec)
    )
    quantized = sum(
        operation.get_type_name() == "FakeQuantize" for operation in model.model.get_ops()
    )
    if not quantized:
        raise QuantizeError(
            "NNCF quantized no activation: the model holds no FakeQuantize operation."
        )
    return {
        **settings,
        "keep": spec.keep,
        "fake_quantize": quantized,
        "nncf": _recorded(model.model, "quantization"),
    }


def _kept(spec: Spec) -> list[str]:
    """What the recipe keeps, and routers. An output projection that is the embedding's matrix stays
    only if the embedding does."""
    tied = json.loads((spec.source / "config.json").read_text()).get("tie_word_embeddings")
    embeddings = [
        name
        for name in EMBEDDINGS
        if any(f"{name}.weight" in tensor for tensor in source_tensors(spec.source))
    ]
    return [
        *spec.keep,
        *routers(spec.source),
        *(embeddings if spec.output in spec.keep and tied else []),
    ]


def _patterns(names: list[str]) -> dict[str, list[str]]:
    """NNCF's patterns over the names of operations, which hold the layer's name between dots and a
    slash."""
    return {"patterns": [rf".*\b{re.escape(name)}/.*" for name in names]} if names else {}


def _drop_cache_precision(model: Any) -> None:
    """optimum-intel writes a 16-bit KV cache into what it exports; a compressed model is served
    with the engine's default."""
    options = (
        dict(model.get_rt_info("runtime_options").value)
        if model.has_rt_info("runtime_options")
        else {}
    )
    if options.pop("KV_CACHE_PRECISION", None):
        model.set_rt_info(options, "runtime_options")


def _recorded(model: Any, what: str) -> dict[str, str]:
    """What NNCF wrote into the model about what it did: the tool's own word, next to what was
    asked."""
    path = ["nncf", what]
    recorded = model.get_rt_info(path).value if model.has_rt_info(path) else {}
    return {name: str(value) for name, value in recorded.items()}
