"""The comparison of weights: what rounding can do passes, with a margin; what it cannot is refused.
On layers, no engine."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.formats import deviation
from pipeline.formats.deviation import (
    ENDS,
    IMPOSSIBLE,
    TYPICAL,
    Moves,
    compare,
    float_error,
)
from pipeline.formats.fidelity import FLOAT
from pipeline.formats.stored import Grid

GROUP = 64
TOTAL = (
    60_000_000 * GROUP
)  # weights of an artifact of 60 million groups: the hardest search for a single wrong one
SHAPE = (192, 512)
ALL, COLUMNS, NOTHING = (
    Moves(rows=True, columns=True),
    Moves(rows=False, columns=True),
    Moves(rows=False, columns=False),
)


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 0.02, SHAPE)


def uneven(rng: np.random.Generator) -> np.ndarray:
    """Groups whose sizes differ by a hundred, as in real layers."""
    sizes = 10 ** rng.uniform(-1, 1, (SHAPE[0], SHAPE[1] // GROUP))
    return normal(rng) * np.repeat(sizes, GROUP, 1)


def outliers(rng: np.random.Generator) -> np.ndarray:
    """Input channels that are thirty times the others."""
    weight = normal(rng)
    weight[:, rng.choice(SHAPE[1], 8, replace=False)] *= 30
    return weight


def heavy(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, SHAPE) * 0.02


def on_a_grid(rng: np.random.Generator) -> np.ndarray:
    """A source that was rounded to 4 bits in groups of 32 before."""
    return rounded(normal(rng), 4, group=32)[0]


def dead(rng: np.random.Generator) -> np.ndarray:
    """Rows, columns and groups without any weight, and groups that hold one number."""
    weight = normal(rng)
    weight[:, :3] = weight[5] = 0
    weight[7, :GROUP] = 0.01
    return weight


SOURCES = (normal, uneven, outliers, heavy, on_a_grid, dead)


@pytest.fixture(params=SOURCES, ids=lambda source: source.__name__)
def weight(request: pytest.FixtureRequest) -> np.ndarray:
    made: np.ndarray = request.param(np.random.default_rng(0)).astype(np.float32)
    return made


def rounded(
    weight: np.ndarray,
    bits: int,
    shift: np.ndarray | float = 0,
    group: int = GROUP,
    factor: np.ndarray | float = 1,
) -> tuple[np.ndarray, Grid]:
    """Asymmetric rounding to nearest, and its grid; `shift` is added to the zero-points, `factor`
    spoils the scales."""
    grouped = weight.reshape(len(weight), -1, group).astype(np.float64)
    low, high = (
        grouped.min(-1, keepdims=True).clip(max=0),
        grouped.max(-1, keepdims=True).clip(min=0),
    )
    scale = np.maximum((high - low) / (2**bits - 1), 1e-12)
    zero = np.round(-low / scale)
    levels = np.clip(np.round(grouped / scale + zero), 0, 2**bits - 1)
    shape = zero.shape[:2]
    moved, stored = (
        np.broadcast_to(np.asarray(x, float), shape)[..., None] for x in (shift, factor)
    )
    made = ((levels - zero - moved) * scale * stored).reshape(weight.shape).astype(np.float32)
    return made, Grid((scale * stored)[..., 0].astype(np.float32))


def gptq(weight: np.ndarray, bits: int, inputs: np.ndarray) -> tuple[np.ndarray, Grid]:
    """GPTQ as published (arXiv 2210.17323), column by column in float64, for inputs [tokens, in];
    symmetric scales."""
    left = weight.astype(np.float64)
    hessian = inputs.T @ inputs
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.cholesky(np.linalg.inv(hessian)).T
    made, steps = np.zeros_like(left), []
    for column in range(left.shape[1]):
        if column % GROUP == 0:
            steps.append(
                np.abs(left[:, column : column + GROUP]).max(1).clip(1e-12) * 2 / (2**bits - 1)
            )
        step = steps[-1]
        made[:, column] = (
            np.clip(np.round(left[:, column] / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            * step
        )
        error = (left[:, column] - made[:, column]) / inverse[column, column]
        left[:, column:] -= np.outer(error, inverse[column, column:])
    return made.astype(np.float32), Grid(np.column_stack(steps).astype(np.float32))


def judged(
    theirs: np.ndarray, made: tuple[np.ndarray, Grid], moves: Moves = ALL
) -> deviation.Rounding:
    return compare(theirs, *made, moves, total=TOTAL)


@pytest.mark.parametrize("bits", [8, 4])
def test_honest_rounding_is_accepted_with_a_margin(weight: np.ndarray, bits: int) -> None:
    found = judged(weight, rounded(weight, bits))
    assert (found.refusal, found.note) == (None, None)
    assert (
        found.typical <= 0.5 < TYPICAL
    )  # the bound of rounding to nearest, however the weights are distributed
    assert found.worst < 0.5


@pytest.mark.parametrize("bits", [8, 4])
def test_gptq_is_accepted_though_it_moves_error_on_purpose(weight: np.ndarray, bits: int) -> None:
    rng = np.random.default_rng(1)
    mixed = (
        rng.normal(size=(64, SHAPE[1])) * 3
    )  # correlated inputs, which is what makes it move anything
    inputs = rng.normal(size=(2000, 64)) @ mixed + rng.normal(size=(2000, SHAPE[1]))
    made = gptq(weight, bits, inputs)
    plain = np.abs(made[0] - weight) / np.repeat(made[1].step, GROUP, 1)
    assert (
        plain[weight != 0].max() > 0.75
    )  # some weights have moved further than rounding moves any
    assert judged(weight, made).refusal is None


def test_columns_that_calibration_never_fed_are_noted(weight: np.ndarray) -> None:
    made, grid = rounded(weight, 4)
    made[:, 10:20] = 0  # what GPTQ makes of an input that is always zero
    found = judged(weight, (made, grid))
    assert found.refusal is None
    assert "of its columns are zero" in str(found.note)


@pytest.mark.parametrize(("bits", "spread"), [(8, 1.5), (4, 0.7)])
def test_factors_of_rows_and_columns_are_no_error(
    weight: np.ndarray, bits: int, spread: float
) -> None:
    """By channel, of the spread that AWQ's have on real models and beyond."""
    rng = np.random.default_rng(1)
    moved = (
        weight * np.exp(rng.normal(0, spread, (1, 512))) * np.exp(rng.normal(0, spread, (192, 1)))
    )
    assert judged(weight, rounded(moved, bits)).refusal is None


