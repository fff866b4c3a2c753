"""A Llama with random weights of TinyLlama-1.1B's shape, and the same packed to 4 bits. Runs in the
OpenVINO environment.

    python -m benchmarks.random_model CHECKPOINT GPTQ AWQ LAYERS

What weights it has does not change how long they take, so the packed ones are random bits with one
scale: quantizing them would take an hour and time no differently."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.quantizers.export import copy_companions

SHAPE: dict[str, Any] = {
    "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4,
    "intermediate_size": 5632, "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip
TOKENIZER = Path("recipes/tiny/checkpoint")  # only token ids are put to the engines
SEED = 0
GROUP_SIZE = 128
SCALE = 0.004  # gives the packed weights about the spread of the others


def make(checkpoint: Path, gptq: Path, awq: Path, layers: int) -> None:
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(**SHAPE, num_hidden_layers=layers), dtype=torch.bfloat16
    )
    model.save_pretrained(checkpoint, max_shard_size="10GB")
    del model
    copy_companions(TOKENIZER, checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    for method, folder in (("gptq", gptq), ("awq", awq)):
        _pack(checkpoint, tensors, method, folder)


def _pack(checkpoint: Path, tensors: dict[str, torch.Tensor], method: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    packed = {}
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            packed |= _layer(name.removesuffix(".weight"), tensor, method)
        else:
            packed[name] = tensor
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    common = {"bits": 4, "group_size": GROUP_SIZE, "quant_method": method, "lm_head": False}
    own = (
        {"sym": True, "desc_act": False}
        if method == "gptq"
        else {"zero_point": True, "version": "gemm"}
    )
    config["quantization_config"] = {**common, **own}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    copy_companions(checkpoint, folder)


def _layer(name: str, weight: torch.Tensor, method: str) -> dict[str, torch.Tensor]:
    """Eight 4-bit numbers to an int32: along the inputs in GPTQ's format, along the outputs in
    AWQ's."""
    rows, columns = weight.shape
    groups = columns // GROUP_SIZE
    packed = (columns // 8, rows) if method == "gptq" else (columns, rows // 8)
    zero = (
        0x77777777 if method == "gptq" else 0x88888888 - (1 << 32)
    )  # GPTQ stores zero-points less one
    tensors = {
        "qweight": torch.randint(-(1 << 31), (1 << 31) - 1, packed, dtype=torch.int32),
        "qzeros": torch.full((groups, rows // 8), zero, dtype=torch.int32),
        "scales": torch.full((groups, rows), SCALE, dtype=torch.float16),
    }
    if method == "gptq":
        tensors["g_idx"] = torch.arange(columns, dtype=torch.int32) // GROUP_SIZE
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
