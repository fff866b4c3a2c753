"""Do an artifact's weights still stand for the source's? Read from the files and compared, before
anything is run.

Each matrix is compared by `deviation`. What no rounding explains is refused. What is only strange
goes on to be measured, as a note."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import ArtifactError
from pipeline.formats.deviation import STORED_OUTPUTS, Moves, compare, float_error
from pipeline.formats.stored import Matrix, matrices, rounding_grid
from pipeline.source.checkpoint import EMBEDDINGS, linear_shapes, module_name, source_tensors

FLOATS = {
    "fp8": 0.06
}  # relative error of what has no grid: the type's own, here that of 3 bits of mantissa
FLOAT = 0.005


class Claim(NamedTuple):
    """The precision that an artifact claims; `simulated`: (bits, group_size) of rounded weights
    that are stored as floats."""

    weights: str
    simulated: tuple[int, int] | None = None


class Comparison(NamedTuple):
    """Relative error of each matrix, and what is strange without being a proof."""

    relative_error: dict[str, float]
    notes: list[str]


def check(artifact: Path, source: Path, engine: str, claim: Claim) -> Comparison:
    """Compares every matrix. Raises ArtifactError naming those that their precision does not
    explain."""
    shapes = linear_shapes(source)
    total = sum(rows * columns for rows, columns in shapes.values())
    relative_error: dict[str, float] = {}
    wrong, notes = [], []
    for theirs, ours in _pairs(artifact, source, engine):
        if ours.name in relative_error:  # an embedding that is the output projection too
            continue
        relative, refusal, note = _judge(theirs, ours, claim, total)
        relative_error[ours.name] = round(relative, 6)
        wrong += [f"{ours.name}: {refusal}"] if refusal else []
        notes += [f"{ours.name}: {note}"] if note else []
    missing = [f"{name}: not found" for name in shapes if f"{name}.weight" not in relative_error]
    if wrong := [*missing, *wrong]:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ArtifactError(
            f"{artifact}: weights that are not the source's: {'; '.join(wrong[:3])}{more}. Quantize"
            " again."
        )
    return Comparison(relative_error, notes)


def _judge(
    theirs: np.ndarray, ours: Matrix, claim: Claim, total: int
) -> tuple[float, str | None, str | None]:
    """Relative error, what refuses the matrix, and what is only strange."""
    inner = ".layers." in ours.name
    moves = Moves.of(ours.name)
    limit = FLOATS.get(claim.weights, FLOAT) if inner else FLOAT
    grid = ours.grid
    if grid is None:
        relative = float_error(theirs, ours.value, limit, moves)
        if relative <= limit:
            return relative, None, None
        if not (inner and claim.simulated):
            return (
                relative,
                f"relative error {relative:.3f} of a float, at most {limit:g} is its type's own",
                None,
            )
        grid = rounding_grid(theirs, *claim.simulated)
    rounding = compare(theirs, ours.value, grid, moves, total)
    return rounding.relative, rounding.refusal, rounding.note


def _pairs(artifact: Path, source: Path, engine: str) -> Iterator[tuple[np.ndarray, Matrix]]:
    """The source's weight in float32 and the artifact's of every matrix; a tied output projection
    is the embedding.

    Raises ArtifactError for a matrix that the source does not have, or that has another shape.
    """
    from safetensors import safe_open

    tensors = {module_name(name): tensor for name, tensor in source_tensors(source).items()}
    tied = next(
        (name for name in tensors if name.removesuffix(".weight").endswith(EMBEDDINGS)), None
    )
    for ours in matrices(artifact, engine):
        tensor = tensors.get(ours.name) or (
            tensors.get(tied) if tied and ours.name.endswith(STORED_OUTPUTS) else None
        )
        if tensor is None or tensor.shape != ours.value.shape:
            expected = f"{list(tensor.shape)}" if tensor else "no such matrix"
            raise ArtifactError(
                f"{artifact}: {ours.name}: found shape {list(ours.value.shape)}, the source has"
                f" {expected}."
            )
        with safe_open(tensor.file, "pt") as file:
            yield file.get_tensor(tensor.name).float().numpy(), ours
