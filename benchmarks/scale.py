"""How many nodes is a large recipe worth? A simulation from job times that were measured on small
models: 70 billion parameters, 12 variants, all of MMLU, on 1 to 64 nodes.

    python -m benchmarks.scale [--out FILE]

The graph is DVC's own, of a project that is made for it in a temporary folder. A job's time is what
`quantgate plan` says (pipeline/planning/estimate), whose coefficients were fitted to measured
stages, for a node that benchmarks/scale_model writes down; the rest is arithmetic
(benchmarks/schedule), and takes seconds. Nothing is random. Writes benchmarks/results/scale.md;
docs/scale.md says what follows."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks import schedule
from benchmarks.scale_model import (
    ITEMS,
    NAME,
    NETWORK_BYTES_PER_S,
    NODE,
    SHAPE,
    VARIANTS,
    WAYS,
    WORLDS,
    Edges,
    Rounds,
    Times,
    Way,
    World,
    edges,
    project,
)
from benchmarks.schedule import Job, Run
from pipeline.recipe import Recipe

NODES = (1, 2, 4, 8, 16, 32, 64)
LITTLE = 0.10  # what doubling the nodes must gain
HOUR = 3600.0


def jobs(stages: Edges, rounds: dict[str, Rounds]) -> list[Job]:
    """Each stage as its jobs; what comes after a stage waits for all of its last round."""
    names = {
        stage: [
            [_named(stage, of, number, place) for place in range(len(seconds))]
            for number, seconds in enumerate(of)
        ]
        for stage, of in rounds.items()
    }
    cut = []
    for stage, before in stages.items():
        after = tuple(name for one in before for name in names[one][-1])
        for seconds, own in zip(rounds[stage], names[stage], strict=True):
            cut += [Job(name, took, after) for name, took in zip(own, seconds, strict=True)]
            after = tuple(own)
    return cut


def _named(stage: str, rounds: Rounds, number: int, place: int) -> str:
    if len(rounds) == len(rounds[0]) == 1:
        return stage
    of = f" of look {number + 1}" if len(rounds) > 1 else ""
    return f"{stage}, shard {place + 1}{of}"


@dataclass(frozen=True)
class Scaled:
    """One way in one world, by the number of nodes."""

    way: Way
    jobs: list[Job]
    runs: dict[int, Run]

    @property
    def stops(self) -> int | None:
        """The first number of nodes that doubling gains little on; None beyond all that were
        tried."""
        tried = [nodes for nodes in self.runs if 2 * nodes in self.runs]
        return next(
            (
                nodes
                for nodes in tried
                if self.runs[2 * nodes].wall_s > (1 - LITTLE) * self.runs[nodes].wall_s
            ),
            None,
        )

    def verdicts_s(self, nodes: int) -> float:
        """When the last verdict is there."""
        ends = self.runs[nodes].ends
        return max(end for name, end in ends.items() if name.startswith("gate@"))


def simulate(recipe: Recipe, stages: Edges, way: Way, world: World) -> Scaled:
    times = Times(recipe, world)
    cut = jobs(stages, {stage: times.rounds(stage, way) for stage in stages})
    counts = (*NODES, 2 * NODES[-1])
    runs = {nodes: schedule.run(cut, nodes, world.urgent_first) for nodes in counts}
    return Scaled(way, cut, runs)


def page() -> str:
    """The results page."""
    with project() as recipe:
        stages = edges()
        found = {world: [simulate(recipe, stages, way, world) for way in WAYS] for world in WORLDS}
        times = Times(recipe, WORLDS[0])
    usual = found[WORLDS[0]]
    lines = [
        f"# {SHAPE.parameters / 1e9:.1f} billion parameters, {len(VARIANTS)} variants,"
        f" {ITEMS:,} items of MMLU, on {NODES[0]} to {NODES[-1]} nodes: a simulation",
        "",
        "`python -m benchmarks.scale`. No model of this size was run: docs/scale.md says what is"
        " assumed.",
        "",
        f"A node: {NODE.cores} cores, {NODE.float32_flops / 1e12:.1f} and"
        f" {NODE.bfloat16_flops / 1e12:.0f} TFLOP/s in float32 and bfloat16,"
        f" {NODE.memory_bytes_per_s / 1e9:.0f} GB/s of memory, {times.memory_bytes / 1e9:.0f} GB of"
        f" it needed, {NETWORK_BYTES_PER_S / 1e9:g} GB/s to the store.",
        "",
        *_stages(usual[0], times),
        "",
        "## Wall time",
        "Hours (share of the nodes' time that is used; times faster than today's way on one node).",
        "",
        *_walls(usual),
        "",
        "## Where it stops",
        f"The first number of nodes of which twice as many gain less than {LITTLE:.0%}; the longest"
        " chain of jobs, which no number of nodes shortens.",
        "",
        *_ends(usual),
        "",
        "## Other assumptions",
        "Wall time on 16 nodes, h, and (where it stops).",
        "",
        *_others(found),
    ]
    return "\n".join(lines) + "\n"


def _stages(today: Scaled, times: Times) -> list[str]:
    lines = ["| stage, as one job | h | of which loading |", "|---|---|---|"]
    for job in today.jobs:
        if job.seconds < 0.1 * HOUR:
            continue
        variant = job.name.partition("--")[2]
        loads = times.load_s(variant) / job.seconds if job.name.startswith("evaluate@") else None
        share = "" if loads is None else f"{loads:.0%}"
        lines.append(f"| {_short(job.name)} | {_hours(job.seconds)} | {share} |")
    total = sum(job.seconds for job in today.jobs)
    return [*lines, f"| all {len(today.jobs)} stages | {_hours(total)} | |"]


def _walls(usual: list[Scaled]) -> list[str]:
    base = usual[0].runs[1].wall_s
    lines = [_row(["nodes", *(of.way.title for of in usual)]), "|---" * (len(usual) + 1) + "|"]
    for nodes in NODES:
        runs = [of.runs[nodes] for of in usual]
        cells = [
            f"{_hours(run.wall_s)} ({run.utilisation:.0%}; {base / run.wall_s:.1f})" for run in runs
        ]
        lines.append(_row([str(nodes), *cells]))
    return lines


def _ends(usual: list[Scaled]) -> list[str]:
    lines = [
        _row(["way", "stops at", "wall there, h", "all verdicts there after, h", "node hours",
              "node hours if all nodes but one go back after the verdicts", "longest chain, h",
              "its jobs"]),
        "|---" * 8 + "|",
    ]  # fmt: skip
    for of in usual:
        nodes, chain = of.stops or NODES[-1], schedule.critical_path(of.jobs)
        wall, verdicts = of.runs[nodes].wall_s, of.verdicts_s(nodes)
        whole = sum(job.seconds for job in chain)
        told = [f"{_short(job.name)} {_hours(job.seconds)}" for job in chain]
        long = [words for words, job in zip(told, chain, strict=True) if job.seconds > whole / 100]
        cells = [
            of.way.title,
            _stop(of),
            *(_hours(seconds) for seconds in (wall, verdicts, nodes * wall)),
            _hours(nodes * verdicts + wall - verdicts),
            _hours(whole),
            ", ".join(long),
        ]
        lines.append(_row(cells))
    return lines


def _others(found: dict[World, list[Scaled]]) -> list[str]:
    lines = [_row(["assumed", *(way.title for way in WAYS)]), "|---" * (len(WAYS) + 1) + "|"]
    for world, scaled in found.items():
        cells = [f"{_hours(of.runs[16].wall_s)} ({_stop(of)})" for of in scaled]
        lines.append(_row([world.title, *cells]))
    return lines


def _stop(of: Scaled) -> str:
    return str(of.stops) if of.stops else f"beyond {NODES[-1]}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _hours(seconds: float) -> str:
    hours = seconds / HOUR
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.1f}"


def _short(name: str) -> str:
    return name.replace(f"@{NAME}--", " ").replace(f"@{NAME}", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.md"))
    given = parser.parse_args()
    text = page()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text)
    print(text)
