"""How far a matrix is from its source, as the grid that it was rounded to sees it.

The model. A quantizer puts each weight on the grid of its group of columns; how far apart the
levels lie, the artifact's own scales tell. Rounding to nearest moves no weight by more than half a
step, so that the median |error| of a group is at most 0.5 however its weights are distributed: with
outliers, on a coarse grid already, or all alike. Methods that move error on purpose (GPTQ, arXiv
2210.17323; AutoRound, arXiv 2309.05516; searched scales) hand errors on to other groups of the row.
A single group is therefore judged in a unit that has the row's other steps in it, against what its
column group shows in all rows, with room for the scatter of a median that grows with the number of
groups in the artifact (Bonferroni). A zero-point that is off by k levels gives a median of k;
weights that belong elsewhere give about 2 at 4 bits and 40 at 8.

GPTQ hands on what a grid cuts off as well. Where a row meets the ends of its grid, that can feed
itself until the whole row has run away: all of its groups are off, by about as many steps as lie
between the middle of 4 bits and their ends. Such a row is judged as a whole; among its groups none
can be told to be wrong by itself.

Quantizers may also move scale between neighbouring layers, by a factor per input or output channel
(AWQ, arXiv 2306.00978; SmoothQuant, arXiv 2211.10438). A matrix that its source does not explain as
it is, is compared up to such factors.

Figures: docs/decisions.md."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from pipeline.formats.factors import Factors, blocks, fit, moved
from pipeline.formats.stored import Grid
from pipeline.source.checkpoint import OUTPUTS

# Median |error| in steps. Rounding gives 0.25 in the typical group of a matrix, GPTQ was seen to
# give up to 0.4; zero-points off by one give 1. A single group is strange beyond what rounding can
# give, and impossible where it is off by several levels: GPTQ was seen to move single groups by 2
# (136,192 groups of one matrix), in columns of the largest activations.
HALF, TYPICAL, STRANGE, IMPOSSIBLE = 0.5, 0.75, 0.75, 4.0
# Of the typical group of a row, in the same steps: beyond the first the row has run away, beyond
# the second nothing explains it (from the middle of 4 bits to their ends). Seen in llm-compressor's
# GPTQ of SmolLM2: 3.8, with two thirds of the row's weights at the ends of the grid.
RUN_AWAY, ENDS = 1.0, 8.0
ROW_GROUPS = 4  # fewer are no row to hold one of them against
UNEXPLAINED = (
    0.9  # of the size of the typical row: whatever the step, a matrix of zeros has an error of 1
)
# expected of all groups of an artifact together, where their medians scatter as those of normal
# samples
FALSE_ALARMS = 1e-3
SCATTER = (
    0.787 / 0.6745
)  # standard error of the median |x| of n normal x, times sqrt(n), over that median
# share of the columns that may be zeros: GPTQ and AWQ make some of inputs that the calibration set
# never fed
GONE = 0.1
STORED_OUTPUTS = tuple(f"{name}.weight" for name in OUTPUTS)
# Layers whose outputs go into the next product as they are, so that a quantizer can move scale by
# row: values and up projections. Elsewhere a factor by row would be a wrong scale of the channel.
ROWS_MOVE = tuple(
    f"{name}.weight"
    for name in ("v_proj", "up_proj", "qkv_proj", "query_key_value", "gate_up_proj")
)


class Moves(NamedTuple):
    """What a quantizer may have scaled by a factor each, with the inverse in a neighbouring
    layer."""

    rows: bool
    columns: bool

    @classmethod
    def of(cls, name: str) -> Moves:
        """Of a matrix by its name. An embedding's cannot move anywhere."""
        return cls(
            rows=name.endswith(ROWS_MOVE),
            columns=".layers." in name or name.endswith(STORED_OUTPUTS),
        )


class Rounding(NamedTuple):
    """How far a matrix is from its source, as its grid sees it.

    `typical`, `column_group`, `row`: median |error| in steps of the typical group, of the worst
    column group over all rows and of the worst row over all its groups. `worst`: that of the worst
    single group over its bound. `run_away`: rows that are off as a whole. `unexplained`:
    error over size of the typical row. `strange`: groups beyond what rounding gives. `gone`: share
    of columns that are zero although the source's are not; `rows_gone` likewise."""

    relative: float
    typical: float
    column_group: float
    row: float
    worst: float
    unexplained: float
    strange: int
    groups: int
    run_away: int
    gone: float
    rows_gone: int

    @property
    def refusal(self) -> str | None:
        """What no rounding explains; None if there is nothing."""
        held = (
            (
                self.rows_gone == 0 and self.gone <= GONE,
                f"{self.rows_gone} rows and {self.gone:.0%} of the columns are zero, which the"
                " source's are not",
            ),
            (
                self.unexplained <= UNEXPLAINED,
                f"the error is {self.unexplained:.0%} of a typical row's size",
            ),
            (
                self.typical <= TYPICAL,
                f"off by {self.typical:.2g} steps of its own grid in the typical group (rounding:"
                f" 0.25, at most {TYPICAL:g})",
            ),
            (
                self.column_group <= IMPOSSIBLE,
                f"a group of columns is off by {self.column_group:.2g} steps in all rows (at most"
                f" {IMPOSSIBLE:g})",
            ),
            (
                self.row <= ENDS,
                f"a row is off by {self.row:.2g} steps in its typical group (at most {ENDS:g},"
                " which is as far as 4 bits reach)",
            ),
            (
                self.worst <= 1,
                f"a group is {self.worst:.2g} times as far off as rounding and its scatter can be:"
                " a wrong zero-point or scale",
            ),
        )
        return next((why for fine, why in held if not fine), None)

    @property
    def plain(self) -> bool:
        """Whether rounding to nearest explains all of it."""
        return (
            self.refusal is None
            and not self.strange
            and max(self.typical, self.column_group) <= HALF
        )

    @property
    def note(self) -> str | None:
        """What is worth a reviewer's eye but no proof."""
        remarks = (
            [f"{self.strange} of {self.groups} groups are further off than rounding explains"]
            if self.strange
            else []
        )
        remarks += (
            [f"{self.run_away} rows are off as a whole, as where GPTQ met the ends of its grid"]
            if self.run_away
            else []
        )
        remarks += (
            [f"{self.gone:.1%} of its columns are zero, which the source's are not"]
            if self.gone
            else []
        )
        return " and ".join(remarks) or None


