"""The load loops on an engine with known delays: what comes out must be what was put in, computed
by hand."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path

import pytest
from scipy import stats

from pipeline.benchmark import loop, performance, speed_statistics
from pipeline.benchmark.trace import build
from pipeline.engines.fake import FakeEngine
from pipeline.errors import EvaluationError
from pipeline.recipe import Benchmark, Price, Serve, Slo, load
from pipeline.records import Level, Replay, RequestTiming, TracedRequest
from tests import timed as make

STEP_S = 0.01
SERVE = Serve(max_model_len=64)
TRACE = [
    TracedRequest(arrival=float(number + 1), prompt=[2, 3, 4], output_tokens=5)
    for number in range(8)
]
NOTHING: frozenset[int] = frozenset()


class Clock(loop.Clock):
    """Time that passes only when somebody sleeps, so that a busy machine changes no figure."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def engine(
    clock: Clock, max_num_seqs: int, fail: frozenset[int], stall_s: dict[int, float]
) -> FakeEngine:
    serve = SERVE.model_copy(update={"max_num_seqs": max_num_seqs})
    return FakeEngine(Path(), serve, step_s=STEP_S, fail=fail, stall_s=stall_s, sleep=clock.sleep)


def closed(
    concurrency: int,
    trace: list[TracedRequest] = TRACE,
    max_num_seqs: int = 64,
    fail: frozenset[int] = NOTHING,
    stall_s: dict[int, float] | None = None,
) -> Replay:
    clock = Clock()
    with engine(clock, max_num_seqs, fail, stall_s or {}) as fake:
        done = loop.closed(fake, trace, concurrency, clock)
    return Replay(
        loop="closed",
        concurrency=concurrency,
        repeat=0,
        wall_s=done.wall_s,
        others_share=0.0,
        requests=done.requests,
    )


def opened(rate_per_s: float, trace: list[TracedRequest] = TRACE, max_num_seqs: int = 64) -> Replay:
    clock = Clock()
    with engine(clock, max_num_seqs, NOTHING, {}) as fake:
        done = loop.open_(fake, trace, rate_per_s, clock)
    return Replay(
        loop="open",
        fraction=0.5,
        rate_per_s=rate_per_s,
        repeat=0,
        wall_s=done.wall_s,
        others_share=0.0,
        requests=done.requests,
    )


def only(replays: list[Replay], slo: Slo | None = None) -> Level:
    (level,) = speed_statistics.levels(replays, slo)
    return level


@pytest.mark.parametrize("concurrency", [1, 4, 8])
def test_known_delays_come_out(concurrency: int) -> None:
    found = only([closed(concurrency) for _ in range(3)])
    assert (found.requests, found.failed) == (24, 0)
    assert found.ttft_ms and found.tpot_ms and found.itl_ms and found.e2e_ms
    assert found.ttft_ms.estimate.median == pytest.approx(1000 * STEP_S)
    assert found.tpot_ms.estimate.median == pytest.approx(1000 * STEP_S)
    assert found.itl_ms.estimate.median == pytest.approx(1000 * STEP_S)
    assert found.e2e_ms.estimate.median == pytest.approx(5 * 1000 * STEP_S)
    assert found.output_tokens_per_s.median == pytest.approx(concurrency / STEP_S)
    assert found.total_tokens_per_s.median == pytest.approx(concurrency / STEP_S * 8 / 5)
    assert found.requests_per_s.median == pytest.approx(concurrency / STEP_S / 5)


def test_queueing_shows_in_ttft() -> None:
    requests = closed(4, TRACE[:4], max_num_seqs=2).requests
    assert [round(request.ttft_s / STEP_S) for request in requests] == [1, 1, 6, 6]


def test_a_straggler_slows_those_beside_it_and_misses_its_slo() -> None:
    found = only([closed(4, TRACE[:4], stall_s={2: 0.1})], Slo(ttft_ms=50))
    assert found.ttft_ms
    assert found.ttft_ms.estimate.median == pytest.approx(110)
    assert found.goodput_per_s and found.goodput_per_s.median == 0
    apart = only([closed(1, TRACE[:4], stall_s={2: 0.1})], Slo(ttft_ms=50))
    assert apart.goodput_per_s and apart.goodput_per_s.median == pytest.approx(
        3 / (4 * 5 * STEP_S + 0.1)
    )


def test_failures_are_counted_not_dropped() -> None:
    found = only([closed(4, fail=frozenset({1, 5}))], Slo(e2e_ms=1000))
    assert (found.requests, found.failed, found.errors) == (8, 2, ["told to fail"])
    # Six good requests of five tokens; the two failed ones end at their first step, and others take
    # their places.
    assert found.output_tokens_per_s.median == pytest.approx(6 * 5 / (10 * STEP_S))
    assert found.goodput_per_s and found.goodput_per_s.median == pytest.approx(6 / (10 * STEP_S))


