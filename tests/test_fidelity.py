"""The comparison of weights: rounding and channel factors pass, anything else is seen. On random layers, no engine."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import fidelity

GROUP = 128


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.02, (192, 512)).astype(np.float32)


def rounded(weight: np.ndarray, bits: int, shift: np.ndarray | float = 0) -> np.ndarray:
    """Asymmetric rounding in groups of 128 columns; `shift` is added to the zero-points [rows, groups]."""
    grouped = weight.reshape(len(weight), -1, GROUP).astype(np.float64)
    low, high = grouped.min(-1, keepdims=True), grouped.max(-1, keepdims=True)
    scale = (high - low) / (2**bits - 1)
    zero = np.round(-low / scale)
    levels = np.clip(np.round(grouped / scale + zero), 0, 2**bits - 1)
    moved = np.broadcast_to(np.asarray(shift, float), zero.shape[:2])[..., None]
    return ((levels - zero - moved) * scale).reshape(weight.shape).astype(np.float32)


def refused(distance: fidelity.Distance, claims: str) -> bool:
    return (
        distance.relative > fidelity.LIMITS[claims]
        or distance.group_bias > fidelity.GROUP_BIAS
        or distance.layer_bias > fidelity.LAYER_BIAS
    )


@pytest.mark.parametrize(("bits", "claims"), [(8, "int8"), (4, "int4"), (2, "int2")])
def test_honest_rounding_is_accepted(weight: np.ndarray, bits: int, claims: str) -> None:
    distance = fidelity.compare(weight, rounded(weight, bits))
    assert not refused(distance, claims)
    assert distance.layer_bias == pytest.approx(1, abs=0.1)  # independent errors: the mean of 128 has 1 standard error


def test_the_error_is_what_numpy_says(weight: np.ndarray) -> None:
    ours = rounded(weight, 4)
    plain = np.linalg.norm(ours - weight) / np.linalg.norm(ours)
    assert fidelity.compare(weight, ours).relative == pytest.approx(plain, rel=0.03)  # the fit takes a little of it away
    assert fidelity._plain(weight, ours) == pytest.approx(np.linalg.norm(ours - weight) / np.linalg.norm(weight), rel=1e-5)


def test_factors_of_rows_and_columns_are_no_error(weight: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    moved = weight * rng.uniform(0.3, 3, (1, 512)).astype(np.float32) * rng.uniform(0.3, 3, (192, 1)).astype(np.float32)
    assert fidelity.compare(weight, moved).relative < 1e-5
    assert not refused(fidelity.compare(weight, rounded(moved, 4)), "int4")


def test_an_output_projection_may_be_scaled_by_column_as_smoothquant_does(weight: np.ndarray) -> None:
    factors = np.random.default_rng(1).uniform(0.3, 3, (1, 512)).astype(np.float32)
    assert fidelity._plain(weight, weight * factors) > 0.3
    assert fidelity._plain(weight, weight * factors, scaled=True) < 1e-5
    turned = weight * factors
    turned[:, 7] *= -1
    assert fidelity._plain(weight, turned, scaled=True) == 1.0
    empty = weight.copy()
    empty[:, 3] = 0
    assert fidelity._plain(empty, empty, scaled=True) == 0.0


@pytest.mark.parametrize("claims", ["int8", "int4"])
def test_zero_points_off_by_one_are_seen(weight: np.ndarray, claims: str) -> None:
    bits = int(claims[3:])
    assert refused(fidelity.compare(weight, rounded(weight, bits, shift=1)), claims)


def test_one_wrong_zero_point_is_seen(weight: np.ndarray) -> None:
    shift = np.zeros((192, 4))
    shift[17, 2] = 8
    distance = fidelity.compare(weight, rounded(weight, 4, shift))
    assert distance.group_bias > fidelity.GROUP_BIAS
    assert distance.relative < fidelity.LIMITS["int4"]  # the size of the error alone would not show it


def test_other_weights_are_seen(weight: np.ndarray) -> None:
    other = np.random.default_rng(2).normal(0, 0.02, weight.shape).astype(np.float32)
    half = np.where(np.arange(192)[:, None] < 96, weight, 0)
    columns = np.where(np.arange(512) % 2, weight, 0)
    for wrong in (other, np.zeros_like(weight), weight[:, ::-1].copy(), np.roll(weight, 1, axis=0), -weight, half, columns):
        assert refused(fidelity.compare(weight, wrong), "int4")


def test_nan_is_never_accepted(weight: np.ndarray) -> None:
    weight[3, 5] = np.nan
    assert not fidelity.compare(np.nan_to_num(weight), weight).relative <= fidelity.LIMITS["int4"]