def compare(theirs: np.ndarray, ours: np.ndarray, grid: Grid, moves: Moves, total: int) -> Rounding:
    """Of two float32 weights [out, in]; if need be, up to factors of the rows and columns of
    `theirs` that may have moved.

    `total` is the number of weights in the artifact, which says among how many groups the worst one
    is sought."""
    rounding = _rounding(theirs, ours, grid, total)
    if moves.columns and not rounding.plain and (factors := fit(theirs, ours, grid, moves.rows)):
        folded = _rounding(theirs, ours, grid, total, factors)
        return (
            folded if folded.refusal is None and folded.relative < rounding.relative else rounding
        )
    return rounding


def float_error(theirs: np.ndarray, ours: np.ndarray, limit: float, moves: Moves) -> float:
    """Relative (Frobenius) error; if that is beyond the limit, up to factors of what may have
    moved."""
    error = _relative(theirs, ours)
    if moves.columns and not error <= limit:
        whole = Grid(
            np.sqrt(np.square(ours).mean(1, keepdims=True))
        )  # no grid: a row's own size weighs it
        factors = fit(theirs, ours, whole, moves.rows)
        return error if factors is None else min(error, _relative(theirs, ours, factors))
    return error


def _relative(theirs: np.ndarray, ours: np.ndarray, factors: Factors | None = None) -> float:
    error = size = 0.0
    for part in blocks(theirs):
        expected = moved(theirs, part, factors)
        error += float(np.square(ours[part] - expected, dtype=np.float64).sum())
        size += float(np.square(expected, dtype=np.float64).sum())
    return math.sqrt(error / size) if size else math.inf


def _rounding(
    theirs: np.ndarray, ours: np.ndarray, grid: Grid, total: int, factors: Factors | None = None
) -> Rounding:
    zero = ~ours.any(0) & theirs.any(0)
    medians, unexplained, error_size, size = [], [], 0.0, 0.0
    for part in blocks(theirs):
        expected = moved(theirs, part, factors)
        error = np.abs(ours[part] - expected)
        error[:, zero] = 0  # said apart
        medians.append(_medians(error, Grid(grid.step[part], grid.group)))
        errors, sizes = (np.square(values, dtype=np.float64).sum(1) for values in (error, expected))
        unexplained.append(np.sqrt(errors / np.maximum(sizes, 1e-30)))
        error_size, size = error_size + errors.sum(), size + sizes.sum()
    steps = np.concatenate(medians)
    usual = np.sqrt(np.square(grid.step, dtype=np.float64).mean(1, keepdims=True))
    off = steps * grid.step / np.sqrt((np.square(grid.step) + np.square(usual)) / 2 + 1e-60)
    columns = np.median(off, 0)
    rows = np.median(off, 1) if off.shape[1] >= ROW_GROUPS else np.zeros(len(off))
    alone = off[rows <= RUN_AWAY]
    in_group = theirs.shape[1] / grid.step.shape[1]
    most = -NormalDist().inv_cdf(FALSE_ALARMS * in_group / max(total, theirs.size))
    room = most * SCATTER * np.minimum(columns, IMPOSSIBLE) / math.sqrt(in_group)
    return Rounding(
        relative=math.sqrt(error_size / size) if size else math.inf,
        typical=float(np.median(steps)),
        column_group=float(columns.max()),
        row=float(rows.max()),
        worst=float((alone / (IMPOSSIBLE + room)).max(initial=0)),
        unexplained=float(np.median(np.concatenate(unexplained))),
        strange=int((off > np.maximum(STRANGE, columns) + room).sum()),
        groups=off.size,
        run_away=int((rows > RUN_AWAY).sum()),
        gone=float(zero.mean()),
        rows_gone=int((~ours.any(1) & theirs.any(1)).sum()),
    )


def _medians(error: np.ndarray, grid: Grid) -> np.ndarray:
    """Median of each group in its steps, [rows, groups], of |error| [rows, in]; the last group may
    be smaller than the others."""
    groups = grid.step.shape[1]
    if grid.group is not None:
        error = error[:, np.argsort(grid.group, kind="stable")]
    size = -(-error.shape[1] // groups)
    whole = error.shape[1] // size
    medians_by_group = np.median(error[:, : whole * size].reshape(len(error), whole, size), -1)
    if whole < groups:
        medians_by_group = np.column_stack(
            [medians_by_group, np.median(error[:, whole * size :], -1)]
        )
    medians: np.ndarray = medians_by_group / np.maximum(grid.step, 1e-30)
    return medians