def test_a_load_at_which_everything_failed_has_no_latency() -> None:
    found = only([closed(4, fail=frozenset(range(8)))])
    assert (found.failed, found.ttft_ms, found.output_tokens_per_s.median) == (8, None, 0.0)
    with pytest.raises(EvaluationError, match="every request failed: told to fail"):
        speed_statistics.highest_rate([closed(4, fail=frozenset(range(8)))])


def test_a_wrong_number_of_tokens_is_a_failure() -> None:
    request = RequestTiming(due_s=0.0, arrivals_s=[0.1, 0.2], prompt_tokens=3, wanted=5, tokens=2)
    assert request.failed
    replay = Replay(
        loop="closed", concurrency=1, repeat=0, wall_s=1.0, others_share=0.0, requests=[request]
    )
    assert only([replay]).errors == ["2 tokens came, 5 were asked for"]


def test_the_open_loop_counts_from_the_arrival() -> None:
    # One arrival every 25 ms, 50 ms of work each, one at a time: request k waits 25 ms longer than
    # the one before it.
    requests = opened(40.0, max_num_seqs=1).requests
    assert [request.due_s for request in requests] == pytest.approx(
        [0.025 * (k + 1) for k in range(8)]
    )
    waits = [request.ttft_s for request in requests]
    assert waits == pytest.approx([STEP_S + 0.025 * k for k in range(8)], abs=STEP_S)
    assert waits[7] > 0.16


def test_an_idle_open_loop_waits_for_arrivals() -> None:
    found = only([opened(10.0)])
    assert found.ttft_ms and found.ttft_ms.estimate.median == pytest.approx(1000 * STEP_S)
    assert found.output_tokens_per_s.median == pytest.approx(8 * 5 / (0.7 + 5 * STEP_S))


def test_an_arrival_during_a_step_waits_for_its_end() -> None:
    trace = [TRACE[0], TRACE[1].model_copy(update={"arrival": 1.05})]
    first, second = opened(10.0, trace).requests
    assert first.ttft_s == pytest.approx(STEP_S)
    assert second.due_s == pytest.approx(0.105)
    assert second.arrivals_s[0] == pytest.approx(
        0.12
    )  # the step that runs until 0.11, then its own


def test_estimates_against_scipy() -> None:
    values = [10.0, 12.0, 11.0, 14.0, 10.5]
    found = speed_statistics.estimate(values)
    logs = [math.log(value) for value in values]
    low, high = map(
        math.exp, stats.t.interval(0.95, 4, loc=statistics.fmean(logs), scale=stats.sem(logs))
    )
    assert (found.median, found.low, found.high) == pytest.approx((11.0, low, high))
    assert found.cv == pytest.approx(stats.variation(values, ddof=1))
    skewed = speed_statistics.estimate([1.0, 1.0, 50.0])
    assert skewed.low is not None and 0 < skewed.low < 1
    with_nothing = speed_statistics.estimate([0.0, 10.0, 12.0])
    assert (with_nothing.median, with_nothing.low) == (10.0, 0.0)
    single = speed_statistics.estimate([3.0])
    assert (single.median, single.low, single.high, single.cv) == (3.0, None, None, None)


@pytest.mark.parametrize(
    ("n", "names"),
    [(4, []), (28, ["p50"]), (59, ["p50", "p90", "p95"]), (299, ["p50", "p90", "p95", "p99"])],
)
def test_only_supported_percentiles(n: int, names: list[str]) -> None:
    values = sorted(random.Random(n).random() for _ in range(n))
    found = speed_statistics.percentiles(values)
    assert list(found) == names
    for name, value in found.items():
        share = int(name[1:]) / 100
        assert sum(v <= value for v in values) >= share * n > sum(v < value for v in values)


def test_support_is_what_95_percent_confidence_takes() -> None:
    for name, n in speed_statistics.SUPPORT.items():
        share = int(name[1:]) / 100
        assert 1 - share**n >= 0.95 > 1 - share ** (n - 1)


def test_costs() -> None:
    profile = make.profile([make.level(1, [50.0] * 3), make.level(8, [200.0] * 3)])
    full, half = speed_statistics.costs(
        profile, Price(per_hour=3.6, currency="EUR", utilisations=[0.99, 0.5])
    )
    assert full.per_million_output_tokens == pytest.approx(3.6 / 3600 * 1e6 / 200 / 0.99)
    assert half.per_million_output_tokens == pytest.approx(10.0)
    assert half.per_million_tokens == pytest.approx(
        10.0 * 200 / profile.levels[1].total_tokens_per_s.median
    )
    assert speed_statistics.costs(profile, None) == []


def test_a_busy_machine_and_scatter_are_said() -> None:
    quiet, busy = make.level(1, [100.0, 101.0]), make.level(4, [100.0, 150.0], others_share=0.3)
    said = speed_statistics.notices({"deployed": make.profile([quiet, busy])})
    assert said == [
        "deployed, concurrency 4: other processes took 30% of the machine's processor time",
        (
            "deployed, concurrency 4: throughput scatters between repeats (coefficient of variation"
            " 28%)"
        ),
    ]


