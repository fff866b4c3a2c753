"""One artifact on its engine, loaded once and replayed when asked. Worker side.

Asked for {"loads": [...], "repeat": n}, it answers {"replays": [...]}. When nothing more is asked
it tells the settings that the engine ran under; OpenVINO's has to drop the model to be able to say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import engines
from pipeline.benchmark import loop
from pipeline.engines import Engine
from pipeline.recipe import Serve
from pipeline.records import Replay, Trace, TracedRequest, read
from pipeline.runtime import machine

WARM_UP_ROUNDS = 2  # of each load before it is first timed; one request before every later time


def converse(job: dict[str, Any], asked: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Worker verb: first the seconds from opening the engine to the first token, then the answers,
    then the settings."""
    serve, trace = Serve.model_validate(job["serve"]), read(Path(job["trace"]), Trace).requests
    os.sched_setaffinity(0, engines.cores(serve))
    start = time.perf_counter()
    with engines.open_serving(job["engine"], Path(job["artifact"]), serve) as engine:
        engines.generate(engine, [trace[0].prompt], [1], stop_at_eos=False)
        yield {"load_s": time.perf_counter() - start}
        for order in asked:
            yield {
                "replays": [
                    replay(engine, trace, load, order["repeat"]).model_dump()
                    for load in order["loads"]
                ]
            }
        packages = engines.ENGINES[job["engine"]].packages
        yield {
            "settings": engine.settings(),
            "versions": {name: version(name) for name in packages},
        }


def replay(engine: Engine, trace: list[TracedRequest], load: dict[str, Any], repeat: int) -> Replay:
    """`load` is {"concurrency": n} or {"rate_per_s": r, "fraction": f}."""
    clock = loop.Clock()
    concurrency = load.get("concurrency")
    warm_up = trace[: WARM_UP_ROUNDS * (concurrency or 1)] if repeat == 0 else trace[:1]
    loop.closed(engine, warm_up, concurrency or 1, clock)
    before = machine.processor()
    done = (
        loop.closed(engine, trace, concurrency, clock)
        if concurrency
        else loop.open_(engine, trace, load["rate_per_s"], clock)
    )
    return Replay(
        loop="closed" if concurrency else "open",
        repeat=repeat,
        wall_s=done.wall_s,
        others_share=machine.others_share(before, machine.processor()),
        requests=done.requests,
        **load,
    )
