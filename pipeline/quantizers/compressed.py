"""compressed-tensors checkpoints for vLLM, through llm-compressor on the CPU.

W4A16 by GPTQ (arXiv 2210.17323), AWQ (arXiv 2306.00978) or rounding; W8A8 in INT8 with SmoothQuant
(arXiv 2211.10438), or in 8-bit floats; format: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.export import copy_companions, save_unused_settings
from pipeline.source.checkpoint import OUTPUTS


def quantize(spec: Spec, out: Path) -> Outcome:
    """Calibrates, quantizes and saves."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modeling.moe.linearize import linearize_moe
    from transformers import AutoModelForCausalLM

    _pin_nothing()
    model = AutoModelForCausalLM.from_pretrained(
        spec.source, dtype="auto", trust_remote_code=False, local_files_only=True
    )
    model = linearize_moe(model)  # experts, which transformers holds in one tensor, as layers again
    oneshot(
        model=model,
        dataset=Dataset.from_list(spec.rows()),
        recipe=_modifiers(spec),
        max_seq_length=max(map(len, spec.samples.ids)),
        num_calibration_samples=len(spec.samples.ids),
        shuffle_calibration_samples=False,
        log_dir=None,
    )
    save_unused_settings()
    model.save_pretrained(out, save_compressed=True)
    (out / "recipe.yaml").unlink(missing_ok=True)
    copy_companions(spec.source, out)
    config: dict[str, Any] = json.loads((out / "config.json").read_text())["quantization_config"]
    own = {
        "method": _method(spec),
        "smooth_quant": spec.variant.smooth_quant,
        "samples": len(spec.samples.ids),
    }
    return Outcome({**config, **own})


def _method(spec: Spec) -> str:
    return spec.variant.method or ("rtn" if spec.variant.weights == "fp8" else "gptq")


def _modifiers(spec: Spec) -> list[Any]:
    from compressed_tensors.quantization import preset_name_to_scheme
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.smoothquant import SmoothQuantModifier

    variant, left = (
        spec.variant,
        dict.fromkeys([*OUTPUTS, *spec.keep]),
    )  # vLLM serves the output projection in 16 bits only
    symmetric = variant.symmetric is not False
    if variant.activations:
        groups = {
            "group_0": preset_name_to_scheme(
                "FP8_DYNAMIC" if variant.weights == "fp8" else "W8A8", ["Linear"]
            )
        }
    else:
        groups = {
            "group_0": preset_name_to_scheme("W4A16" if symmetric else "W4A16_ASYM", ["Linear"])
        }
        groups["group_0"].weights.group_size = variant.groups_of
    if spec.int8:  # with activations in 8 bits: vLLM has no kernel for 8-bit weights alone on a CPU
        groups["group_1"] = preset_name_to_scheme("W8A8", spec.int8)
    kind = {"gptq": GPTQModifier, "awq": AWQModifier, "rtn": QuantizationModifier}[_method(spec)]
    smooth = (
        [SmoothQuantModifier(smoothing_strength=variant.smooth_quant)]
        if variant.smooth_quant
        else []
    )
    return [*smooth, kind(config_groups=groups, ignore=list(left))]


def _pin_nothing() -> None:
    """llm-compressor 0.14's AWQ pins memory for a GPU without asking whether there is one, and dies
    where there is none."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
