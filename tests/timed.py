"""Benchmark records that tests make."""

from __future__ import annotations

from typing import Any

from pipeline.benchmark.speed_statistics import estimate
from pipeline.records import Benchmark, Latency, Level, Profile, Replay, RequestTiming
from tests.timed_summaries import OPENVINO_SETTINGS

MACHINE: dict[str, Any] = {
    "cpu": "X",
    "cores": 2,
    "instruction_sets": ["avx2"],
    "load_average_1min": 0.1,
}


def latency(milliseconds: float, repeats: int) -> Latency:
    return Latency(
        estimate=estimate([milliseconds] * repeats),
        percentiles={"p50": milliseconds},
        n=8 * repeats,
    )


def level(
    concurrency: int, rates: list[float], others_share: float = 0.0, failed: int = 0
) -> Level:
    """A closed-loop level with these output tokens/s, one a repeat; latencies follow from the
    first."""
    n, step_ms = len(rates), 1000 * concurrency / rates[0]
    return Level(
        loop="closed",
        concurrency=concurrency,
        fraction=None,
        rate_per_s=None,
        requests=8 * n,
        failed=failed,
        errors=[],
        ttft_ms=latency(2 * step_ms, n),
        tpot_ms=latency(step_ms, n),
        itl_ms=latency(step_ms, n),
        e2e_ms=latency(9 * step_ms, n),
        output_tokens_per_s=estimate(rates),
        total_tokens_per_s=estimate(3 * rate for rate in rates),
        requests_per_s=estimate(rate / 8 for rate in rates),
        goodput_per_s=None,
        others_share=others_share,
    )


def replays(rates: list[float], requests: int = 8) -> list[Replay]:
    """A closed load of one request at a time, with exactly these output tokens/s, one a repeat; as
    many tokens a request."""
    found = []
    for repeat, rate in enumerate(rates):
        tokens = round(rate)
        timings = [
            RequestTiming(
                due_s=n,
                arrivals_s=[n + (i + 1) / tokens for i in range(tokens)],
                prompt_tokens=2,
                wanted=tokens,
                tokens=tokens,
            )
            for n in range(requests)
        ]
        found.append(
            Replay(
                loop="closed",
                concurrency=1,
                repeat=repeat,
                wall_s=requests,
                others_share=0.0,
                requests=timings,
            )
        )
    return found


def profile(levels: list[Level], settings: dict[str, Any] | None = None) -> Profile:
    return Profile(
        settings=settings or OPENVINO_SETTINGS,
        load_s=estimate([1.0]),
        peak_memory_bytes=10**9,
        levels=levels,
    )


def benchmark(name: str, levels: list[Level], **changes: Any) -> Benchmark:
    made = Benchmark(
        recipe="tiny",
        variant=name,
        engine="openvino",
        over="in process",
        measured=True,
        reason="the gate says PASS",
        artifact_sha256="s",
        device="cpu",
        size_bytes=1000,
        versions={},
        machine=MACHINE,
        trace_sha256="t",
        profiles={"deployed": profile(levels)},
    )
    return made.model_copy(update=changes)
