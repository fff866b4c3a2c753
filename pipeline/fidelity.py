"""Do an artifact's weights still stand for the source's? Read from the files and compared, before anything is run.

Quantizers may move scale between neighbouring layers (AWQ, arXiv 2306.00978: a factor per input or output channel), so
each layer is compared up to such factors. What is left is rounding, whose size is known for a bit width, and whose mean
over any group of columns is nearly 0: a wrong zero-point, scale or layer is neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.checkpoint import EMBEDDINGS, OUTPUTS, linear_shapes, module_name, source_tensors
from pipeline.errors import ArtifactError
from pipeline.layers import IR_LOW_BIT, IR_PASSING, ir_consumer, ir_experts, read_ir

# Largest relative (Frobenius) error of a layer by the precision it claims: two to four times what rounding and GPTQ were
# seen to cost (docs/decisions.md). Embeddings and the output projection are never stored in fewer than 8 bits.
LIMITS = {"bf16": 0.005, "int8": 0.03, "int4": 0.3, "nf4": 0.3, "mxfp4": 0.3, "fp8": 0.06, "int2": 0.9}
OTHERS = {weights: 0.005 if weights == "bf16" else 0.03 for weights in LIMITS}
# In standard errors of a mean of independent rounding errors: seen at most 5.3 for one group and 1.1 over a layer.
GROUP_BIAS, LAYER_BIAS = 12.0, 2.0
NOISE = 1e-5  # relative; below it an error is the float type's own and has no distribution to speak of
ROUNDS = 4  # of the alternating least squares for the channel factors; the third changes nothing visible
LEAST = 0.01  # of the median factor: a row or column that is scaled below this has vanished
OUTPUTS_STORED = tuple(f"{name}.weight" for name in OUTPUTS)
BLOCK = 4096  # rows of an embedding at once


class Distance(NamedTuple):
    """`relative` error; bias of the worst group of columns and of all groups, in standard errors."""

    relative: float
    group_bias: float
    layer_bias: float


def check(artifact: Path, source: Path, engine: str, weights: str) -> dict[str, float]:
    """Relative error by layer. Raises ArtifactError naming every layer that its precision does not explain."""
    found: dict[str, float] = {}
    wrong = []
    for name, theirs, ours in _pairs(artifact, source, engine):
        if name in found:  # an embedding that is the output projection too
            continue
        inner = ".layers." in name
        limit = (LIMITS if inner else OTHERS)[weights]
        distance = compare(theirs, ours) if inner else Distance(_plain(theirs, ours, name.endswith(OUTPUTS_STORED)), 0.0, 0.0)
        found[name] = round(distance.relative, 6)
        if not distance.relative <= limit:
            wrong.append(f"{name}: relative error {distance.relative:.3f}, which {weights} does not explain (at most {limit:g})")
        elif distance.group_bias > GROUP_BIAS or distance.layer_bias > LAYER_BIAS:
            wrong.append(
                f"{name}: groups of columns are shifted as a whole (by {distance.group_bias:.0f} standard errors at worst, "
                f"{distance.layer_bias:.1f} typically; rounding gives up to {GROUP_BIAS:g} and {LAYER_BIAS:g}): a wrong zero-point"
            )
    missing = [f"{name}: not found" for name in linear_shapes(source) if f"{name}.weight" not in found]
    if wrong := [*missing, *wrong]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ArtifactError(f"{artifact}: weights that are not the source's: {'; '.join(wrong[:3])}{more}. Quantize again.")
    return found


def compare(theirs: np.ndarray, ours: np.ndarray) -> Distance:
    """Of two float32 weights [out, in], up to a factor per row and per column of `theirs`."""
    folded = _fold(theirs, ours)
    if folded is None:
        return Distance(1.0, 0.0, 0.0)
    error = ours - folded
    size, spread = float(np.linalg.norm(ours)), float(np.sqrt(np.square(error).mean()))
    relative = float(np.linalg.norm(error)) / size if size else 1.0  # all zeros: nothing of the source is left
    if not np.isfinite(relative) or relative < NOISE:
        return Distance(relative, 0.0, 0.0)
    columns = error.shape[1]
    group = next((size for size in (128, 64, 32) if columns % size == 0), columns)
    bias = np.abs(error.reshape(len(error), -1, group).mean(-1)) / spread * np.sqrt(group)
    return Distance(relative, float(bias.max()), float(np.sqrt(np.square(bias).mean())))


def _fold(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray | None:
    """`theirs` with the factors per row and column that bring it closest to `ours`: alternating least squares.

    None if a row or column would have to vanish or change its sign: no quantizer does that.
    """
    tiny = np.float32(1e-20)
    rows = np.ones((len(theirs), 1), np.float32)
    for _ in range(ROUNDS):
        scaled = theirs * rows
        columns = (ours * scaled).sum(0) / np.maximum((scaled * scaled).sum(0), tiny)
        scaled = theirs * columns
        rows = ((ours * scaled).sum(1) / np.maximum((scaled * scaled).sum(1), tiny))[:, None]
    gone = [(factors <= LEAST * np.median(factors)) & present for factors, present in
            ((rows[:, 0], theirs.any(1)), (columns, theirs.any(0)))]  # fmt: skip
    if gone[0].any() or gone[1].any():
        return None
    folded: np.ndarray = theirs * rows * columns
    return folded


def _plain(theirs: np.ndarray, ours: np.ndarray, scaled: bool = False) -> float:
    """Relative error, block by block: an embedding's temporaries would take gigabytes.

    `scaled`: up to a factor per column, which SmoothQuant moves from an output projection of its own to the norm before it.
    """
    parts = [slice(start, start + BLOCK) for start in range(0, len(theirs), BLOCK)]
    factors = np.ones(theirs.shape[1])
    if scaled:
        common, squares = (
            np.sum([np.einsum("ij,ij->j", given[part], theirs[part], dtype=np.float64) for part in parts], axis=0)
            for given in (ours, theirs)
        )
        factors = common / np.maximum(squares, 1e-20)
        if ((factors <= LEAST * np.median(factors)) & (squares > 0)).any():
            return 1.0
    error = size = 0.0
    for part in parts:
        expected = theirs[part] * factors
        error += float(np.square(ours[part] - expected, dtype=np.float64).sum())
        size += float(np.square(expected, dtype=np.float64).sum())
    return float(np.sqrt(error / size)) if size else float("inf")


def _pairs(artifact: Path, source: Path, engine: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, the source's and the artifact's weight in float32 of every matrix; a tied output projection is the embedding.

    Raises ArtifactError for a matrix that the source does not have, or that has another shape.
    """
    from safetensors import safe_open

    tensors = {module_name(name): tensor for name, tensor in source_tensors(source).items()}
    tied = next((name for name in tensors if name.removesuffix(".weight").endswith(EMBEDDINGS)), None)
    for name, ours in _from_ir(artifact) if engine == "openvino" else _from_safetensors(artifact):
        tensor = tensors.get(name) or (tensors.get(tied) if tied and name.endswith(OUTPUTS_STORED) else None)
        if tensor is None or tensor.shape != ours.shape:
            expected = f"{list(tensor.shape)}" if tensor else "no such matrix"
            raise ArtifactError(f"{artifact}: {name}: found shape {list(ours.shape)}, the source has {expected}.")
        with safe_open(tensor.file, "pt") as file:
            yield name, file.get_tensor(tensor.name).float().numpy(), ours


