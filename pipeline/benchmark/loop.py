"""The closed loop: a fixed number of requests in flight, the next one sent when one ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.benchmark.trace import Request
from pipeline.engines import Engine


@dataclass
class Timing:
    """One request: when it was sent and when its tokens came, in seconds of the run's clock."""

    sent_s: float
    wanted: int
    token_times_s: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None or len(self.token_times_s) != self.wanted

    @property
    def ttft_s(self) -> float:
        return self.token_times_s[0] - self.sent_s

    @property
    def tpot_s(self) -> float:
        return (self.token_times_s[-1] - self.token_times_s[0]) / (len(self.token_times_s) - 1)


class Run(NamedTuple):
    timings: list[Timing]
    wall_s: float


def closed_loop(engine: Engine, trace: list[Request], concurrency: int, clock: Callable[[], float] = time.perf_counter) -> Run:
    """Replays the trace in order; greedy, exact output lengths. A failed request is kept as one."""
    start = clock()
    timings: list[Timing] = []
    in_flight = 0
    while len(timings) < len(trace) or in_flight:
        while in_flight < concurrency and len(timings) < len(trace):
            request = trace[len(timings)]
            timings.append(Timing(clock() - start, request.output_tokens))
            engine.submit(len(timings) - 1, request.prompt, request.output_tokens, stop_at_eos=False)
            in_flight += 1
        steps = engine.step()
        now = clock() - start
        for step in steps:
            timings[step.key].token_times_s.extend([now] * len(step.token_ids))
            timings[step.key].error = step.error
            in_flight -= step.done
    return Run(timings, clock() - start)
