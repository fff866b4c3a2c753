"""What the damages to artifacts share: an OpenVINO IR, or packed safetensors, read, changed and put
back.

Files are replaced, never written into: a copy may be a hard link, and OpenVINO maps weights into
memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from safetensors.torch import load_file, save_file

IR = "openvino_model"

Tensors = dict[str, torch.Tensor]


def edit_ir(artifact: Path, change: Callable[[openvino.Model], None]) -> None:
    model = openvino.Core().read_model(artifact / f"{IR}.xml")
    change(model)
    with tempfile.TemporaryDirectory(dir=artifact.parent) as folder:
        openvino.save_model(model, Path(folder) / f"{IR}.xml", compress_to_fp16=False)
        for suffix in (".xml", ".bin"):
            (Path(folder) / f"{IR}{suffix}").replace(artifact / f"{IR}{suffix}")


def replace_file(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def constants(model: openvino.Model, ending: str) -> dict[int, Any]:
    """Constants of the decoder by layer, for one ending of a name such as
    "mlp.down_proj._openvino_orig_weight/scale"."""
    pattern = re.compile(rf"\.layers\.(\d+)\.{ending}$")
    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    found = {
        int(match[1]): node for node in nodes if (match := pattern.search(node.get_friendly_name()))
    }
    if not found:
        raise ValueError(f"the model has no constant that ends with {ending}.")
    return found


def replace(constant: Any, raw: np.ndarray) -> None:
    """Puts new bytes (packed, if the type is) in the place of a constant of the same type, shape
    and name."""
    tensor = openvino.Tensor(
        np.ascontiguousarray(raw), constant.get_output_shape(0), constant.get_element_type()
    )
    new = openvino.op.Constant(
        tensor, shared_memory=False
    )  # shared, it would outlive the array that it points into
    new.set_friendly_name(constant.get_friendly_name())
    constant.output(0).replace(new.output(0))


def down_projections(model: openvino.Model) -> list[Any]:
    return [
        node
        for node in model.get_ops()
        if node.get_type_name() == "MatMul" and "down_proj" in node.get_friendly_name()
    ]


def key_inputs(model: openvino.Model) -> list[Any]:
    """Where the new keys of each layer go into its cache."""
    sinks = [sink for sink in model.get_sinks() if sink.get_variable_id().endswith(".key")]
    return [sink.input_value(0).get_node().input(1) for sink in sinks]


def activation_maxima(artifact: Path) -> dict[str, float]:
    """The largest |input| of each down projection on 128 random tokens, by the name of its
    MatMul."""
    names: list[str] = []

    def inputs(model: openvino.Model) -> list[Any]:
        names.extend(node.get_friendly_name() for node in down_projections(model))
        return [node.input_value(0) for node in down_projections(model)]

    found = on_random_tokens(artifact, inputs, prompts=1, length=128)
    return {name: float(np.abs(value).max()) for name, value in zip(names, found, strict=True)}


def on_random_tokens(
    artifact: Path, outputs: Callable[[openvino.Model], list[Any]], prompts: int, length: int
) -> list[np.ndarray]:
    """Inner values of the model in float32, on prompts of random tokens (seed 0)."""
    model = openvino.Core().read_model(artifact / f"{IR}.xml")
    vocabulary = model.output("logits").get_partial_shape()[2].get_length()
    wanted = model.add_outputs(outputs(model))
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ids = np.random.default_rng(0).integers(0, vocabulary, (prompts, length))
    steps = np.tile(np.arange(length), (prompts, 1))
    everything = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": steps,
                  "beam_idx": np.arange(prompts, dtype=np.int32)}  # fmt: skip
    results = compiled({port.any_name: everything[port.any_name] for port in compiled.inputs})
    return [np.array(results[1 + place]) for place in range(len(wanted))]


def edit_packed(artifact: Path, change: Callable[[Tensors], None]) -> None:
    """Reads all shards as one dictionary, and writes every tensor back to its shard; new ones go
    into the last."""
    shards = {path: load_file(path) for path in sorted(artifact.glob("*.safetensors"))}
    tensors = {name: tensor for shard in shards.values() for name, tensor in shard.items()}
    files = {name: path for path, shard in shards.items() for name in shard}
    last = max(shards)
    change(tensors)
    for path in shards:
        path.unlink()
        shard = {
            name: tensor.contiguous()
            for name, tensor in tensors.items()
            if files.get(name, last) == path
        }
        save_file(shard, path, metadata={"format": "pt"})


def packed(tensors: Tensors, ending: str) -> list[str]:
    """Names with one ending, by layer number."""
    names = [name for name in tensors if name.endswith(ending)]
    if not names:
        raise ValueError(f"the artifact has no tensor that ends with {ending}.")
    return sorted(names, key=lambda name: int(re.search(r"\.layers\.(\d+)\.", name)[1]))


def unpack(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, columns] -> its nibbles, lowest first, int32 [rows, columns, 8]."""
    return (words[..., None] >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15


def pack(nibbles: torch.Tensor) -> torch.Tensor:
    words = (nibbles.long() << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
