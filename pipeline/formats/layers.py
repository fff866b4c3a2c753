"""What precision did each linear layer of an artifact really get? Read from the files, not from the
tool's word."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.capabilities import ENGINES, IR, SAFETENSORS
from pipeline.errors import ArtifactError
from pipeline.records import Layers
from pipeline.source.checkpoint import (
    EMBEDDINGS,
    OUTPUTS,
    is_router,
    linear_shapes,
    module_name,
    source_tensors,
)
from pipeline.source.files import refuse_strays
from pipeline.source.tensors import not_finite, not_finite_in

IR_LOW_BIT = {
    "u4": "int4",
    "i4": "int4",
    "nf4": "nf4",
    "f4e2m1": "mxfp4",
    "u8": "int8",
    "i8": "int8",
}
STORED = {"I8": "int8", "F8_E4M3": "fp8"}  # by safetensors' name
IR_OPTIONS = {
    "ACTIVATIONS_SCALE_FACTOR": ("8.0",),
    "KV_CACHE_PRECISION": ("f16",),
}  # that optimum-intel 2.2.0 writes
IR_FLOAT = ("f16", "bf16", "f32")
IR_PASSING = (
    "Convert",
    "Subtract",
    "Multiply",
    "Reshape",
    "Transpose",
)  # between a stored weight and who reads it
IR_READERS = ("MatMul", "Gather")
# optimum-intel multiplies with all experts of a block at once, three times, in this order; their
# weights are [experts, out, in].
IR_EXPERTS = {"MatMul": "gate_proj", "MatMul_1": "up_proj", "MatMul_2": "down_proj"}
IR_WEIGHT_SUFFIXES = ("._openvino_orig_weight", ".weight")


class Layer(NamedTuple):
    """Type in a recipe's words ("bf16" stands for any 16 or 32 bit float) and logical shape [out,
    in] of a stored weight."""

    type: str
    shape: tuple[int, int]


def inspect(artifact: Path, engine: str) -> dict[str, Layer]:
    """The weights of the linear layers in the decoder blocks, by layer name, less a mixture's
    routers.

    Raises ArtifactError for NaN or Inf, for a layer that is stored twice, and for a router that is
    quantized."""
    stored = list(READERS[ENGINES[engine].artifact_format](artifact))
    layers = dict(stored)
    if len(stored) > len(layers):
        twice = [name for name, count in Counter(name for name, _ in stored).items() if count > 1]
        raise ArtifactError(
            f"{artifact}: {len(twice)} layers are stored twice: {', '.join(twice[:5])}. Quantize"
            " again."
        )
    routers = {name: layer.type for name, layer in layers.items() if is_router(name)}
    if quantized := [f"{name} ({kind})" for name, kind in routers.items() if kind != "bf16"]:
        raise ArtifactError(
            f"{artifact}: routers of experts are not to be quantized: {', '.join(quantized[:5])}."
        )
    return {name: layer for name, layer in layers.items() if name not in routers}


def outside(artifact: Path, engine: str) -> list[str]:
    """The types, in a recipe's words, of the embedding and the output projection, which may be one
    matrix."""
    return sorted(
        {
            kind
            for name, kind, _ in _matrices(artifact, engine)
            if name.endswith((*EMBEDDINGS, *OUTPUTS))
        }
    )


def weights_by_type(artifact: Path, engine: str) -> dict[str, int]:
    """How many weights of all matrices, the embedding too, are stored in which type, in a recipe's
    words."""
    counted: Counter[str] = Counter()
    for _, kind, size in _matrices(artifact, engine):
        counted[kind] += size
    return dict(counted)


def _matrices(artifact: Path, engine: str) -> Iterator[tuple[str, str, int]]:
    """Layer, type and number of weights of each."""
    if ENGINES[engine].artifact_format == IR:
        for weight in ir_weights(read_ir(artifact)):
            if max(weight.shape) < math.prod(weight.shape):  # the frequencies of RoPE are a vector
                yield weight.layer, IR_LOW_BIT.get(weight.type, "bf16"), math.prod(weight.shape)
    else:
        tensors = {module_name(name): tensor for name, tensor in source_tensors(artifact).items()}
        for name, layer in _stored(tensors):
            yield name, layer.type, math.prod(layer.shape)


def block(layer: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.up_proj`."""
    head, _, tail = layer.partition(".layers.")
    return f"{head}.layers.{tail.split('.')[0]}"


