"""What the benchmark of an artifact promises: how long an answer takes at a load."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.benchmark.speed_statistics import closed_levels
from pipeline.records import Benchmark, Latency

PERCENTILES = ("p95", "p90", "p50")  # the highest that the benchmark's requests support


@dataclass(frozen=True)
class Point:
    """Measured with this many requests in flight."""

    concurrency: int
    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True)
class Promise:
    """`points` by rising concurrency; `prompt_tokens`: of the measured requests."""

    points: tuple[Point, ...]
    prompt_tokens: int

    def first_ms(self, in_flight: int, prompt_tokens: float) -> float:
        """Until the first token of one more request than these. A longer prompt than the measured
        takes longer in proportion: what is attention's, and grows faster, is little of it."""
        point, queue = self._at(in_flight + 1)
        return point.ttft_ms * queue * max(1.0, prompt_tokens / self.prompt_tokens)

    def answer_ms(self, in_flight: int, prompt_tokens: float, tokens: int) -> float:
        """Until the last token: TTFT + tokens x TPOT."""
        point, queue = self._at(in_flight + 1)
        return self.first_ms(in_flight, prompt_tokens) + tokens * point.tpot_ms * queue

    def _at(self, requests: int) -> tuple[Point, float]:
        """The lowest measured load that is no lower than this one; beyond the highest, that one and
        how many times it this is: the engine is full, and requests take turns."""
        for point in self.points:
            if point.concurrency >= requests:
                return point, 1.0
        return self.points[-1], requests / self.points[-1].concurrency


def of(benchmark: Benchmark, prompt_tokens: int) -> Promise | None:
    """None where nothing was measured."""
    deployed = benchmark.profiles.get("deployed")
    if deployed is None:
        return None
    points = tuple(
        Point(level.concurrency, _high(level.ttft_ms), _high(level.tpot_ms))
        for level in closed_levels(deployed)
        if level.concurrency and level.ttft_ms and level.tpot_ms
    )
    return Promise(points, prompt_tokens) if points else None


def _high(latency: Latency) -> float:
    known = (latency.percentiles[name] for name in PERCENTILES if name in latency.percentiles)
    return next(known, latency.estimate.median)