def test_the_error_is_what_numpy_says(weight: np.ndarray) -> None:
    made, grid = rounded(weight, 4)
    plain = np.linalg.norm(made - weight) / np.linalg.norm(weight)
    assert judged(weight, (made, grid)).relative == pytest.approx(plain, rel=1e-5)
    assert float_error(weight, made, FLOAT, NOTHING) == pytest.approx(plain, rel=1e-5)
    steps = np.abs(made - weight).reshape(len(weight), -1, GROUP) / grid.step[..., None]
    assert judged(weight, (made, grid)).typical == pytest.approx(
        np.median(np.median(steps, -1)), abs=1e-4
    )


def test_groups_in_another_order_are_followed(weight: np.ndarray) -> None:
    """GPTQ's g_idx gives each column's group."""
    order = np.random.default_rng(3).permutation(SHAPE[1])
    made, grid = rounded(weight[:, order], 4)
    group, back = np.empty(SHAPE[1], np.int64), np.empty_like(made)
    group[order], back[:, order] = np.arange(SHAPE[1]) // GROUP, made
    in_order, followed = (
        judged(weight[:, order], (made, grid)),
        judged(weight, (back, Grid(grid.step, group))),
    )
    assert followed == pytest.approx(in_order, rel=1e-6)


def test_a_last_group_may_be_smaller(weight: np.ndarray) -> None:
    made, grid = rounded(weight, 4)
    found = compare(weight[:, :-40], made[:, :-40], grid, ALL, total=TOTAL)
    assert (found.refusal, found.groups) == (None, grid.step.size)


@pytest.mark.parametrize("bits", [8, 4])
def test_zero_points_off_by_one_are_refused(weight: np.ndarray, bits: int) -> None:
    assert "off by 1 steps of its own grid" in str(
        judged(weight, rounded(weight, bits, shift=1)).refusal
    )


