"""A Llama checkpoint in memory: read from its shards, changed, written to another folder."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.quantizers.rounding import round_to_nearest
from pipeline.source.checkpoint import source_tensors

INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
GROUP = 128

Quantized = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # levels [out, groups, columns], scale and zero [out, groups, 1]


@dataclass
class Checkpoint:
    """A checkpoint in memory; `files` says which shard each tensor comes from."""

    source: Path
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    files: dict[str, str]

    @property
    def depth(self) -> int:
        return 1 + max(
            int(found[1])
            for name in self.tensors
            if (found := re.search(r"\.layers\.(\d+)\.", name))
        )

    @property
    def middle(self) -> int:
        return self.depth // 2

    def name(self, layer: int, part: str) -> str:
        return next(
            name for name in self.tensors if name.endswith(f".layers.{layer}.{part}.weight")
        )

    def linears(self) -> list[str]:
        return [
            name
            for name, tensor in self.tensors.items()
            if ".layers." in name and tensor.dim() == 2
        ]

    def of_layer(self, layer: int) -> list[str]:
        return [name for name in self.tensors if f".layers.{layer}." in name]

    def head(self) -> torch.Tensor:
        """The output projection; tied, it is the embedding."""
        return self.tensors.get(HEAD, self.tensors[self.embedding()])

    def embedding(self) -> str:
        return next(name for name in self.tensors if name.endswith("embed_tokens.weight"))

    def untie(self, head: torch.Tensor) -> None:
        self.tensors[HEAD] = head.clone()
        self.config["tie_word_embeddings"] = False


def load(source: Path) -> Checkpoint:
    files = {name: tensor.file.name for name, tensor in source_tensors(source).items()}
    tensors = {
        name: tensor
        for file in sorted(set(files.values()))
        for name, tensor in load_file(source / file).items()
    }
    return Checkpoint(source, tensors, json.loads((source / "config.json").read_text()), files)


def save(checkpoint: Checkpoint, out: Path) -> None:
    """Everything beside the weights is copied; a new tensor goes into the last shard."""
    out.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
            shutil.copyfile(path, out / path.name)
    last = max(checkpoint.files.values())
    files = {name: checkpoint.files.get(name, last) for name in checkpoint.tensors}
    for file in sorted(set(files.values())):
        shard = {
            name: tensor.contiguous()
            for name, tensor in checkpoint.tensors.items()
            if files[name] == file
        }
        save_file(shard, out / file, metadata={"format": "pt"})
    if len(set(files.values())) > 1:
        size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        (out / INDEX).write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": files}, indent=2)
        )
    (out / "config.json").write_text(json.dumps(checkpoint.config, indent=2) + "\n")


def rewrite(change: Callable[[Checkpoint], None]) -> Callable[[Path, Path], None]:
    """A function from source folder to new folder out of one that changes a checkpoint in
    memory."""

    @functools.wraps(change)
    def damage(source: Path, out: Path) -> None:
        checkpoint = load(source)
        change(checkpoint)
        save(checkpoint, out)

    return damage


def _quantize(weight: torch.Tensor) -> Quantized:
    """The arithmetic of round_to_nearest in 4 bits, with the levels, scales and zero-points
    apart."""
    rows = weight.float().reshape(
        weight.shape[0], -1, GROUP if weight.shape[1] % GROUP == 0 else weight.shape[1]
    )
    low, high = rows.amin(2, keepdim=True).clamp(max=0), rows.amax(2, keepdim=True).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-12)
    zero = (-low / scale).round()
    return (rows / scale + zero).round().clamp(0, 15), scale, zero


def round_with(checkpoint: Checkpoint, change: Callable[[dict[str, Quantized]], None]) -> None:
    """Rounds the decoder's linear layers to 4 bits and lets `change` spoil levels, scales or
    zero-points in between."""
    layers = {name: _quantize(checkpoint.tensors[name]) for name in checkpoint.linears()}
    change(layers)
    for name, (levels, scale, zero) in layers.items():
        weight = checkpoint.tensors[name]
        checkpoint.tensors[name] = ((levels - zero) * scale).reshape(weight.shape).to(weight.dtype)


def round_to(checkpoint: Checkpoint, bits: int) -> None:
    """Rounds the decoder's linear layers to the nearest of 2**bits levels, in groups of 128."""
    for name in checkpoint.linears():
        weight = checkpoint.tensors[name]
        checkpoint.tensors[name] = round_to_nearest(
            weight, bits, GROUP if weight.shape[1] % GROUP == 0 else -1
        )


def final_hidden_states(source: Path) -> torch.Tensor:
    """[tokens, hidden] as the output projection gets them, on 16 texts that the model itself draws
    (seed 0)."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    settings = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=128, pad_token_id=0)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        first = (
            model.config.bos_token_id
            if model.config.bos_token_id is not None
            else model.config.eos_token_id
        )
        ids = model.generate(torch.full((16, 1), first), generation_config=settings)
        hidden = model.model(ids).last_hidden_state
    return hidden.flatten(0, 1).clone()
