"""Damages to a finished artifact, in place, one function a fault: OpenVINO IR, tokenizer files,
packed GPTQ and AWQ.

Every function takes the artifact folder, which the caller copied, and the source checkpoint. Runs
where torch and openvino are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import torch
from openvino import opset13 as operations

from tests.panel.artifact_files import (
    IR,
    Tensors,
    activation_maxima,
    constants,
    down_projections,
    edit_ir,
    edit_packed,
    pack,
    packed,
    replace,
    replace_file,
    unpack,
)

AWQ_ORDER = [
    0,
    2,
    4,
    6,
    1,
    3,
    5,
    7,
]  # the column that each nibble of an AWQ word holds, lowest first
NAN_BITS = {"bf16": (np.uint16, 0x7FC0), "f16": (np.uint16, 0x7E00), "f32": (np.uint32, 0x7FC00000)}
SATURATED_SHARE = 0.2
PERMUTED_TOKENS = 2
TEMPLATE = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"


def ir_swapped_scales(artifact: Path, source: Path) -> None:
    """A plugin or exporter that confuses two layers: the first and last down projection have each
    other's scales."""

    def change(model: openvino.Model) -> None:
        scales = constants(model, r"mlp\.down_proj\.\w+/scale")
        first, last = scales[min(scales)], scales[max(scales)]
        raw = first.data.copy(), last.data.copy()
        replace(first, raw[1])
        replace(last, raw[0])

    edit_ir(artifact, change)


