"""Small inputs that tests make: safetensors files and checkpoints without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I32": "<i4",
    "I8": "<i1",
    "U8": "<u1",
    "F8_E4M3": "<u1",
}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        raw = values.astype(DTYPES[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_checkpoint(folder: Path, columns: int = 64, shards: int = 2) -> dict[str, np.ndarray]:
    """A float32 checkpoint with one decoder layer, split over `shards` files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    values = {
        "model.embed_tokens.weight": rng.normal(size=(32, columns)),
        "model.layers.0.self_attn.q_proj.weight": rng.normal(size=(columns, columns)),
        "model.layers.0.mlp.down_proj.weight": rng.normal(size=(columns, 2 * columns)),
        "model.layers.0.input_layernorm.weight": np.ones(columns),
    }
    names = list(values)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        write_safetensors(folder / file, {name: ("F32", values[name]) for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return values
