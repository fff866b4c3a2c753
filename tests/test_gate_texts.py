"""Checks on the evaluation texts: every number against an independent computation, the outcomes,
and the noise floor."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline import gate
from pipeline.gate.texts import METHODS
from pipeline.records import Check, Evaluation
from tests import evaluations as make
from tests.test_gate_statistics import linearized

N = len(make.COMPARED)
TASKS = [make.draws(np.ones(300))]
ITEMS = {"t": (300, 300)}
NLL = np.random.default_rng(0).normal(64, 6, make.WINDOWS)
THEIRS = make.reference(NLL, TASKS)

pytestmark = pytest.mark.usefixtures("quick_gate")


def found(ours: Evaluation, floor: Evaluation | None = None, **change: object) -> dict[str, Check]:
    return make.checks(THEIRS, ours, floor, items=ITEMS, **change)


@pytest.mark.parametrize("view", ["deployed", "weights"])
def test_perplexity_ratio_and_its_paired_interval(view: str) -> None:
    other = NLL + np.random.default_rng(4).normal(1, 0.5, make.WINDOWS)
    check = found(make.candidate(other, TASKS))[f"perplexity_ratio {view} x"]
    scored = list(range(make.WINDOWS)) if view == "deployed" else make.COMPARED
    tokens = make.TOKENS * len(scored)
    per_token = (other - NLL)[scored] / make.TOKENS
    _, low, high = linearized(per_token, np.ones(len(scored)), 0.95)
    assert check.value == pytest.approx(
        math.exp(other[scored].sum() / tokens) / math.exp(NLL[scored].sum() / tokens)
    )
    assert (check.low, check.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert (check.n, check.limit) == (len(scored), 1.05)


def test_mean_kl_agreement_and_percentile() -> None:
    rng = np.random.default_rng(5)
    kl = rng.exponential(rng.uniform(0.005, 0.02, (N, 1)), make.SHAPE)
    same = rng.integers(26, make.TOKENS + 1, N)
    checks = found(make.candidate(NLL, TASKS, kl, same))
    mean, agreement, tail = (
        checks[f"{kind} deployed x"] for kind in ("mean_kl", "top1_agreement", "p99_kl")
    )
    assert (mean.value, mean.low, mean.high) == pytest.approx(
        linearized(kl.mean(1), np.ones(N), 0.95)
    )
    shares = same / make.TOKENS
    assert (agreement.value, agreement.low, agreement.high) == pytest.approx(
        linearized(shares, np.ones(N), 0.95)
    )
    assert tail.value == pytest.approx(np.quantile(kl, 0.99))
    assert tail.low < tail.value < tail.high
    assert {
        name: check.value for name, check in checks.items() if "weights" in name
    } == pytest.approx(
        {
            name.replace("deployed", "weights"): check.value
            for name, check in checks.items()
            if "deployed" in name
        }
    )


SPREAD = np.random.default_rng(7).exponential(1, make.SHAPE)  # its 99th percentile is about 4.6
OUTCOMES = [
    ("perplexity_ratio", {"shift": 1.0}, "PASS"),
    ("perplexity_ratio", {"shift": math.log(1.05) * make.TOKENS}, "INCONCLUSIVE"),
    ("perplexity_ratio", {"shift": 3.0}, "FAIL"),
    ("mean_kl", {"kl": 0.01}, "PASS"),
    ("mean_kl", {"kl": 0.0195}, "INCONCLUSIVE"),
    ("mean_kl", {"kl": 0.03}, "FAIL"),
    ("p99_kl", {"kl": 0.02}, "PASS"),
    ("p99_kl", {"kl": 0.04}, "INCONCLUSIVE"),
    ("p99_kl", {"kl": 0.1}, "FAIL"),
    ("top1_agreement", {"misses": 1}, "PASS"),
    ("top1_agreement", {"misses": 3}, "INCONCLUSIVE"),
    ("top1_agreement", {"misses": 9}, "FAIL"),
]


@pytest.mark.parametrize(
    ("kind", "change", "status"),
    OUTCOMES,
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_three_outcomes(kind: str, change: dict[str, float], status: str) -> None:
    noise = np.resize([-0.4, 0.4], make.WINDOWS) * np.resize([1, 1, 0.5, 0.5], make.WINDOWS)
    same = make.TOKENS - change.get("misses", 0) - np.resize([0, 0, 0, 1], N)
    kl = change.get("kl", 0.001) * SPREAD
    ours = make.candidate(NLL + change.get("shift", 0) + noise, TASKS, kl, same)
    check = found(ours)[f"{kind} deployed x"]
    assert check.status == status, check.reason
    assert ("windows would decide it" in check.reason) == (status == "INCONCLUSIVE")


def test_inconclusive_says_how_many_windows() -> None:
    """The reach of the interval shrinks with the root of the number of windows."""
    kl = 0.019 * SPREAD / SPREAD.mean()
    check = found(make.candidate(NLL, TASKS, kl))["mean_kl deployed x"]
    reach = linearized(kl.mean(1), np.ones(N), 0.95)[2] - kl.mean()
    assert check.status == "INCONCLUSIVE"
    assert (
        f"About {math.ceil(N * (reach / 0.001) ** 2)} windows would decide it; {N} were scored"
        in check.reason
    )


def test_windows_too_few_to_show_rare_damage_are_no_pass() -> None:
    """16 windows miss what sits in 17 % of them in one of twenty cases: 1 - 0.05 ** (1 / 16)."""
    ours = make.candidate(NLL, TASKS)
    assert {check.status for check in found(ours, rare=0.18).values()} == {"PASS"}
    checks = found(ours, rare=0.02)
    assert {checks[f"{kind} weights x"].status for kind in METHODS} == {"INCONCLUSIVE"}
    reason = checks["mean_kl weights x"].reason
    assert (
        "16 windows can miss damage that sits in 17.1% of them, gate.rare asks for 2.0%: 149"
        " windows would show it" in reason
    )
    bad = found(make.candidate(NLL + 10, TASKS, kl=1.0), rare=0.02)
    assert bad["perplexity_ratio weights x"].status == bad["mean_kl weights x"].status == "FAIL"


def test_tails_of_the_true_tokens_probability() -> None:
    kl = np.random.default_rng(6).exponential(0.01, make.SHAPE)
    verdict = gate.decide(THEIRS, make.candidate(NLL, TASKS, kl), None, make.limits(items=ITEMS))
    assert [(tails.view, tails.text) for tails in verdict.tails] == [
        ("deployed", "x"),
        ("weights", "x"),
    ]
    assert verdict.tails[0].quantiles["0.01"] == pytest.approx(np.quantile(-kl / 2, 0.01))
    assert verdict.tails[0].quantiles["0.5"] == pytest.approx(np.median(-kl / 2))


def with_floor(ours: Evaluation, floor: Evaluation | None) -> dict[str, Check]:
    return found(ours, floor, quantized=True)


def test_a_low_noise_floor_changes_nothing() -> None:
    ours, floor = (
        make.candidate(NLL + 0.5, TASKS, 0.005),
        make.candidate(NLL, TASKS, 0.0001, variant="bf16"),
    )
    assert with_floor(ours, floor) == found(ours)


def test_a_floor_that_is_missing_fails() -> None:
    ours, floor = make.candidate(NLL, TASKS), make.candidate(NLL, TASKS, variant="bf16")
    assert {check.status for check in with_floor(ours, floor).values()} == {"PASS"}
    nan = NLL.copy()
    nan[0] = math.nan
    for name, broken in {
        "none": None,
        "failed": floor.model_copy(update={"failure": "did not start"}),
        "no view": floor.model_copy(update={"views": {}}),
        "no distributions": make.with_view(floor, "deployed", divergence=[]),
        "NaN": make.candidate(nan, TASKS),
        "fewer windows": make.candidate(NLL[:-1], TASKS),
        "another reference": floor.model_copy(update={"logprobs_sha256": "another"}),
    }.items():
        checks = with_floor(ours, broken)
        assert "FAIL" in {check.status for check in checks.values()}, name
    assert "against the same reference" in with_floor(ours, broken)["deployed x"].reason


def test_an_unquantized_model_needs_no_floor() -> None:
    assert {check.status for check in found(make.candidate(NLL, TASKS)).values()} == {"PASS"}


@pytest.mark.parametrize(
    ("kind", "floor", "remedy"),
    [
        (
            "perplexity_ratio",
            {"shift": math.log(1.05) * make.TOKENS / 2.9},
            f"Set the limit to {1.05 ** (3 / 2.9):.6g} or more",
        ),
        ("mean_kl", {"kl": 0.007}, "Set the limit to 0.021 or more"),
        ("p99_kl", {"kl": 0.07}, "Set the limit to 0.21 or more"),
        ("top1_agreement", {"misses": 2}, "Set the limit to 0.8125 or less"),
    ],
)
def test_a_limit_closer_than_three_floors_is_not_decidable(
    kind: str, floor: dict[str, float], remedy: str
) -> None:
    def made(shift: float = 0, kl: float = 0.001, misses: int = 0) -> Evaluation:
        return make.candidate(NLL + shift, TASKS, kl, np.full(N, make.TOKENS - misses))

    noise = made(**floor)
    check = with_floor(made(), noise)[f"{kind} deployed x"]
    assert check.status == "INCONCLUSIVE"
    assert "closer than 3 times that noise" in check.reason
    assert remedy in check.reason
    # An engine that scores better than the reference is as noisy as one that scores worse.
    if kind == "perplexity_ratio":
        assert (
            with_floor(made(), made(-floor["shift"]))[f"{kind} deployed x"].status == "INCONCLUSIVE"
        )
    # Beyond the limit but within the noise: still not decidable. Beyond both: FAIL.
    steps = {
        "perplexity_ratio": "shift",
        "mean_kl": "kl",
        "p99_kl": "kl",
        "top1_agreement": "misses",
    }
    size = {
        "perplexity_ratio": math.log(1.05) * make.TOKENS,
        "mean_kl": 0.02,
        "p99_kl": 0.2,
        "top1_agreement": 3.2,
    }[kind]
    for factor, status in ((1.5, "INCONCLUSIVE"), (3, "FAIL")):
        value = round(factor * size) if kind == "top1_agreement" else factor * size
        noisy = with_floor(made(**{steps[kind]: value}), noise)[f"{kind} deployed x"]
        assert noisy.status == status, (factor, noisy.reason)
