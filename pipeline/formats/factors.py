"""Factors by row and column that a quantizer may have moved between layers: those that bring a
matrix closest to its source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.formats.stored import Grid

NEGATIVE = (
    6.0  # standard errors that a channel's factor must lie below zero to be taken for negative
)
ROUNDING_STEPS = 0.4  # root mean square error that is assumed for that
ROUNDS = (
    4  # of the alternating least squares for the channel factors; the third changes nothing visible
)
BLOCK = 1 << 24  # values worked on at once: an embedding's temporaries would take gigabytes
Factors = tuple[np.ndarray, np.ndarray]  # of rows [out, 1] and columns [in]


def fit(theirs: np.ndarray, ours: np.ndarray, grid: Grid, by_row: bool) -> Factors | None:
    """The factors per column, and per row if asked, that bring `theirs` closest to `ours`, in
    steps: (alternating) least squares.

    None if a factor would be negative: no quantizer does that.
    """
    columns = np.ones(theirs.shape[1], np.float32)
    rows = np.ones((len(theirs), 1), np.float32)
    across = np.ones(theirs.shape[1])
    along = np.ones(len(theirs))
    for _ in range(ROUNDS if by_row else 1):
        common, across = np.zeros(theirs.shape[1]), np.zeros(theirs.shape[1])
        for part, weight, target in _in_steps(theirs, ours, grid):
            scaled = weight * rows[part]
            common += np.einsum("ij,ij->j", target, scaled, dtype=np.float64)
            across += np.einsum("ij,ij->j", scaled, scaled, dtype=np.float64)
        columns = (common / np.maximum(across, 1e-20)).astype(np.float32)
        for part, weight, target in _in_steps(theirs, ours, grid) if by_row else ():
            scaled = weight * columns
            along[part] = np.einsum("ij,ij->i", scaled, scaled)
            rows[part, 0] = np.einsum("ij,ij->i", target, scaled) / np.maximum(along[part], 1e-20)
    for factors, sizes in ((columns, across), (rows[:, 0], along)):
        if (factors * np.sqrt(sizes) < -NEGATIVE * ROUNDING_STEPS).any():
            return None
    return rows, columns


def _in_steps(
    theirs: np.ndarray, ours: np.ndarray, grid: Grid
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Both matrices in units of the grid's steps, block by block of rows."""
    groups, columns = grid.step.shape[1], theirs.shape[1]
    group = np.arange(columns) // -(-columns // groups) if grid.group is None else grid.group
    for part in blocks(theirs):
        step = np.maximum(grid.step[part], 1e-30)[:, group]
        yield part, theirs[part] / step, ours[part] / step


def moved(theirs: np.ndarray, part: slice, factors: Factors | None) -> np.ndarray:
    return theirs[part] if factors is None else theirs[part] * factors[0][part] * factors[1]


def blocks(matrix: np.ndarray) -> Iterator[slice]:
    rows = max(1, BLOCK // matrix.shape[1])
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))