def ir_zero_point(artifact: Path, source: Path) -> None:
    """Zero-points counted from one: all of the middle down projection's are one level off
    (asymmetric weights only)."""

    def change(model: openvino.Model) -> None:
        zeros = constants(model, r"mlp\.down_proj\.\w+/zero_point")
        constant = zeros[len(zeros) // 2]
        if constant.get_element_type() == openvino.Type.u4:
            low, high = _off_by_one(constant.data & 15, 15), _off_by_one(constant.data >> 4, 15)
            replace(constant, low | high << 4)
        else:
            replace(constant, _off_by_one(constant.data, np.iinfo(constant.data.dtype).max))

    edit_ir(artifact, change)


def _off_by_one(values: np.ndarray, highest: int) -> np.ndarray:
    return np.where(values < highest, values + 1, values - 1).astype(values.dtype)


def ir_saturated_activations(artifact: Path, source: Path) -> None:
    """Static activation ranges calibrated on too little: each down projection's input is cut at 20
    % of its maximum.

    The maximum is that of the artifact itself on 128 random tokens (seed 0), since activations
    differ between models by orders of magnitude and a fixed number would cut everything in one and
    nothing in another."""
    limits = {name: SATURATED_SHARE * value for name, value in activation_maxima(artifact).items()}

    def change(model: openvino.Model) -> None:
        for node in down_projections(model):
            limit = limits[node.get_friendly_name()]
            clamp = operations.clamp(node.input_value(0), -limit, limit)
            clamp.set_friendly_name(f"{node.get_friendly_name()}/saturated")
            node.input(0).replace_source_output(clamp.output(0))

    edit_ir(artifact, change)


def kv_cache_4bit(artifact: Path, source: Path) -> None:
    """A deployment option that travels in the IR: keys and values cached in 4 bits, where the
    plug-in's own choice is 8 or 16.

    Seen in GenAI's paged attention, scoring included; in the plain stateful graph only once tokens
    come one at a time."""
    edit_ir(
        artifact, lambda model: model.set_rt_info("u4", ["runtime_options", "KV_CACHE_PRECISION"])
    )


def nan_constant(artifact: Path, source: Path) -> None:
    """A division by zero while compressing: one NaN in the scale, or else the weight, of the middle
    down projection."""

    def change(model: openvino.Model) -> None:
        try:
            found = constants(model, r"mlp\.down_proj\.\w+/scale")
        except ValueError:
            found = constants(model, r"mlp\.down_proj\.\w+")
        constant = found[len(found) // 2]
        kind, bits = NAN_BITS[constant.get_element_type().get_type_name()]
        raw = constant.data.copy().view(kind)
        raw.flat[0] = bits
        replace(constant, raw)

    edit_ir(artifact, change)


def torn_bin(artifact: Path, source: Path) -> None:
    """An upload that broke off: the last quarter of the weights is missing."""
    path = artifact / f"{IR}.bin"
    content = path.read_bytes()
    replace_file(path, content[: len(content) * 3 // 4])


def wrong_chat_template(artifact: Path, source: Path) -> None:
    """The chat template of another family of models, wherever the artifact has its own."""
    config_file = artifact / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    template_file = artifact / "chat_template.jinja"
    if template_file.is_file():
        replace_file(template_file, TEMPLATE.encode())
    if "chat_template" in config or not template_file.is_file():
        replace_file(
            config_file, json.dumps(config | {"chat_template": TEMPLATE}, indent=2).encode()
        )


def wrong_tokenizer(artifact: Path, source: Path) -> None:
    """The tokenizer of a sister model, of the same size: two ordinary tokens have each other's ids
    in tokenizer.json.

    A converted openvino_tokenizer.xml stays, as it would: it was made from the right one.
    """
    path = artifact / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = random.Random(0).sample(sorted(vocabulary.keys() - special), PERMUTED_TOKENS)
    ids = [vocabulary[token] for token in tokens]
    vocabulary.update(zip(tokens, ids[1:] + ids[:1], strict=True))
    replace_file(path, json.dumps(tokenizer, ensure_ascii=False, indent=2).encode())


def bos_dropped(artifact: Path, source: Path) -> None:
    """A tokenizer saved by another version: no BOS in front any more; where the source has none,
    one that it must not have."""
    path = artifact / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    named = json.loads((source / "tokenizer_config.json").read_text())
    bos = named.get("bos_token") or named["eos_token"]
    bos = bos if isinstance(bos, str) else bos["content"]
    if tokenizer["post_processor"] is None:  # one that adds nothing
        sequences = [{"Sequence": {"id": part, "type_id": 0}} for part in "AB"]
        adds_nothing = {"single": sequences[:1], "pair": sequences, "special_tokens": {}}
        tokenizer["post_processor"] = {"type": "TemplateProcessing", **adds_nothing}
    processor = tokenizer["post_processor"]
    steps = processor["processors"] if processor["type"] == "Sequence" else [processor]
    template = next(step for step in steps if step["type"] == "TemplateProcessing")
    without = [
        piece for piece in template["single"] if piece.get("SpecialToken", {}).get("id") != bos
    ]
    if len(without) < len(template["single"]):
        template["single"] = without
    else:
        number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == bos)
        template["single"] = [{"SpecialToken": {"id": bos, "type_id": 0}}, *without]
        template["special_tokens"][bos] = {"id": bos, "ids": [number], "tokens": [bos]}
    replace_file(path, json.dumps(tokenizer, ensure_ascii=False, indent=2).encode())


def gptq_swapped_scales(artifact: Path, source: Path) -> None:
    """Two entries of a dictionary confused while saving: the first and last down projection have
    each other's scales."""

    def change(tensors: Tensors) -> None:
        names = packed(tensors, "mlp.down_proj.scales")
        tensors[names[0]], tensors[names[-1]] = tensors[names[-1]], tensors[names[0]]

    edit_packed(artifact, change)


def gptq_zero_point(artifact: Path, source: Path) -> None:
    """GPTQ's formats confused: v2 zero-points (as they are) in a file that says v1 (one less), in
    every layer.

    vLLM's CPU kernels do not read the zero-points of symmetric GPTQ: there it changes nothing. Of
    AWQ they do."""

    def change(tensors: Tensors) -> None:
        for name in packed(tensors, ".qzeros"):
            tensors[name] = pack((unpack(tensors[name]) + 1) % 16)

    edit_packed(artifact, change)


def awq_nibble_order(artifact: Path, source: Path) -> None:
    """A packer that knows GPTQ's order only: the middle down projection's words hold their columns
    from low to high."""

    def change(tensors: Tensors) -> None:
        if any(name.endswith(".g_idx") for name in tensors):
            raise ValueError("the artifact is packed for GPTQ, expected AWQ.")
        for ending in ("mlp.down_proj.qweight", "mlp.down_proj.qzeros"):
            names = packed(tensors, ending)
            name = names[len(names) // 2]
            columns = torch.empty_like(nibbles := unpack(tensors[name]))
            columns[..., AWQ_ORDER] = nibbles
            tensors[name] = pack(columns)

    edit_packed(artifact, change)


ARTIFACT: dict[str, Callable[[Path, Path], None]] = {
    damage.__name__: damage
    for damage in (
        ir_swapped_scales,
        ir_zero_point,
        ir_saturated_activations,
        kv_cache_4bit,
        nan_constant,
        torn_bin,
        wrong_chat_template,
        wrong_tokenizer,
        bos_dropped,
        gptq_swapped_scales,
        gptq_zero_point,
        awq_nibble_order,
    )
}
