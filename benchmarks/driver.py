"""What does the load loop cost beside the engine that it drives? At concurrency 8, on both engines,
in one run each.

    python -m benchmarks.driver [--recipe tiny] [--repeats N]      (after: dvc repro trace@tiny)

Two measures. The share of a replay's wall time that is not spent inside the engine's own submit and
step; and, side by side, the replay's wall time over that of a bare loop that submits the same
requests at once and steps until all are done, reading nothing. Writes benchmarks/results/driver.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import engines, paths
from pipeline import recipe as recipes
from pipeline.benchmark import loop
from pipeline.engines import Engine, Sampling, Step
from pipeline.recipe import Serve
from pipeline.records import Trace, TracedRequest, read
from pipeline.runtime import environments, machine
from pipeline.runtime.process import ENVIRONMENT

CONCURRENCY = 8
MOST = 0.03
VARIANTS = ("ov-bf16", "ov-int4", "vllm-bf16", "gptq-int4")


class Timed:
    """An engine whose own time is added up."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.seconds = engine, 0.0

    def submit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        start = time.perf_counter()
        self._engine.submit(key, prompt, sampling)
        self.seconds += time.perf_counter() - start

    def step(self) -> list[Step]:
        start = time.perf_counter()
        steps = self._engine.step()
        self.seconds += time.perf_counter() - start
        return steps


def inside(
    engine_name: str, artifact: Path, serve: Serve, trace: list[TracedRequest], repeats: int
) -> dict[str, list[float]]:
    """Seconds of bare loops, of replays, and of the engine within the replays; A B B A. Eight
    requests at once, all sent first."""
    batch = (trace * CONCURRENCY)[:CONCURRENCY]
    found: dict[str, list[float]] = {"bare": [], "replay": [], "engine": []}
    with engines.open_serving(engine_name, artifact, serve) as engine:
        _bare(engine, batch)
        for repeat in range(repeats):
            for kind in ("bare", "replay") if repeat % 2 == 0 else ("replay", "bare"):
                if kind == "bare":
                    found["bare"].append(_bare(engine, batch))
                else:
                    timed = Timed(engine)
                    found["replay"].append(
                        loop.closed(timed, batch, CONCURRENCY, loop.Clock()).wall_s
                    )  # type: ignore[arg-type]
                    found["engine"].append(timed.seconds)
    return found


def _bare(engine: Engine, batch: list[TracedRequest]) -> float:
    start = time.perf_counter()
    for key, request in enumerate(batch):
        engine.submit(key, request.prompt, Sampling(request.output_tokens, ignore_eos=True))
    left = len(batch)
    while left:
        left -= sum(step.done for step in engine.step())
    return time.perf_counter() - start


def run(name: str, repeats: int) -> str:
    recipe, host = recipes.load(name), machine.describe()
    lines = [
        "# The load loop beside the engine",
        (
            f"`python -m benchmarks.driver --recipe {name} --repeats {repeats}`,"
            f" {time.strftime('%Y-%m-%d')}. {CONCURRENCY} requests of"
            f" {recipe.benchmark.prompt_tokens} prompt and {recipe.benchmark.output_tokens} output"
            f" tokens in flight; medians of {repeats} repeats, interleaved with the bare loop."
        ),
        "",
        (
            "| variant | bare loop, ms | replay, ms | replay over bare | outside the engine | under"
            " 3 % |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        engine = recipe.variants[variant].engine
        job = {
            "engine": engine,
            "model": str(paths.model(name, variant)),
            "serve": recipe.serve.model_dump(),
            "trace": str(paths.trace(name)),
            "repeats": repeats,
        }
        python = str(environments.python(engines.ENGINES[engine].environment))
        command = [
            python,
            "-m",
            "benchmarks.driver",
            "--inside",
            json.dumps(job),
        ]  # tool environments read no YAML
        done = subprocess.run(
            command,
            env={**os.environ, **ENVIRONMENT},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        bare, replay = median(found["bare"]), median(found["replay"])
        outside = median(
            1 - own / whole for own, whole in zip(found["engine"], found["replay"], strict=True)
        )
        met = "yes" if outside < MOST else "NO"
        lines.append(
            f"| {variant} | {1000 * bare:.2f} | {1000 * replay:.2f} | {replay / bare:.3f} |"
            f" {outside:.2%} | {met} |"
        )
    lines += [
        "",
        (
            f"{host['cpu']}, {host['cores']} cores ({', '.join(host['instruction_sets'])}),"
            f" {host['system']}."
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/driver.md"))
    parser.add_argument("--inside", metavar="JOB", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        job = json.loads(given.inside)
        requests = read(Path(job["trace"]), Trace).requests
        settings = Serve.model_validate(job["serve"])
        print(
            json.dumps(
                inside(job["engine"], Path(job["model"]), settings, requests, job["repeats"])
            ),
            flush=True,
        )
        os._exit(0)  # native threads of an engine may hang at exit
    page = run(given.recipe, given.repeats)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)
