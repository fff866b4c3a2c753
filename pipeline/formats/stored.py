"""Every matrix of an artifact as its engine computes it, with the grid that it was rounded to: read
from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.capabilities import ENGINES, IR, SAFETENSORS
from pipeline.formats.layers import IR_LOW_BIT, IR_PASSING, ir_consumer, ir_experts, read_ir
from pipeline.source.checkpoint import module_name, source_tensors

# How far apart the levels of a type lie, in its scales: NF4's 16 lie between -1 and 1 (arXiv
# 2305.14314), those of MXFP4 between -6 and 6 (OCP Microscaling 1.0), neither evenly; this is the
# mean.
LEVELS_APART = {"nf4": 2 / 15, "f4e2m1": 12 / 15}
SCALES = (
    "scales",
    "weight_scale",
)  # GPTQ's and AWQ's [groups, out]; compressed-tensors' [out, groups]
INTEGERS = ("I8", "I32", "U8")


class Grid(NamedTuple):
    """The levels that a matrix was rounded to: `step` [out, groups] is how far apart they lie in
    each group of columns, in the matrix's own unit; `group` [in] is the group of each column, None
    where groups are of one size and in order."""

    step: np.ndarray
    group: np.ndarray | None = None


class Matrix(NamedTuple):
    """`value` [out, in] in float32; no grid where it is stored as a float of 8 bits or more."""

    name: str
    value: np.ndarray
    grid: Grid | None


def matrices(artifact: Path, engine: str) -> Iterator[Matrix]:
    """Raises ArtifactError for a layout that is not known."""
    return READERS[ENGINES[engine].artifact_format](artifact)


def rounding_grid(weight: np.ndarray, bits: int, group_size: int) -> Grid:
    """The grid of asymmetric rounding to nearest of a float32 weight [out, in]; -1: one group a
    row."""
    columns = weight.shape[1]
    size = group_size if group_size > 0 and columns % group_size == 0 else columns
    grouped = weight.reshape(len(weight), -1, size)
    span = np.maximum(grouped.max(-1), 0) - np.minimum(grouped.min(-1), 0)
    return Grid(span / (2**bits - 1))


def _from_safetensors(artifact: Path) -> Iterator[Matrix]:
    from safetensors import safe_open

    from pipeline.formats.decoded import weights

    tensors = source_tensors(artifact)

    def part(name: str) -> np.ndarray | None:
        if name not in tensors:
            return None
        with safe_open(tensors[name].file, "pt") as file:
            value: np.ndarray = file.get_tensor(name).float().numpy()
        return value

    for name, tensor in weights(artifact):
        if not name.endswith(".weight") or tensor.ndim != 2:
            continue
        layer = name.removesuffix(".weight")
        by_group, by_row = (part(f"{layer}.{kind}") for kind in SCALES)
        step = by_group.T if by_group is not None else by_row
        stored = tensors.get(name)
        rounded = step is not None and (stored is None or stored.dtype in INTEGERS)
        index = part(f"{layer}.g_idx")
        yield Matrix(
            module_name(name),
            tensor.numpy(),
            (
                Grid(np.abs(step), None if index is None else index.astype(np.int64))
                if rounded and step is not None
                else None
            ),
        )


def _from_ir(artifact: Path) -> Iterator[Matrix]:
    """Every weight that a MatMul or Gather reads, computed from its constants by OpenVINO
    itself."""
    import openvino

    core = openvino.Core()
    for operation in read_ir(artifact).get_ops():
        place = {"MatMul": 1, "Gather": 0}.get(operation.get_type_name())
        node = operation.input_value(place).get_node() if place is not None else None
        constants = _constants(node) if node is not None else None
        name = _weight_name(constants) if constants else None
        if place is None or constants is None or name is None:
            continue
        converted = openvino.opset13.convert(operation.input_value(place), "f32")
        part = openvino.Model([openvino.opset13.result(converted)], [], "weight")
        value = np.array(
            core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0]
        )
        step = _step(constants, value.shape)
        if experts := ir_experts(name, len(value)):
            steps = [None] * len(value) if step is None else list(step)
            yield from (
                Matrix(*row[:2], _grid(row[2])) for row in zip(experts, value, steps, strict=True)
            )
        else:
            yield Matrix(name, value, _grid(step))


def _grid(step: np.ndarray | None) -> Grid | None:
    return None if step is None else Grid(step)


def _constants(node: Any) -> list[Any] | None:
    """The constants that a weight is computed from; None if something else goes in too."""
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
    return constants


def _weight_name(constants: list[Any]) -> str | None:
    """The source's name of the matrix that these constants make; None if it is none."""
    names = [constant.get_friendly_name() for constant in constants]
    if stored := [name for name in names if name.endswith((".weight", "._openvino_orig_weight"))]:
        return str(stored[0]).removeprefix("self.").replace("._openvino_orig_weight", ".weight")
    low = [constant for constant in constants if _type(constant) in IR_LOW_BIT]
    stacked = [
        constant for constant in constants if len(constant.get_output_shape(0)) == 3
    ]  # the experts of a block
    layer = ir_consumer((low or stacked)[0]) if low or stacked else None
    return f"{layer}.weight" if layer else None


def _type(constant: Any) -> str:
    return str(constant.get_element_type().get_type_name())


def _step(constants: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """[..., out, groups] from the scales that a low-bit constant is multiplied with; None for a
    float.

    One factor for all, or one a column, scales the step as a whole.
    """
    levels = max(
        (constant for constant in constants if _type(constant) in IR_LOW_BIT),
        key=lambda c: np.prod(c.get_output_shape(0)),
        default=None,
    )
    if levels is None:
        return None
    step = np.full((*shape[:-1], 1), LEVELS_APART.get(_type(levels), 1.0), np.float32)
    for constant in constants:
        readers = {target.get_node().get_type_name() for target in _users(constant)}
        if _type(constant) not in IR_LOW_BIT and "Multiply" in readers:
            scale = np.abs(constant.get_data(dtype=np.float32))
            by_row = scale.shape[: len(shape) - 1] == shape[:-1]
            step = step * (scale.reshape(*shape[:-1], -1) if by_row else scale.mean())
    return step


def _users(constant: Any) -> list[Any]:
    """Who reads a constant, behind a conversion."""
    users = list(constant.output(0).get_target_inputs())
    if len(users) == 1 and users[0].get_node().get_type_name() == "Convert":
        return list(users[0].get_node().output(0).get_target_inputs())
    return users


READERS = {IR: _from_ir, SAFETENSORS: _from_safetensors}