def compare(
    layers: dict[str, Layer],
    source: Path,
    accepted: set[str],
    kept: frozenset[str] = frozenset(),
    int8: frozenset[str] = frozenset(),
) -> Layers:
    """Counts the layers stored in one of the accepted types and names those that are not.

    Those to be `kept` are apart; those in `int8` are to have 8 bits, whatever is accepted of the
    others. Raises ArtifactError if a layer is missing, was added, has another shape than in the
    source, was not kept or has no 8 bits."""
    expected = linear_shapes(source)
    wrong = [f"{name}: missing" for name in expected if name not in layers]
    wrong += [f"{name}: not in the source" for name in layers if name not in expected]
    wrong += [
        f"{name}: shape {list(layers[name].shape)}, the source has {list(shape)}"
        for name, shape in expected.items()
        if name in layers and layers[name].shape != shape
    ]
    wrong += [
        f"{name}: stored in {layers[name].type}, the recipe keeps it in 16 bits"
        for name in expected
        if name in kept and name in layers and layers[name].type != "bf16"
    ]
    wrong += [
        f"{name}: stored in {layers[name].type}, the recipe wants int8 (int8_layers)"
        for name in expected
        if name in int8 and name in layers and layers[name].type != "int8"
    ]
    if wrong:
        raise ArtifactError(
            f"the artifact's layers differ from those of {source}: {'; '.join(wrong[:5])}."
        )
    inside = sorted(kept & expected.keys())
    others = {name: layer for name, layer in layers.items() if name not in kept | int8}
    skipped = [
        f"{name} ({layer.type})" for name, layer in others.items() if layer.type not in accepted
    ]
    quantized = len(expected) - len(skipped) - len(inside)
    return Layers(
        expected=len(expected), quantized=quantized, skipped=skipped, kept=inside, int8=sorted(int8)
    )


def share(layers: dict[str, Layer], stored: str) -> float:
    """Share of the weights of these layers that are stored in a type."""
    sizes = {layer: layers[layer].shape[0] * layers[layer].shape[1] for layer in layers}
    return sum(size for layer, size in sizes.items() if layers[layer].type == stored) / sum(
        sizes.values()
    )


def stored_types(layers: dict[str, Layer]) -> dict[str, int]:
    """How many layers have which stored type."""
    return dict(Counter(layer.type for layer in layers.values()))


def _from_safetensors(artifact: Path) -> Iterator[tuple[str, Layer]]:
    refuse_strays(artifact)
    tensors = {module_name(name): tensor for name, tensor in source_tensors(artifact).items()}
    for name, tensor in tensors.items():
        if bad := not_finite(tensor):
            raise ArtifactError(f"{artifact}: tensor {name} holds {bad} NaN or infinite values.")
    yield from ((layer, stored) for layer, stored in _stored(tensors) if ".layers." in layer)


def _stored(tensors: dict[str, Any]) -> Iterator[tuple[str, Layer]]:
    """Every matrix of a checkpoint, by its layer's name."""
    for name, tensor in sorted(tensors.items()):
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and len(tensor.shape) == 2:
            yield layer, Layer(STORED.get(tensor.dtype, "bf16"), (tensor.shape[0], tensor.shape[1]))
        elif kind == "qweight":
            yield layer, _packed(layer, tensors)
        elif kind == "weight_packed":
            yield layer, Layer("int4", (tensor.shape[0], tensor.shape[1] * 8))


