"""Runs of one concurrency -> one Level: medians with the range that was seen; failures counted, never dropped."""

from __future__ import annotations

import math
from statistics import median

from pipeline.benchmark.loop import Run
from pipeline.records import Level, Spread


def level(concurrency: int, runs: list[Run]) -> Level:
    """TTFT and TPOT over all requests, throughput over runs. A failed request's tokens do not count as output."""
    timings = [timing for run in runs for timing in run.timings]
    good = [timing for timing in timings if not timing.failed]
    rates = [sum(len(t.token_times_s) for t in run.timings if not t.failed) / run.wall_s for run in runs]
    return Level(
        concurrency=concurrency,
        requests=len(timings),
        failed=len(timings) - len(good),
        ttft_ms=spread([1000 * timing.ttft_s for timing in good]),
        tpot_ms=spread([1000 * timing.tpot_s for timing in good]),
        output_tokens_per_s=spread(rates),
    )


def spread(values: list[float]) -> Spread:
    if not values:
        return Spread(median=math.nan, minimum=math.nan, maximum=math.nan, n=0)
    return Spread(median=median(values), minimum=min(values), maximum=max(values), n=len(values))