def _from_safetensors(artifact: Path) -> Iterator[tuple[str, np.ndarray]]:
    from pipeline.engines.dequantized import weights

    for name, tensor in weights(artifact):
        if name.endswith(".weight") and tensor.ndim == 2:
            yield module_name(name), tensor.numpy()


def _from_ir(artifact: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every weight that a MatMul or Gather reads, computed from its constants by OpenVINO itself."""
    import openvino

    core = openvino.Core()
    for operation in read_ir(artifact).get_ops():
        place = {"MatMul": 1, "Gather": 0}.get(operation.get_type_name())
        name = _weight_name(operation.input_value(place).get_node()) if place is not None else None
        if place is None or name is None:
            continue
        converted = openvino.opset13.convert(operation.input_value(place), "f32")
        part = openvino.Model([openvino.opset13.result(converted)], [], "weight")
        value = np.array(core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0])
        experts = ir_experts(name, len(value))
        yield from zip(experts, value, strict=True) if experts else [(name, value)]


def _weight_name(node: Any) -> str | None:
    """The source's name of the matrix that a subgraph of constants makes; None if it is none."""
    constants, stack = [], [node]
    while stack:
        current = stack.pop()
        kind = current.get_type_name()
        if kind == "Constant":
            constants.append(current)
        elif kind in IR_PASSING:
            stack += [current.input_value(i).get_node() for i in range(current.get_input_size())]
        else:
            return None
    names = [constant.get_friendly_name() for constant in constants]
    if stored := [name for name in names if name.endswith((".weight", "._openvino_orig_weight"))]:
        return str(stored[0]).removeprefix("self.").replace("._openvino_orig_weight", ".weight")
    low = [constant for constant in constants if constant.get_element_type().get_type_name() in IR_LOW_BIT]
    stacked = [constant for constant in constants if len(constant.get_output_shape(0)) == 3]  # the experts of a block
    layer = ir_consumer((low or stacked)[0]) if low or stacked else None
    return f"{layer}.weight" if layer else None
