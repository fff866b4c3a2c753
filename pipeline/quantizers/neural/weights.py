"""Weights in 4 bits by Intel Neural Compressor, by rounding or GPTQ (arXiv 2210.17323), in GPTQ's
layout for vLLM.

Neural Compressor packs a layer as AutoGPTQ does, but saves a bias that the source does not have and
a scale for 8-bit floats beside it, for which vLLM has no place. So the checkpoint is put together
here: the source's tensors, and the packed parts in the place of the weights that they stand for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline.errors import QuantizeError
from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.export import copy_companions
from pipeline.source.checkpoint import linear_shapes, source_tensors

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def quantize(spec: Spec, out: Path) -> Outcome:
    """Calibrates, packs and saves. Raises QuantizeError for a layer that was not packed."""
    import torch
    from neural_compressor.torch.quantization import GPTQConfig, RTNConfig, convert, prepare
    from transformers import AutoModelForCausalLM

    method, group = spec.variant.method or "gptq", spec.variant.groups_of
    kind = {"gptq": GPTQConfig, "rtn": RTNConfig}[method]
    model = AutoModelForCausalLM.from_pretrained(
        spec.source, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    config = kind(bits=4, use_sym=True, group_size=group, use_layer_wise=False)
    for name in [spec.output, *spec.keep]:
        config.set_local(name, kind(dtype="fp32"))
    _settings_by_name()
    model = prepare(model, config)
    if method == "gptq":
        for ids in spec.samples.ids:
            model(torch.tensor([ids]))
    packed = {
        name: tensor
        for name, tensor in convert(model).state_dict().items()
        if name.rpartition(".")[2] in PARTS
    }
    wanted = [name for name in linear_shapes(spec.source) if name not in spec.keep]
    if missing := [name for name in wanted if f"{name}.qweight" not in packed]:
        raise QuantizeError(
            f"Neural Compressor left {len(missing)} layers unpacked: {', '.join(missing[:5])}."
        )
    _save(spec.source, packed, {f"{name}.weight" for name in wanted}, out)
    resolved = _write_config(spec, group, out)
    copy_companions(spec.source, out)
    return Outcome(
        {**resolved, "method": method, "samples": len(spec.samples.ids) if method == "gptq" else 0}
    )


def _settings_by_name() -> None:
    """Neural Compressor's GPTQ takes a layer without settings for one with those of any other, and
    quantizes what is to be kept.

    Its module needs transformers imported before it.
    """
    from neural_compressor.torch.algorithms.weight_only.gptq import RAWGPTQuantizer

    RAWGPTQuantizer.get_layer_config = lambda self, name: self.weight_config.get(name)


def _save(source: Path, packed: dict[str, Any], replaced: set[str], out: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    kept = {name: tensor for name, tensor in source_tensors(source).items() if name not in replaced}
    files = {path: safe_open(path, "pt") for path in {tensor.file for tensor in kept.values()}}
    tensors = {name: files[tensor.file].get_tensor(name) for name, tensor in kept.items()}
    tensors |= {name: part.contiguous() for name, part in packed.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


def _write_config(spec: Spec, group: int, out: Path) -> dict[str, Any]:
    """The source's config.json and how the layers are stored, in the words of GPTQ checkpoints."""
    quantization: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": 4,
        "group_size": group,
        "sym": True,
        "desc_act": False,
        "lm_head": False,
        "dynamic": {f"-:^{re.escape(name)}$": {} for name in spec.keep},
    }
    config = json.loads((spec.source / "config.json").read_text()) | {
        "quantization_config": quantization
    }
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return quantization