@pytest.mark.parametrize(("bits", "shift"), [(4, 8), (4, 6), (8, 8), (8, 128)])
def test_one_wrong_zero_point_among_60_million_is_refused(bits: int, shift: int) -> None:
    weight = normal(np.random.default_rng(0)).astype(np.float32)
    wrong = np.zeros((192, 512 // GROUP))
    wrong[17, 2] = shift
    found = judged(weight, rounded(weight, bits, wrong))
    assert "a wrong zero-point or scale" in str(found.refusal)
    assert found.relative < 0.2  # the size of the error alone would not show it


def run_away(weight: np.ndarray, row: int) -> tuple[np.ndarray, Grid]:
    """Two thirds of the row's weights at the ends of a symmetric grid, on either side, as
    llm-compressor's GPTQ left row 507 of two of SmolLM2's down projections."""
    rng = np.random.default_rng(5)
    made, grid = rounded(weight, 4)
    ends = np.repeat(grid.step[row], GROUP) * 7.5 * rng.choice([-1, 1], SHAPE[1])
    made[row] = np.where(rng.random(SHAPE[1]) < 2 / 3, ends, made[row])
    return made, grid


def test_a_row_that_ran_away_is_noted(weight: np.ndarray) -> None:
    found = judged(weight, run_away(weight, 17))
    assert found.refusal is None
    assert found.row < ENDS
    assert "1 rows are off as a whole" in str(found.note)


def test_beside_a_row_that_ran_away_a_wrong_zero_point_is_refused(weight: np.ndarray) -> None:
    made, grid = run_away(weight, 17)
    group = int(grid.step[23].argmax())  # the unit has the row's other steps in it
    made[23, GROUP * group : GROUP * (group + 1)] += 6.5 * grid.step[23, group]
    assert "a wrong zero-point or scale" in str(judged(weight, (made, grid)).refusal)


@pytest.mark.parametrize(("bits", "shift"), [(4, 12), (8, 40)])
def test_a_row_further_off_than_4_bits_reach_is_refused(bits: int, shift: int) -> None:
    weight = normal(np.random.default_rng(0)).astype(np.float32)
    wrong = np.zeros((192, 512 // GROUP))
    wrong[17] = shift
    assert "a row is off by" in str(judged(weight, rounded(weight, bits, wrong)).refusal)


def test_scales_of_another_layer_are_refused(weight: np.ndarray) -> None:
    factor = np.random.default_rng(4).uniform(0.3, 3, (192, 512 // GROUP))
    assert judged(weight, rounded(weight, 8, factor=factor)).refusal
    assert judged(weight, rounded(weight, 4, factor=factor)).refusal


def test_scales_of_another_layers_channels_are_refused(weight: np.ndarray) -> None:
    """One scale a row: a factor by row, which no quantizer moves but where the next layer takes it
    up.

    In 4 bits with one scale a row most weights of a heavy-tailed one are zero anyhow; there only
    measuring tells."""
    factor = np.random.default_rng(4).uniform(0.3, 3, (192, 1))
    assert judged(weight, rounded(weight, 8, group=512, factor=factor), COLUMNS).refusal


@pytest.mark.parametrize("bits", [8, 4])
def test_other_weights_are_refused(weight: np.ndarray, bits: int) -> None:
    other = np.random.default_rng(2).normal(0, 0.02, weight.shape).astype(np.float32)
    half = np.where(np.arange(192)[:, None] < 96, weight, 0)
    columns = np.where(np.arange(512) % 2, weight, 0)
    for wrong in (
        other,
        np.zeros_like(weight),
        weight[:, ::-1].copy(),
        np.roll(weight, 1, axis=0),
        -weight,
        half,
        columns,
    ):
        assert judged(weight, rounded(wrong, bits)).refusal
        assert judged(weight, (rounded(wrong, bits)[0], rounded(weight, bits)[1])).refusal


def test_a_matrix_of_zeros_is_refused_whatever_its_step(weight: np.ndarray) -> None:
    assert judged(weight, (np.zeros_like(weight), Grid(np.full((192, 1), 1e6, np.float32)))).refusal


def test_nan_is_never_accepted(weight: np.ndarray) -> None:
    made, grid = rounded(weight, 4)
    made[3, 5] = np.nan
    assert judged(weight, (made, grid)).refusal
    assert not float_error(weight, made, FLOAT, ALL) <= FLOAT


def test_floats_have_their_types_error(weight: np.ndarray) -> None:
    assert float_error(weight, weight.astype(np.float16).astype(np.float32), FLOAT, ALL) < FLOAT
    factors = np.random.default_rng(1).uniform(0.3, 3, (1, 512)).astype(np.float32)
    assert float_error(weight, weight * factors, FLOAT, ALL) < FLOAT
    assert float_error(weight, weight * factors, FLOAT, NOTHING) > 0.3
    turned = weight * factors
    turned[:, 7] *= -1
    assert float_error(weight, turned, FLOAT, ALL) > FLOAT


def test_the_bound_grows_with_the_number_of_groups() -> None:
    """By the quantiles of the normal distribution: more groups, more chance for one to lie far
    out."""
    weight = normal(np.random.default_rng(0)).astype(np.float32)
    few, many = (
        compare(weight, *rounded(weight, 4), ALL, total=total) for total in (weight.size, TOTAL)
    )
    assert many.worst < few.worst < IMPOSSIBLE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", ALL),
        ("model.layers.0.self_attn.v_proj.weight", ALL),
        ("model.layers.0.mlp.down_proj.weight", COLUMNS),
        ("lm_head.weight", COLUMNS),
        ("model.embed_tokens.weight", NOTHING),
    ],
)
def test_what_may_have_moved(name: str, expected: Moves) -> None:
    assert Moves.of(name) == expected
