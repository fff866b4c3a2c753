"""Speed of one artifact on its engine: a closed loop at several concurrencies. Worker side.

TTFT = first token - submit. TPOT = (last token - first token) / (tokens - 1). Throughput = output tokens / wall time of
the whole run. Loading is timed up to the first token of a first request.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import engines
from pipeline.benchmark.loop import closed_loop
from pipeline.benchmark.statistics import level
from pipeline.benchmark.trace import build
from pipeline.recipe import Benchmark, Serve
from pipeline.records import Samples, read


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: returns the measured parts of a Benchmark record as JSON. Raises EvaluationError."""
    plan, serve = Benchmark.model_validate(job["benchmark"]), Serve.model_validate(job["serve"])
    samples = read(Path(job["samples"]), Samples)
    start = time.perf_counter()
    with engines.open_engine(job["engine"], Path(job["artifact"]), serve) as engine:
        trace = build(samples.ids, plan)
        engines.generate(engine, [trace[0].prompt], [1], stop_at_eos=False)
        load_s = time.perf_counter() - start
        levels = []
        with tqdm(total=len(plan.concurrency) * plan.repeats, desc="benchmark", unit="run", mininterval=2) as bar:
            for concurrency in plan.concurrency:
                closed_loop(engine, trace[: 2 * concurrency], concurrency)  # warm-up, not counted
                runs = []
                for _ in range(plan.repeats):
                    runs.append(closed_loop(engine, trace, concurrency))
                    bar.update()
                levels.append(level(concurrency, runs))
    packages = engines.ENGINES[job["engine"]].packages
    return {
        "load_s": load_s,
        "settings": serve.model_dump(),
        "versions": {name: version(name) for name in packages},
        "levels": [item.model_dump() for item in levels],
    }
