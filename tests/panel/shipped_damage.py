"""Bugs that were released in quantization tools or servers, rebuilt on an artifact by their
mechanism, one function a bug.

What each function's first line names is the public report (repository#number). Like
artifact_damage: in place, where torch and openvino are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as operations
from safetensors.torch import load_file

from tests.panel.artifact_files import (
    Tensors,
    activation_maxima,
    down_projections,
    edit_ir,
    edit_packed,
    key_inputs,
    on_random_tokens,
    pack,
    packed,
    replace_file,
)

E2M1_MOST, E2M1_COARSER = (
    6.0,
    ((2.0, 0.5), (4.0, 1.0), (6.0, 2.0)),
)  # levels lie 0.5 apart below 2, 1 below 4, then 2
FIRST_TOKENS, SERVED_TOKENS, FIRST_PROMPTS = (
    384,
    1024,
    8,
)  # SmolLM2's recipe has windows of 512 and serves 1,024
HEADROOM = 1.5  # over the largest key of random tokens; other texts have larger ones
# The pattern of the tokenizers that transformers says must be loaded with fix_mistral_regex.
OTHER_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SYMMETRIC = 8  # the level of zero in symmetric 4-bit GPTQ


def names_without_a_reader(artifact: Path, source: Path) -> None:
    """vllm-project/llm-compressor#2939: two projections fused into one tensor under names that no
    engine maps (MMLU 82 -> 25)."""

    def change(tensors: Tensors) -> None:
        names = packed(tensors, "mlp.gate_proj.qweight")
        layer = names[len(names) // 2].removesuffix(".gate_proj.qweight")
        for part, fused in (
            ("qweight", "packed"),
            ("scales", "scale"),
            ("qzeros", "zero_point"),
            ("g_idx", ""),
        ):
            both = [tensors.pop(f"{layer}.{name}_proj.{part}") for name in ("gate", "up")]
            if fused:
                tensors[f"{layer}.gate_up_proj_{fused}"] = torch.cat(both, dim=1)

    edit_packed(artifact, change)


def scales_of_nothing(artifact: Path, source: Path) -> None:
    """vllm-project/llm-compressor#2826: no calibration token reached an expert, so that its scale
    is 0 / 0; here of one layer."""

    def change(tensors: Tensors) -> None:
        names = packed(tensors, "mlp.down_proj.scales")
        tensors[names[len(names) // 2]].fill_(float("nan"))

    edit_packed(artifact, change)


def g_idx_ignored(artifact: Path, source: Path) -> None:
    """vllm-project/vllm#7374: a server that loses the order which g_idx gives (there: tensor
    parallel): nonsense.

    One down projection is rounded in groups of inputs alike in size, as desc_act makes them of
    inputs with alike activations; config.json says desc_act false, and vLLM then reads no g_idx.
    """
    _round_middle_down_projection(artifact, source, in_order=False)


def groups_in_order(artifact: Path, source: Path) -> None:
    """The honest twin of g_idx_ignored: rounded likewise, with the groups in order."""
    _round_middle_down_projection(artifact, source, in_order=True)


def _round_middle_down_projection(artifact: Path, source: Path, in_order: bool) -> None:
    weights = {
        name: value
        for path in sorted(source.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }

    def change(tensors: Tensors) -> None:
        names = packed(tensors, "mlp.down_proj.g_idx")
        name = names[len(names) // 2]
        layer, group = name.removesuffix(".g_idx"), tensors[name].clone()
        weight = weights[f"{layer}.weight"].float().T  # [in, out]
        if not in_order:
            group[weight.abs().amax(1).argsort()] = tensors[name]
        largest = torch.stack(
            [weight[group == one].abs().amax(0) for one in range(int(group.max()) + 1)]
        )
        scales = tensors[f"{layer}.scales"] = (largest * 2 / 15).half()
        levels = (weight / scales.float()[group.long()]).round().add(SYMMETRIC).clamp(0, 15).int()
        tensors[f"{layer}.qweight"] = pack(levels.reshape(-1, 8, levels.shape[1]).transpose(1, 2))
        tensors[name] = group

    edit_packed(artifact, change)


def chat_template_dropped(artifact: Path, source: Path) -> None:
    """unslothai/unsloth#2744: one of a model's quantized files came without its chat template."""
    (artifact / "chat_template.jinja").unlink(missing_ok=True)
    path = artifact / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    replace_file(path, json.dumps(config, indent=2).encode())


