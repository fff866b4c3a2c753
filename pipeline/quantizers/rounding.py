"""Plain asymmetric round-to-nearest, simulated: the baseline that calibrated methods must beat, and
a known damage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.capabilities import SAFETENSORS
from pipeline.quantizers import Outcome, Spec
from pipeline.quantizers.export import add_tokenizer, copy_companions, export
from pipeline.source.checkpoint import linear_shapes, module_name, source_tensors

if TYPE_CHECKING:
    import torch


def quantize(spec: Spec, out: Path) -> Outcome:
    variant, source = spec.variant, spec.source
    bits, group = int(variant.weights.removeprefix("int")), variant.groups_of
    if variant.served_by.artifact_format == SAFETENSORS:
        round_checkpoint(source, out, bits, group)
        copy_companions(source, out)
    else:
        rounded = out / "rounded"
        rounded.mkdir()
        round_checkpoint(source, rounded, bits, group)
        copy_companions(source, rounded)
        export(rounded, out.parent).save_pretrained(out)
        shutil.rmtree(rounded)
        add_tokenizer(source, out)
    return Outcome({"bits": bits, "group_size": group, "symmetric": False})


def round_checkpoint(source: Path, out: Path, bits: int, group: int) -> None:
    """Writes the source's shards with every linear layer of the decoder blocks rounded."""
    from safetensors.torch import load_file, save_file

    layers = {f"{name}.weight" for name in linear_shapes(source)}
    for shard in sorted({tensor.file for tensor in source_tensors(source).values()}):
        tensors = {
            name: round_to_nearest(tensor, bits, group) if module_name(name) in layers else tensor
            for name, tensor in load_file(shard).items()
        }
        save_file(tensors, out / shard.name, metadata={"format": "pt"})
    for name in ("config.json", "model.safetensors.index.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def round_to_nearest(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """[out, in] -> the same shape and type, each group of `group` columns (-1: the row) on 2**bits
    even levels."""
    rows = weight.float().reshape(-1, weight.shape[1] if group == -1 else group)
    low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    zero = (-low / scale).round()
    levels = (rows / scale + zero).round().clamp(0, 2**bits - 1)
    return ((levels - zero) * scale).reshape(weight.shape).to(weight.dtype)
