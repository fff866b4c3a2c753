"""Bounds of group-sequential looks, against published tables and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.gate import spending

PUBLISHED = [
    pytest.param(
        0.025,
        (0.2, 0.4, 0.6, 0.8, 1.0),
        (4.877, 3.357, 2.680, 2.290, 2.031),
        id="Lan-DeMets, five equal looks",
    ),
    pytest.param(0.025, (0.5, 1.0), (2.963, 1.969), id="Lan-DeMets, two equal looks"),
    pytest.param(
        0.025, (1 / 3, 2 / 3, 1.0), (3.710, 2.511, 1.993), id="Lan-DeMets, three equal looks"
    ),
]


@pytest.mark.parametrize(("error", "fractions", "bounds"), PUBLISHED)
def test_bounds_of_the_published_tables(
    error: float, fractions: tuple[float, ...], bounds: tuple[float, ...]
) -> None:
    """Jennison and Turnbull 2000, as ldbounds and gsDesign give them."""
    assert norm.isf(spending.errors(error, fractions)) == pytest.approx(bounds, abs=6e-4)


def test_a_single_look_has_all_of_the_error() -> None:
    assert spending.errors(0.05, (1.0,)) == pytest.approx((0.05,))


@pytest.mark.parametrize("fractions", [(0.1, 0.15, 0.7, 1.0), (0.25, 0.5, 1.0), (400 / 401, 1.0)])
def test_looks_of_any_size_spend_what_they_may(fractions: tuple[float, ...]) -> None:
    draws, rng = 400_000, np.random.default_rng(1)
    steps = np.sqrt(np.diff([0, *fractions]))
    way = np.cumsum(rng.normal(size=(draws, len(fractions))) * steps, axis=1) / np.sqrt(fractions)
    crossed = np.maximum.accumulate(way >= norm.isf(spending.errors(0.05, fractions)), axis=1).mean(
        axis=0
    )
    for found, fraction in zip(crossed, fractions, strict=True):
        wanted = spending.spent(0.05, fraction)
        assert found == pytest.approx(wanted, abs=4 * math.sqrt(wanted / draws) + 1e-6)


@pytest.mark.parametrize("favour", [0.0, 1.0])
@pytest.mark.parametrize("distance", [-0.01, 0.002, 0.01])
def test_conditional_power(distance: float, favour: float) -> None:
    """Against drawing the rest of the way: the mean of the remaining items is as the estimate,
    moved in the artifact's favour."""
    error, fraction, last, rng = 0.006, 0.4, 0.045, np.random.default_rng(2)
    whole = error * math.sqrt(fraction)  # standard error at the last look
    rest = distance + favour * error + rng.normal(0, whole / math.sqrt(1 - fraction), 400_000)
    final = fraction * distance + (1 - fraction) * rest
    expected = (final / whole >= norm.isf(last)).mean()
    assert spending.conditional_power(distance, error, fraction, last, favour) == pytest.approx(
        expected, abs=0.003
    )


def test_nothing_is_futile_while_no_item_changed() -> None:
    assert spending.conditional_power(0.01, 0.0, 0.2, 0.04) == 1
    assert spending.conditional_power(0.01, math.inf, 0.2, 0.04) == 1
