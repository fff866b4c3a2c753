"""AutoRound (arXiv 2309.05516, signed gradient descent on the rounding) in the layouts of GPTQ, AWQ
and compressed-tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.export import copy_companions, save_unused_settings
from pipeline.recipe import Variant

FORMATS = {"gptq": "auto_gptq", "awq": "auto_awq", "compressed-tensors": "llm_compressor"}
ITERATIONS = 200  # AutoRound's own default
BATCH_ROWS = 8
SEED = 0


def quantize(spec: Spec, out: Path) -> Outcome:
    """Tunes the rounding block by block, and saves."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    variant = spec.variant
    model = AutoModelForCausalLM.from_pretrained(
        spec.source, dtype="auto", trust_remote_code=False, local_files_only=True
    )
    rounder = AutoRound(
        model,
        AutoTokenizer.from_pretrained(spec.source),
        bits=4,
        group_size=variant.groups_of,
        sym=variant.symmetric
        if variant.symmetric is not None
        else variant.format != "awq",  # AWQ's layout has zero-points
        layer_config={name: {"bits": 16} for name in spec.keep},
        dataset=[torch.tensor([ids]) for ids in spec.samples.ids],
        seqlen=min(map(len, spec.samples.ids)),
        nsamples=len(spec.samples.ids),
        batch_size=BATCH_ROWS,
        iters=iterations(variant),
        device_map="cpu",
        seed=SEED,
    )
    save_unused_settings()
    rounder.quantize_and_save(str(out), format=FORMATS[str(variant.format)])
    _lift(out)
    copy_companions(spec.source, out)
    return Outcome(
        {**_resolved(out), "iterations": iterations(variant), "samples": len(spec.samples.ids)}
    )


def iterations(variant: Variant) -> int:
    return variant.iterations or ITERATIONS


def _resolved(out: Path) -> dict[str, Any]:
    """The settings as AutoRound wrote them, less a list of its own that makes vLLM take kept layers
    for quantized ones.

    It lists what is kept in an AWQ layout in any order, so that two equal runs would differ.
    """
    (out / "quantization_config.json").unlink(missing_ok=True)
    config = json.loads((out / "config.json").read_text())
    quantization: dict[str, Any] = config["quantization_config"]
    quantization.pop("modules_in_block_to_quantize", None)
    if kept := quantization.get("modules_to_not_convert"):
        quantization["modules_to_not_convert"] = sorted(kept)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return quantization


def _lift(out: Path) -> None:
    """It saves into a folder of its own below the one that it is given."""
    for folder in [path for path in out.iterdir() if path.is_dir()]:
        for path in folder.iterdir():
            path.rename(out / path.name)
        folder.rmdir()
