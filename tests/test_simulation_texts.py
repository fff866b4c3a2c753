"""The error rates of the checks on texts, by simulation over shapes of what windows differ by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import skew, t

from pipeline import gate, recipe
from pipeline.gate import statistics
from pipeline.gate.limits import status, unseen
from pipeline.recipe import Gate
from tests import evaluations as make
from tests.conftest import ROOT
from tests.test_simulation import CONFIDENCE, allowed

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
DRAWS = 4000
RARE = Gate.model_fields["rare"].default

pytestmark = pytest.mark.usefixtures("quick_gate", "root")


class Shape(NamedTuple):
    """Differences between windows, with their true mean; how often what lies at the limit may pass
    with 16 windows."""

    draw: Draw
    mean: float
    most: float = 0.05


SHAPES = {
    "normal": Shape(lambda rng, size: rng.normal(size=size), 0),
    "Student, 3 degrees": Shape(lambda rng, size: rng.standard_t(3, size), 0),
    "gamma 4": Shape(lambda rng, size: rng.gamma(4, size=size), 4),
    "gamma 2": Shape(lambda rng, size: rng.gamma(2, size=size), 2),
    "exponential": Shape(lambda rng, size: rng.exponential(size=size), 1),
    "gamma 0.3": Shape(lambda rng, size: rng.gamma(0.3, size=size), 0.3),
    "Pareto 3": Shape(lambda rng, size: rng.pareto(3, size), 0.5, 0.055),
    "lognormal 0.25": Shape(lambda rng, size: rng.lognormal(0, 0.25, size), math.exp(0.03125)),
    "lognormal 0.5": Shape(lambda rng, size: rng.lognormal(0, 0.5, size), math.exp(0.125)),
    "lognormal 1": Shape(lambda rng, size: rng.lognormal(0, 1, size), math.exp(0.5), 0.055),
    "lognormal 1.5": Shape(lambda rng, size: rng.lognormal(0, 1.5, size), math.exp(1.125), 0.07),
}


def damaged(share: float, spread: float = 0.0) -> Shape:
    """Damage in a share of the windows, all of the same size or lognormal; all windows have noise
    besides."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        sizes = 20 * rng.lognormal(-(spread**2) / 2, spread, size)
        return rng.normal(0, 0.5, size) + sizes * (rng.random(size) < share)

    return Shape(draw, 20 * share)