def _packed(layer: str, tensors: dict[str, Any]) -> Layer:
    """GPTQ packs rows of [in, out] into one int32, AWQ columns; scales [groups, out] tell which,
    zero-points how many bits."""
    rows, columns = tensors[f"{layer}.qweight"].shape
    companions = (f"{layer}.scales", f"{layer}.qzeros")
    missing = [name for name in companions if name not in tensors]
    if missing or tensors[f"{layer}.qweight"].dtype != "I32":
        raise ArtifactError(
            f"{layer}: not a GPTQ or AWQ layer: {missing or 'qweight is no int32'}."
        )
    out = tensors[f"{layer}.scales"].shape[1]
    bits = 32 * tensors[f"{layer}.qzeros"].shape[1] // out
    return Layer(f"int{bits}", (out, rows * 32 // bits) if columns == out else (out, rows))


def read_ir(artifact: Path) -> Any:
    """The openvino.Model of an artifact. Raises ArtifactError if its files are torn or ask for
    their own serving options.

    optimum-intel writes a 16-bit KV cache into unquantized models; how an artifact is served is the
    recipe's business."""
    import openvino

    try:
        model = openvino.Core().read_model(artifact / "openvino_model.xml")
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise ArtifactError(
            f"{artifact}: OpenVINO cannot read it, its files are torn: {message}. Quantize again."
        ) from error
    options = (
        dict(model.get_rt_info(["runtime_options"]).value)
        if model.has_rt_info(["runtime_options"])
        else {}
    )
    foreign = {
        name: value for name, value in options.items() if value not in IR_OPTIONS.get(name, ())
    }
    if foreign:
        raise ArtifactError(
            f"{artifact}: openvino_model.xml: runtime_options: found {foreign}, expected no more"
            f" than {IR_OPTIONS}. Serving settings belong to the recipe: quantize again."
        )
    return model


def _from_ir(artifact: Path) -> Iterator[tuple[str, Layer]]:
    model = read_ir(artifact)
    for operation in model.get_ops():
        if operation.get_type_name() != "Constant":
            continue
        kind, name = operation.get_element_type().get_type_name(), operation.get_friendly_name()
        # `data` of a bfloat16 constant is its bits under the name of float16; get_data would copy
        # it whole to convert it.
        if kind in IR_FLOAT and not_finite_in(operation.data, kind.upper()):
            raise ArtifactError(f"{artifact}: constant {name} holds NaN or infinite values.")
    for layer, kind, shape, name in ir_weights(model):
        if ".layers." not in layer:
            continue
        if kind not in (*IR_LOW_BIT, *IR_FLOAT):
            raise ArtifactError(
                f"{artifact}: constant {name} has type {kind}, expected a float or an integer"
                " weight."
            )
        experts = ir_experts(layer, shape[0])
        rows, *columns = shape[1:] if experts else shape
        for one in experts or [layer]:
            yield one, Layer(IR_LOW_BIT.get(kind, "bf16"), (rows, math.prod(columns)))


class IrWeight(NamedTuple):
    """A constant that a layer multiplies with, or looks up in: OpenVINO's type, and shape [out, in]
    or [out, groups, columns of a group], with [experts] before it for all experts of a block
    (`ir_experts`)."""

    layer: str
    type: str
    shape: list[int]
    constant: str


def ir_weights(model: Any) -> Iterator[IrWeight]:
    for operation in model.get_ops():
        if operation.get_type_name() != "Constant":
            continue
        kind, name = operation.get_element_type().get_type_name(), operation.get_friendly_name()
        shape = list(operation.get_output_shape(0))
        layer = _named(name) or (
            ir_consumer(operation) if kind in IR_LOW_BIT or ir_multiplied(operation) else None
        )
        if layer is not None and len(shape) > 1 and not name.endswith("/zero_point"):
            yield IrWeight(layer, kind, shape, name)


def _named(constant: str) -> str | None:
    """The layer whose weight a constant is, by its name."""
    suffix = next((suffix for suffix in IR_WEIGHT_SUFFIXES if constant.endswith(suffix)), None)
    return constant.removesuffix(suffix).removeprefix("self.") if suffix else None


def ir_output_is_float(artifact: Path, layer: str) -> bool:
    """Whether an IR holds the weight of the output projection, which may be the embedding's too, as
    a float."""
    for operation in read_ir(artifact).get_ops():
        if operation.get_type_name() == "MatMul" and f"{layer}/" in operation.get_friendly_name():
            stored = operation.input_value(1).get_node()
            while stored.get_type_name() in IR_PASSING:
                stored = stored.input_value(0).get_node()
            return stored.get_element_type().get_type_name() in IR_FLOAT
    raise ArtifactError(f"{artifact}: no MatMul of {layer}. Quantize again.")


def ir_consumer(constant: Any) -> str | None:
    """The layer that multiplies with a constant, where that has lost its name (static
    quantization); None for anything else.

    Operations keep the name of the module that they were traced from:
    `__module.model.layers.0.mlp.up_proj/.../MatMul`. For all experts of a block it is
    `model.layers.0.mlp.experts.*.up_proj`."""
    operation = constant
    while operation.get_type_name() not in IR_READERS:
        users = [target.get_node() for target in operation.output(0).get_target_inputs()]
        if not users or operation.get_type_name() not in ("Constant", *IR_PASSING):
            return None
        operation = users[0]
    traced = re.match(r"__module\.(.+?)/(?:.*/)?(.*)", operation.get_friendly_name())
    if traced is None:
        return None
    layer, product = traced.groups()
    return f"{layer}.*.{IR_EXPERTS.get(product)}" if layer.endswith(".experts") else str(layer)


def ir_multiplied(constant: Any) -> bool:
    """Whether a constant, as it is or converted, is a matrix for each expert: a scale would be
    multiplied with a weight first."""
    users = [target.get_node() for target in constant.output(0).get_target_inputs()]
    if len(users) == 1 and users[0].get_type_name() == "Convert":
        return ir_multiplied(users[0])
    return len(constant.get_output_shape(0)) == 3 and any(
        user.get_type_name() == "MatMul" for user in users
    )


def ir_experts(layer: str, count: int) -> list[str]:
    """The names of each expert's layer, for the name of all of them; empty for any other layer."""
    return (
        [layer.replace(".*.", f".{expert}.") for expert in range(count)]
        if ".experts.*." in layer
        else []
    )


READERS = {IR: _from_ir, SAFETENSORS: _from_safetensors}