def tokenizer_pattern(artifact: Path, source: Path) -> None:
    """vllm-project/llm-compressor#2153: the tokenizer saved beside the weights splits text by
    another pattern."""
    path = artifact / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    split = {
        "type": "Split",
        "pattern": {"Regex": OTHER_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    bytes_only = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_only]}
    replace_file(path, json.dumps(tokenizer, ensure_ascii=False, indent=2).encode())


def one_activation_scale(artifact: Path, source: Path) -> None:
    """intel/auto-round#707: 4-bit floats (E2M1) with one scale for all activations, where blocks of
    32 were meant: accuracy 0.

    The default act_group_size became 0. Here of the down projections' inputs. #1572 tells the same
    of a later version, without a cause."""
    scales = {name: value / E2M1_MOST for name, value in activation_maxima(artifact).items()}

    def change(model: openvino.Model) -> None:
        for node in down_projections(model):
            rounded = _e2m1(node.input_value(0), scales[node.get_friendly_name()])
            node.input(0).replace_source_output(rounded.output(0))

    edit_ir(artifact, change)


def _e2m1(given: Any, scale: float) -> Any:
    """The nearest of scale times 0, 0.5, 1, 1.5, 2, 3, 4, 6, with the sign of what was given."""
    size = operations.divide(operations.abs(given), np.float32(scale))
    step: Any = operations.constant(np.float32(E2M1_COARSER[-1][1]))
    for below, apart in reversed(E2M1_COARSER[:-1]):
        step = operations.select(operations.less(size, np.float32(below)), np.float32(apart), step)
    levels = operations.multiply(
        operations.round(operations.divide(size, step), "half_to_even"), step
    )
    nearest = operations.minimum(levels, np.float32(E2M1_MOST))
    return operations.multiply(
        operations.sign(given), operations.multiply(nearest, np.float32(scale))
    )


def key_ranges_of_short_prompts(artifact: Path, source: Path) -> None:
    """verl-project/verl#4435: the KV cache's scales are those of the first forward pass, and
    saturate later.

    Here each channel of the keys is cut at the largest that it has in 8 prompts of 384 random
    tokens. As positions turn the channels into each other (RoPE), larger values come at later
    positions: prompts that are as short lose little."""
    cut_keys(artifact, FIRST_TOKENS)


def key_ranges_of_long_prompts(artifact: Path, source: Path) -> None:
    """The honest twin of key_ranges_of_short_prompts: ranges of prompts as long as those served,
    with room for other texts.

    Without the room it is damage itself: at SmolLM2-135M's INT8 it adds as much KL as another half
    of the quantization."""
    cut_keys(artifact, SERVED_TOKENS, headroom=HEADROOM)


def cut_keys(artifact: Path, length: int, headroom: float = 1.0) -> None:
    """Cuts each channel of the keys at the largest that it has in prompts of so many random tokens,
    times the headroom."""

    def keys(model: openvino.Model) -> list[Any]:
        """What goes into the cache of each layer, [prompts, heads, tokens, channels]."""
        return [place.get_source_output() for place in key_inputs(model)]

    seen = on_random_tokens(artifact, keys, FIRST_PROMPTS, length)
    limits = [headroom * np.abs(values).max(axis=(0, 2), keepdims=True) for values in seen]

    def change(model: openvino.Model) -> None:
        for place, limit in zip(key_inputs(model), limits, strict=True):
            cut = operations.maximum(operations.minimum(place.get_source_output(), limit), -limit)
            place.replace_source_output(cut.output(0))

    edit_ir(artifact, change)


SHIPPED: dict[str, Callable[[Path, Path], None]] = {
    damage.__name__: damage
    for damage in (
        names_without_a_reader,
        scales_of_nothing,
        g_idx_ignored,
        groups_in_order,
        chat_template_dropped,
        tokenizer_pattern,
        one_activation_scale,
        key_ranges_of_short_prompts,
        key_ranges_of_long_prompts,
    )
}