def test_trace_is_seeded_and_distinct() -> None:
    plan = Benchmark(concurrency=[1], prompt_tokens=8, output_tokens=4, requests=16)
    rows = [list(range(i, i + 50)) for i in range(0, 200, 50)]
    trace = build(rows, plan, "x")
    assert trace == build(rows, plan, "x")
    assert trace.sha256 != build(rows, plan.model_copy(update={"seed": 1}), "x").sha256
    assert len({tuple(request.prompt) for request in trace.requests}) == 16
    assert {(len(request.prompt), request.output_tokens) for request in trace.requests} == {(8, 4)}
    with pytest.raises(EvaluationError, match="need more than the 10 ids"):
        build([list(range(10))], plan, "x")


def test_arrivals_are_poisson() -> None:
    plan = Benchmark(concurrency=[1], prompt_tokens=8, output_tokens=4, requests=2000)
    arrivals = [request.arrival for request in build([list(range(4000))], plan, "x").requests]
    gaps = [b - a for a, b in zip([0.0, *arrivals], arrivals, strict=False)]
    assert stats.kstest(gaps, "expon").pvalue > 0.01
    assert arrivals == sorted(arrivals)


def test_natural_lengths_are_kept_and_cut() -> None:
    plan = Benchmark(
        concurrency=[1],
        prompt_tokens=8,
        output_tokens=4,
        requests=3,
        prompts="x",
        lengths="natural",
    )
    rows = [[1, 2], [1, 2], [3, 4, 5], list(range(20))]
    prompts = [request.prompt for request in build(rows, plan, "x").requests]
    assert sorted(prompts) == [list(range(8)), [1, 2], [3, 4, 5]]
    with pytest.raises(EvaluationError, match="has 2 different prompts"):
        build(rows[:3], plan, "x")


def test_performance_is_decided_by_the_lower_bound() -> None:
    recipe = load("tiny")
    gate = recipe.gate.model_copy(update={"speedup": {"int8": 1.2}})
    recipe = recipe.model_copy(update={"gate": gate})
    int8 = recipe.variants["ov-int8"]
    base = make.benchmark("ov-bf16", [make.level(1, [100.0, 102.0, 98.0])])

    def decide(rates: list[float], **changes: object) -> performance.Performance:
        own = make.benchmark("ov-int8", [make.level(1, rates)]).model_copy(update=changes)
        return performance.performance(recipe, int8, own, base)

    faster = decide([150.0, 150.0, 150.0])
    logs = [math.log(150 / rate) for rate in (100, 102, 98)]
    half = stats.t.ppf(0.95, 2) * stats.sem(logs)
    assert faster.status == "FASTER"
    assert faster.low == pytest.approx(math.exp(statistics.fmean(logs) - half))
    assert decide([110.0, 112.0, 108.0]).status == "NOT FASTER"
    assert decide([110.0, 112.0, 108.0]).reason.startswith(
        "accurate but not faster: 1.10 times ov-bf16's"
    )
    unclear = decide([180.0, 90.0, 150.0])
    assert (unclear.status, unclear.reason[:37]) == (
        "NOT FASTER",
        "accurate but not shown to be faster: ",
    )
    assert decide([150.0] * 3, device="cuda").status == "OFF TARGET"
    assert decide([150.0] * 3, trace_sha256="another").status == "FAILED"
    assert decide([150.0] * 3, machine={"cpu": "another"}).status == "FAILED"
    assert decide([150.0] * 3, measured=False, reason="the gate says FAIL").status == "NOT MEASURED"
    failed = make.benchmark("ov-int8", [make.level(1, [150.0] * 3, failed=1)])
    assert performance.performance(recipe, int8, failed, base).status == "FAILED"
    assert (
        performance.performance(recipe, recipe.variants["ov-bf16"], base, None).status == "BASELINE"
    )
    asked_for_nothing = recipe.model_copy(
        update={"gate": recipe.gate.model_copy(update={"speedup": {}})}
    )
    assert performance.performance(asked_for_nothing, int8, base, base).status == "NOT ASKED"


def test_a_gpu_artifact_does_not_fail_on_a_laptop() -> None:
    recipe = load("tiny")
    recipe = recipe.model_copy(
        update={"gate": recipe.gate.model_copy(update={"speedup": {"int4": 2.0}})}
    )
    gptq = recipe.variants["gptq-int4"].model_copy(update={"target": "cuda"})
    slow = make.benchmark("gptq-int4", [make.level(1, [10.0, 10.0])])
    found = performance.performance(
        recipe, gptq, slow, make.benchmark("vllm-bf16", [make.level(1, [100.0, 100.0])])
    )
    assert found.status == "OFF TARGET"
    assert found.status not in performance.REJECTED
    assert "not measured on its target" in found.reason


def test_raw_timings_survive_json() -> None:
    replay = closed(4)
    assert Replay.model_validate(json.loads(json.dumps(replay.model_dump()))) == replay
