"""How much of its nodes' time does `quantgate spread` use, on stages that only wait?

    python -m benchmarks.spread_waiting [--nodes N] [--jobs N] [--seconds S]   (after: make servers)

So many Ray nodes of one core each, all on this machine, and jobs that are all ready at once.
Waiting needs no core, so that what is lost is the start of jobs: all nodes' starts share this
machine's cores. Writes benchmarks/results/spread_waiting.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from pipeline.runtime import machine
from pipeline.spread import command
from tests.ray_nodes import Waiting, ended, nodes

LEAST = 0.85
APART = 0.05  # jobs take so much longer or shorter, so that not all nodes start one at once
SETTLE_S = 15  # for the helpers that Ray starts beside each node: real nodes are long up
START = [sys.executable, "-c", "import pipeline.spread.node"]


def run(count: int, jobs: int, seconds: float) -> str:
    lasts = {
        f"wait@r--{number}": seconds * (1 + APART * (2 * (number * 5 % jobs) / jobs - 1))
        for number in range(jobs)
    }
    with tempfile.TemporaryDirectory() as folder:
        waiting = Waiting(Path(folder))
        asked = [waiting.job(name, seconds=took) for name, took in lasts.items()]
        with nodes(Path(folder), [1] * count) as address, command._session(address) as session:
            session.ask()
            time.sleep(SETTLE_S)
            start = time.time()
            outcomes = ended(session, asked, jobs)
            wall_s = time.time() - start
            own_start_s, load = _start_s(), os.getloadavg()[0]
        tries = [one for name in lasts for one in waiting.tries(name)]
    failed = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
    if failed or len(tries) != jobs:
        raise SystemExit(f"{len(tries)} tries of {jobs} jobs; {failed}")
    by_node = [
        sorted((one for one in tries if one.node == node), key=lambda one: one.begun)
        for node in {one.node for one in tries}
    ]
    between = [then.begun - one.ended for lane in by_node for one, then in pairwise(lane)]
    in_node = median(outcome.wall_s - lasts[name] for name, outcome in outcomes.items())
    all_s = count * wall_s
    waited_s = sum(one.ended - one.begun for one in tries)
    share = sum(lasts.values()) / all_s
    idle = (count - len(by_node)) * wall_s  # nodes that got no job
    lost = {
        "first job of each node: Ray starts a worker, which gets our package": sum(
            lane[0].begun - start for lane in by_node
        ),
        "from the end of a stage to the begin of the next on its node": sum(between),
        "after a node's last job": sum(start + wall_s - lane[-1].ended for lane in by_node) + idle,
        "stages that waited longer than they were asked to": waited_s - sum(lasts.values()),
    }
    host = machine.describe()
    words = (
        f"`python -m benchmarks.spread_waiting --nodes {count} --jobs {jobs} --seconds"
        f" {seconds:g}`, {time.strftime('%Y-%m-%d')}: {jobs} jobs of"
        f" {min(lasts.values()):.1f} to {max(lasts.values()):.1f} s in {wall_s:.1f} s, each tried"
        f" once. **Efficiency {share:.3f}** (the aim: {LEAST}): the stages' waiting over the nodes'"
        " time."
    )
    return "\n".join(
        [
            "# Jobs that only wait, on simulated nodes",
            words,
            "",
            "| lost | seconds of all nodes | share |",
            "|---|---|---|",
            *(f"| {what} | {took:.1f} | {took / all_s:.1%} |" for what, took in lost.items()),
            "",
            (
                f"From the end of a stage to the begin of the next: {median(between):.2f} s at the"
                f" median, {max(between):.2f} at most. Of it about {own_start_s:.2f} s are Python's"
                f" start of the control process with its imports (measured by itself, right after),"
                f" {in_node:.2f} s the working copy, the start of the stage's command and the look"
                " into the store; the rest is Ray's and the machine's load. Nothing is polled for:"
                " an outcome ends the wait."
            ),
            "",
            (
                f"{host['cpu']}, {host['cores']} cores for all nodes, {host['system']}; load"
                f" average {load:.1f} at the end, other work beside it."
            ),
            "",
        ]
    )


def _start_s() -> float:
    took = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run(START, check=True)
        took.append(time.monotonic() - start)
    return median(took)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/spread_waiting.md"))
    given = parser.parse_args()
    page = run(given.nodes, given.jobs, given.seconds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)