def upper_bounds(values: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """As statistics.ratio gives them, of each row: quick enough for thousands of rows, and held
    against it below."""
    n, mean = values.shape[1], values.mean(1)
    reach, errors = t.ppf(confidence, n - 1), values.std(1, ddof=1) / math.sqrt(n)
    further = [statistics.tail(found, n, reach) for found in skew(values, axis=1, bias=False)]
    return mean + (reach + np.array(further)) * errors


def students(values: np.ndarray) -> np.ndarray:
    n = values.shape[1]
    return values.mean(1) + t.ppf(CONFIDENCE, n - 1) * values.std(1, ddof=1) / math.sqrt(n)


@pytest.mark.parametrize("windows", [16, 64, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_windows_of_any_shape_at_the_limit(shape: str, windows: int) -> None:
    """Student's bound passed 29 % at 16 windows and 21 % at 64 of the last shape. Only 16 windows
    exceed 5 %, by `most`; by default they are no PASS at all, as below."""
    rng, (draw, mean, most) = np.random.default_rng(windows), SHAPES[shape]
    values = draw(rng, (DRAWS, windows))
    bounds = upper_bounds(values)
    own = [statistics.ratio(row.tolist(), [1.0] * windows, CONFIDENCE).high for row in values[:10]]
    assert bounds[:10].tolist() == pytest.approx(own)
    assert np.mean(bounds <= mean) <= allowed(DRAWS, most if windows == 16 else 0.05)


@pytest.mark.thorough
@pytest.mark.parametrize("windows", [24, 32, 48, 100, 149, 500])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("shape", SHAPES)
def test_windows_of_any_shape_at_the_limit_in_full(
    shape: str, confidence: float, windows: int
) -> None:
    rng, draws, (draw, mean, _) = np.random.default_rng(windows), 20_000, SHAPES[shape]
    assert np.mean(upper_bounds(draw(rng, (draws, windows)), confidence) <= mean) <= allowed(
        draws, 1 - confidence + 0.003
    )


@pytest.mark.parametrize("windows", [16, 64, 149, 256, 500])
@pytest.mark.parametrize(
    "shape", [damaged(0.02), damaged(0.02, 0.25), damaged(0.05), SHAPES["lognormal 1.5"]]
)
def test_no_default_pass_misses_damage_more_often_than_allowed(shape: Shape, windows: int) -> None:
    """Damage in 2 % of the windows, at the limit. 64 windows miss it all in 27 % of the cases:
    fewer than 149 are no PASS."""
    rng = np.random.default_rng(windows)
    within = upper_bounds(shape.draw(rng, (DRAWS, windows))) <= shape.mean
    assert np.mean(within & (unseen(windows, CONFIDENCE) <= RARE)) <= allowed(DRAWS)
    assert (unseen(windows, CONFIDENCE) <= RARE) == (windows >= 149)


@pytest.mark.parametrize("windows", [64, 160])
def test_rows_are_decided_as_the_gate_decides(windows: int) -> None:
    """What this file takes from bounds of rows is what the gate says of evaluations, rare damage
    included."""
    rng, plan, tasks = (
        np.random.default_rng(windows),
        make.Plan(positions=16 * windows, windows=windows),
        [make.draws(np.ones(400))],
    )
    places = plan.places(windows, make.TOKENS, 1)
    said = set()
    for _ in range(6):
        kl = np.repeat(rng.gamma(2, 0.005, (windows, 1)), len(places), axis=1)
        nll, more = rng.normal(64, 6, windows), make.TOKENS * rng.gamma(2, 0.0215, windows)
        theirs, ours = make.reference(nll, tasks), make.candidate(nll + more, tasks, kl, plan=plan)
        checks = make.checks(
            theirs, ours, divergence=plan, rare=RARE, items={"t": (400, 400)}, mean_kl=0.0115
        )
        for kind, values, limit in (
            ("mean_kl", kl[:, :1], 0.0115),
            ("perplexity_ratio", more[:, None] / make.TOKENS, math.log(1.05)),
        ):
            low, high = -upper_bounds(-values.T)[0], upper_bounds(values.T)[0]
            expected = status(low, high, limit)
            if expected == "PASS" and unseen(windows, CONFIDENCE) > RARE:
                expected = "INCONCLUSIVE"
            assert checks[f"{kind} deployed x"].status == expected
            said.add(expected)
    assert "INCONCLUSIVE" in said and ("PASS" in said) == (windows == 160)


MILD = [
    ("normal", 16),
    *((shape, n) for shape in ("normal", "lognormal 0.25", "gamma 4") for n in (64, 256)),
    *((shape, n) for shape in ("gamma 2", "exponential") for n in (149, 256)),
]


@pytest.mark.parametrize(("shape", "windows"), MILD)
def test_four_fifths_of_students_power_are_kept_where_tails_are_short(
    shape: str, windows: int
) -> None:
    """Where Student's bound passes 80 %. Real windows' KL is as skewed as gamma 4 to gamma 2
    (tests/test_simulation_real.py)."""
    values = SHAPES[shape].draw(np.random.default_rng(windows), (DRAWS, windows))
    limit = np.quantile(students(values), 0.8)
    assert np.mean(upper_bounds(values) <= limit) >= 0.64


SEQUENTIAL = make.limits(sequential=True)


@pytest.mark.parametrize("windows", [64, 150])
@pytest.mark.parametrize(
    ("shape", "sign"),
    [("normal", 1), ("gamma 4", 1), ("gamma 4", -1), ("exponential", -1), ("lognormal 1", -1)],
)
def test_looks_at_growing_parts_fail_what_is_at_the_limit_in_one_of_twenty_at_most(
    shape: str, sign: int, windows: int
) -> None:
    """Any of five looks may FAIL, at its own share of the error; only all windows may PASS, as
    above. `sign` mirrors the shape."""
    draw, mean, _ = SHAPES[shape]
    values = sign * (draw(np.random.default_rng(windows), (DRAWS, windows)) - mean)
    failed = np.zeros(DRAWS, bool)
    for look, fraction in enumerate(SEQUENTIAL.fractions):
        failed |= (
            -upper_bounds(-values[:, : round(windows * fraction)], SEQUENTIAL.confidence_at(look))
            > 0
        )
    assert failed.mean() <= allowed(DRAWS)


def shares_below(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 99th percentile of each draw, [draws, windows, positions], as
    statistics.quantile gives them."""
    draws, windows, positions = values.shape
    ordered = np.sort(values.reshape(draws, -1), axis=1)

    def quantiles(level: np.ndarray) -> np.ndarray:
        place = np.clip(level, 0, 1) * (windows * positions - 1)
        before, rows = np.minimum(place.astype(int), windows * positions - 2), np.arange(draws)
        return ordered[rows, before] + (place - before) * (
            ordered[rows, before + 1] - ordered[rows, before]
        )

    below = (values <= quantiles(np.full(draws, 0.99))[:, None, None]).mean(2)
    error = np.maximum(
        below.std(1, ddof=1) / math.sqrt(windows), math.sqrt(0.99 * 0.01 / (windows * positions))
    )
    student = t.ppf(CONFIDENCE, windows - 1)
    further = (
        np.nan_to_num(np.abs(skew(below, axis=1, bias=False)))
        * (1 + 2 * student**2)
        / (6 * math.sqrt(windows))
    )
    reach = error * (student + further)
    return (
        np.where(reach < 0.99, quantiles(0.99 - reach), -np.inf),
        np.where(reach < 0.01, quantiles(0.99 + reach), np.inf),
    )


SCATTERS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "alike": lambda rng, size: np.ones(size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    **{
        f"lognormal {s}": (lambda rng, size, s=s: rng.lognormal(0, s, size))
        for s in (0.3, 0.5, 1.0, 1.5)
    },
    "2 % of the windows 20 times": lambda rng, size: 1 + 19 * (rng.random(size) < 0.02),
    "2 % of the windows 3 times": lambda rng, size: 1 + 2 * (rng.random(size) < 0.02),
}


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@pytest.mark.parametrize("windows", [16, 64, 256])
@pytest.mark.parametrize("scatter", SCATTERS)
def test_percentile_of_kl_where_windows_differ(scatter: str, windows: int) -> None:
    """Each window's KL has a factor of its own. Woodruff's bounds alone passed up to 10 % and
    failed up to 10 %.

    Damage in 2 % of the windows is what this percentile sits in: there, too, fewer than 149 windows
    are no default PASS."""
    rng, draws, part, factor = np.random.default_rng(windows), DRAWS, 500, SCATTERS[scatter]
    limit = np.quantile(rng.exponential(size=2 * 10**6) * factor(rng, (2 * 10**6,)), 0.99)
    passed = failed = 0
    for _ in range(draws // part):
        values = rng.exponential(size=(part, windows, 4096 // windows)) * factor(
            rng, (part, windows, 1)
        )
        low, high = shares_below(values)
        passed, failed = passed + np.sum(high <= limit), failed + np.sum(low > limit)
    for row, bounds in zip(values[:5], zip(low, high, strict=True), strict=False):
        assert statistics.quantile(list(row), 0.99, CONFIDENCE)[1:3] == pytest.approx(bounds)
    blind = "2 %" in scatter and unseen(windows, CONFIDENCE) > RARE
    assert passed / draws <= (1 if blind else allowed(draws))
    assert failed / draws <= (
        0.11 if "2 %" in scatter else allowed(draws, 0.075 if windows == 16 else 0.05)
    )


@pytest.mark.parametrize(
    ("windows", "positions"), [(16, 32), (64, 255)], ids=["the fewest windows", "many positions"]
)
def test_percentile_of_kl_at_its_limit(windows: int, positions: int) -> None:
    """Windows that are all alike; the limit is the true 99th percentile."""
    low, high = shares_below(np.random.default_rng(8).exponential(1, (1000, windows, positions)))
    assert np.mean(high <= math.log(100)) <= allowed(1000)
    assert np.mean(low > math.log(100)) <= allowed(1000)


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "recipes").glob("*.yaml"))])
def test_ready_recipes_compare_as_many_windows_as_rare_damage_takes(name: str) -> None:
    loaded = recipe.load(name)
    asked, compared = loaded.gate.rare, loaded.evaluate.divergence.windows
    assert asked is not None and RARE <= asked <= 0.022
    assert min(
        compared, loaded.evaluate.perplexity.max_windows or compared
    ) >= gate.limits.windows_for(asked, loaded.gate.confidence)
