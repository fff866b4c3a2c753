"""The gate on per-window differences of real models, drawn again with replacement: does it hold its
error, keep its power?

tests/real_windows.json has nats per token against the float32 model on WikiText-2. SmolLM2-135M,
weights rounded to nearest in groups of 64 (4 bits, 3 bits) or noise in 1 % of its embeddings: 128
blocks of 127 tokens. Runs of the recipes in tests/real, as served: Qwen2.5-Coder-0.5B by
llm-compressor at 4 bits, 32 windows of 512 tokens; SmolLM2-135M as bfloat16 on OpenVINO and by GPTQ
at 4 bits, 64 windows. `top1`: how many of a window's compared positions have another most likely
token. `bfloat16`: the unquantized models on their engines, 64 windows of SmolLM2, 32 of Qwen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import skew

from pipeline import recipe
from pipeline.gate import limits
from tests.conftest import ROOT
from tests.test_simulation import CONFIDENCE, allowed
from tests.test_simulation_texts import DRAWS, students, upper_bounds

REAL = json.loads(Path(__file__).with_name("real_windows.json").read_text())
DIFFERENCES = {
    f"{of} {kind}": np.array(values)
    for of, kinds in REAL["differences"].items()
    for kind, values in kinds.items()
}
READY = [path.stem for path in sorted((ROOT / "recipes").glob("*.yaml"))]

pytestmark = pytest.mark.usefixtures("root")


def again(values: np.ndarray, windows: int) -> np.ndarray:
    return np.random.default_rng(windows).choice(values, (DRAWS, windows))


@pytest.mark.parametrize("windows", [64, 150])
@pytest.mark.parametrize("of", DIFFERENCES)
def test_real_windows_at_the_limit(of: str, windows: int) -> None:
    """The limit is their mean. Student's bound passed up to 12 % at 64 windows and 9 % at 150.

    One window of 64 carries the KL of bfloat16: what 64 windows miss, which is why they are no
    default PASS."""
    values = DIFFERENCES[of]
    most = 0.055 if windows > 64 or skew(values) < 3 else 0.065
    assert np.mean(upper_bounds(again(values, windows)) <= values.mean()) <= allowed(DRAWS, most)


@pytest.mark.parametrize("of", [of for of, values in DIFFERENCES.items() if skew(values) < 1.5])
def test_real_windows_keep_four_fifths_of_students_power(of: str) -> None:
    """Where Student's bound passes 80 %, but for the simulation's error. The two sets that one or
    two windows carry pay more."""
    for windows in (64, 150):
        found = again(DIFFERENCES[of], windows)
        assert np.mean(
            upper_bounds(found) <= np.quantile(students(found), 0.8)
        ) >= 0.64 - 3 * math.sqrt(0.64 * 0.36 / DRAWS), windows


@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("of", REAL["top1"])
def test_bfloat16_surely_agrees_as_far_as_ready_recipes_ask(of: str, name: str) -> None:
    """The unquantized model on its engine, with as many windows and positions of each as the recipe
    compares."""
    loaded, measured = recipe.load(name), REAL["top1"][of]
    variant = next(variant for variant in loaded.variants.values() if variant.quantizer is None)
    asked, plan = limits.of(loaded, variant), loaded.evaluate.divergence
    windows = loaded.evaluate.perplexity.max_windows or plan.windows
    places = len(plan.places(windows, loaded.evaluate.perplexity.window - 1, 1))
    others = again(np.array(measured["other_top"]), windows)
    positions = np.random.default_rng(1).binomial(places, others / measured["positions"])
    assert np.mean(upper_bounds(positions / places) <= 1 - asked.top1_agreement) >= 0.99
    assert asked.confidence == CONFIDENCE


@pytest.mark.parametrize("name", [name for name in READY if name != "tiny"])  # it has its own
@pytest.mark.parametrize("of", REAL["bfloat16"])
def test_bfloat16_surely_keeps_the_limits_of_ready_recipes(of: str, name: str) -> None:
    loaded, measured = recipe.load(name), REAL["bfloat16"][of]
    variant = next(variant for variant in loaded.variants.values() if variant.quantizer is None)
    asked, plan = limits.of(loaded, variant), loaded.evaluate.divergence
    windows = loaded.evaluate.perplexity.max_windows or plan.windows
    for kind, most in (("kl", asked.mean_kl), ("nll", math.log(asked.perplexity_ratio))):
        found = upper_bounds(again(np.array(measured[kind]), windows))
        assert np.mean(found <= most) >= 0.99, kind
