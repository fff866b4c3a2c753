"""The load loop on an engine with known delays: what comes out must be what was put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.benchmark.loop import Run, Timing, closed_loop
from pipeline.benchmark.statistics import level
from pipeline.benchmark.trace import Request, build
from pipeline.engines.fake import FakeEngine
from pipeline.errors import EvaluationError
from pipeline.recipe import Benchmark, Serve

STEP_S = 0.01
SERVE = Serve(max_model_len=64)
TRACE = [Request([2, 3, 4], 5) for _ in range(8)]


class Clock:
    """Time that passes only when somebody sleeps, so that a busy machine changes no figure."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def run(concurrency: int, trace: list[Request] = TRACE, max_num_seqs: int = 64, fail: frozenset[int] = frozenset()) -> Run:
    clock = Clock()
    serve = SERVE.model_copy(update={"max_num_seqs": max_num_seqs})
    with FakeEngine(Path(), serve, step_s=STEP_S, fail=fail, sleep=clock.sleep) as fake:
        return closed_loop(fake, trace, concurrency, clock)


@pytest.mark.parametrize("concurrency", [1, 4, 8])
def test_known_delays_come_out(concurrency: int) -> None:
    found = level(concurrency, [run(concurrency) for _ in range(3)])
    assert (found.requests, found.failed) == (24, 0)
    assert found.ttft_ms.median == pytest.approx(1000 * STEP_S)
    assert found.tpot_ms.median == pytest.approx(1000 * STEP_S)
    assert found.output_tokens_per_s.median == pytest.approx(concurrency / STEP_S)


def test_queueing_shows_in_ttft() -> None:
    timings = run(4, TRACE[:4], max_num_seqs=2).timings
    assert [round(t.ttft_s / STEP_S) for t in timings] == [1, 1, 6, 6]


def test_failures_are_counted_not_dropped() -> None:
    found = level(4, [run(4, fail=frozenset({1, 5}))])
    assert (found.requests, found.failed) == (8, 2)
    rate = found.output_tokens_per_s.median
    # Six good requests of five tokens; the two failed ones end at their first step, and others take their places.
    assert rate == pytest.approx(6 * 5 / (10 * STEP_S))


def test_a_wrong_number_of_tokens_is_a_failure() -> None:
    timing = Timing(sent_s=0.0, wanted=5, token_times_s=[0.1, 0.2])
    assert timing.failed
    assert level(1, [Run([timing], 1.0)]).failed == 1


def test_trace_is_seeded_and_distinct() -> None:
    plan = Benchmark(concurrency=[1], prompt_tokens=8, output_tokens=4, requests=16)
    rows = [list(range(i, i + 50)) for i in range(0, 200, 50)]
    trace = build(rows, plan)
    assert trace == build(rows, plan)
    assert len({tuple(request.prompt) for request in trace}) == 16
    assert {len(request.prompt) for request in trace} == {8}
    with pytest.raises(EvaluationError, match="need more than the 10 calibration ids"):
        build([list(range(10))], plan)
