"""Replays a trace on an engine: a fixed number of requests in flight (closed loop), or each at its
arrival (open loop).

An engine in process admits requests between two of its steps, as a server does between two batches.
A request of the open loop that arrives during a step waits until it ends, and that wait counts:
TTFT runs from the arrival, not from the submission, so that a slow engine cannot hide its queue
(coordinated omission)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.engines import Engine, Sampling
from pipeline.records import RequestTiming, TracedRequest


class Clock:
    """Seconds, and waiting; the tests put one in that passes at will."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Replayed(NamedTuple):
    requests: list[RequestTiming]
    wall_s: float


@dataclass
class _Open:
    """A request in the making; times in seconds of the replay."""

    due_s: float
    arrivals_s: list[float] = field(default_factory=list)
    error: str | None = None


def closed(engine: Engine, trace: list[TracedRequest], concurrency: int, clock: Clock) -> Replayed:
    """The next request is sent when one ends. Greedy, exact output lengths; a failed request is
    kept as one."""
    start = clock.now()
    sent: list[_Open] = []
    in_flight = 0
    while len(sent) < len(trace) or in_flight:
        while in_flight < concurrency and len(sent) < len(trace):
            sent.append(_submit(engine, len(sent), trace[len(sent)], clock.now() - start))
            in_flight += 1
        in_flight -= _step(engine, sent, clock, start)
    return _replayed(trace, sent, clock.now() - start)


def open_(engine: Engine, trace: list[TracedRequest], rate_per_s: float, clock: Clock) -> Replayed:
    """Each request is due at its arrival / rate, whatever the engine is doing. The wall time runs
    from the first arrival."""
    start = clock.now()
    due = [request.arrival / rate_per_s for request in trace]
    sent: list[_Open] = []
    in_flight = 0
    while len(sent) < len(trace) or in_flight:
        if not in_flight:
            clock.sleep(max(0.0, due[len(sent)] - (clock.now() - start)))
        while len(sent) < len(trace) and (not in_flight or due[len(sent)] <= clock.now() - start):
            sent.append(_submit(engine, len(sent), trace[len(sent)], due[len(sent)]))
            in_flight += 1
        in_flight -= _step(engine, sent, clock, start)
    return _replayed(trace, sent, clock.now() - start - due[0])


def _submit(engine: Engine, key: int, request: TracedRequest, due_s: float) -> _Open:
    engine.submit(key, request.prompt, Sampling(request.output_tokens, ignore_eos=True))
    return _Open(due_s)


def _step(engine: Engine, sent: list[_Open], clock: Clock, start: float) -> int:
    """Runs the engine once; returns how many requests ended."""
    steps = engine.step()
    now = clock.now() - start
    for step in steps:
        sent[step.key].arrivals_s.extend([now] * len(step.token_ids))
        sent[step.key].error = step.error
    return sum(step.done for step in steps)


def _replayed(trace: list[TracedRequest], sent: list[_Open], wall_s: float) -> Replayed:
    timings = [
        RequestTiming(
            due_s=round(one.due_s, 6),
            arrivals_s=[round(at, 6) for at in one.arrivals_s],
            prompt_tokens=len(request.prompt),
            wanted=request.output_tokens,
            tokens=len(one.arrivals_s),
            error=one.error,
        )
        for request, one in zip(trace, sent, strict=True)
    ]
    return Replayed(timings, wall_s)
