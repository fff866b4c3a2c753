"""How many nodes is a large recipe worth? A simulation from job times that were measured on small
models: 70 billion parameters, 12 variants, all of MMLU, on 1 to 64 nodes.

    python -m benchmarks.scale [--out FILE]

The graph is DVC's own, of a project that is made for it in a temporary folder. A job's time is what
`quantgate plan` says (pipeline/planning/estimate), whose coefficients were fitted to measured
stages, for a node that is written down below; the rest is arithmetic (benchmarks/schedule), and
takes seconds. Nothing is random. Writes benchmarks/results/scale.md; docs/scale.md says what
follows."""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import schedule
from benchmarks.schedule import Job, Run
from pipeline import recipe as recipes
from pipeline.gate.limits import LOOKS
from pipeline.planning import estimate, index
from pipeline.planning.estimate import USUAL, Counted, Shape, measuring, quantizing, workload
from pipeline.planning.estimate.rates import Work
from pipeline.planning.estimate.workload import Tokens
from pipeline.recipe import Recipe
from pipeline.records import TaskLoad, Workload

NAME = "large"
LIKE = Path("recipes/llama-3.1-8b-instruct.yaml")  # the ready recipe for the largest models
LINKED = ("pipeline", "calibration", "environments", "dvc.yaml", ".dvcignore")
GROUPED = {"engine": "openvino", "quantizer": "openvino", "weights": "int4"}
PACKED = {"engine": "vllm", "weights": "int4"}
VARIANTS: dict[str, dict[str, Any]] = {
    "ov-bf16": {"engine": "openvino"},
    "ov-int8": {"engine": "openvino", "quantizer": "openvino", "weights": "int8"},
    "ov-int4-g128": {**GROUPED, "group_size": 128},
    "ov-int4-g64": {**GROUPED, "group_size": 64},
    "ov-int4-awq": {**GROUPED, "group_size": 128, "awq": True, "scale_estimation": True},
    "ov-int4-mixed": {**GROUPED, "group_size": 64, "ratio": 0.8, "awq": True},
    "vllm-bf16": {"engine": "vllm"},
    "gptq-int4-g128": {**PACKED, "quantizer": "gptq", "group_size": 128},
    "gptq-int4-g64": {**PACKED, "quantizer": "gptq", "group_size": 64},
    "awq-int4-g128": {**PACKED, "quantizer": "awq", "group_size": 128},
    "awq-int4-g64": {**PACKED, "quantizer": "awq", "group_size": 64},
    "ar-int4-g128": {**PACKED, "quantizer": "auto-round", "group_size": 128, "format": "awq"},
}
VOCABULARY, HIDDEN = 128_256, 8192  # of Llama-3.1-70B
SHAPE = Shape(70_553_706_496, VOCABULARY * HIDDEN, False, VOCABULARY, False)
TASK, ITEMS, TOKENS = "mmlu", 14_042, 120  # its test split; tokens of an item, taken for usual
TEXT, WINDOWS = "wikitext-2", workload.DEFAULT_WINDOWS
# Of five looks, how many until the items decide: docs/real-models.md (two for all of SmolLM2's
# variants but one, three for that) and docs/verdict.md (0.6 of the items at most, simulated for
# what loses as much as usual INT4).
LOOKED = {"bf16": 2, "int8": 2, "int4": 3}
FASTER = 32  # cores of a node over the two that were measured
NODE = USUAL.model_copy(
    update={
        "cores": FASTER * USUAL.cores,
        "float32_flops": FASTER * USUAL.float32_flops,
        "bfloat16_flops": FASTER * USUAL.bfloat16_flops,
        "memory_bytes_per_s": 10 * USUAL.memory_bytes_per_s,  # sockets have few channels
    }
)
NETWORK_BYTES_PER_S = 1.25e9  # 10 Gbit/s to the store, for each node
# What trace took (benchmarks/results/by_hand.md); gate, report and require run no model either
SHORT_S = 10.0
NODES = (1, 2, 4, 8, 16, 32, 64)
LITTLE = 0.10  # what doubling the nodes must gain
HOUR = 3600.0

EMPTY = Tokens(0, 0)

Edges = dict[str, tuple[str, ...]]
Rounds = list[list[float]]


@dataclass(frozen=True)
class Way:
    """How evaluations are done: each cut into so many `shards`, the items in `looks`."""

    title: str
    shards: int = 1
    looks: bool = False


@dataclass(frozen=True)
class World:
    """What is assumed: tokens of an item, how long loading takes beside what was measured, whether
    speeds are measured at all, and whether long chains go first."""

    title: str = "as above"
    tokens: float = TOKENS
    loading: float = 1.0
    benchmark: bool = True
    urgent_first: bool = False


WAYS = (
    Way("(a) today: one job"),
    Way("(b) 4 shards", shards=4),
    Way("(b) 8 shards", shards=8),
    Way("(b) 16 shards", shards=16),
    Way("(c) looks", looks=True),
    Way("(b + c) 8 shards, looks", shards=8, looks=True),
)
WORLDS = (
    World(),
    World("items of 600 tokens (five examples)", tokens=600),
    World("loading takes a tenth", loading=0.1),
    World("no benchmark", benchmark=False),
    World("longest chain first", urgent_first=True),
)


@contextmanager
def project() -> Iterator[Recipe]:
    """The recipe, with the working folder inside a project that has it and nothing else."""
    root = Path.cwd()
    data = YAML(typ="safe").load(LIKE.read_text())
    data["model"]["parameters"] = SHAPE.parameters
    data["evaluate"]["tasks"] = {TASK: ITEMS}
    data["gate"]["sequential"] = False  # looks are cut here
    data["variants"] = VARIANTS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in LINKED:
            (folder / name).symlink_to(root / name)
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")
        (folder / "recipes").mkdir()
        YAML().dump(data, folder / "recipes" / f"{NAME}.yaml")
        with contextlib.chdir(folder):
            index.write()
            yield recipes.load(NAME)


def edges() -> Edges:
    """By stage those that it comes after, in the order of dvc.yaml: DVC's own graph."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        graph = repo.index.graph
        return {
            stage.addressing: tuple(sorted(before.addressing for before in graph.successors(stage)))
            for stage in graph.nodes
        }


class Times:
    """What each stage takes on one node."""

    def __init__(self, recipe: Recipe, world: World) -> None:
        tokens = world.tokens
        self._recipe, self._world = recipe, world
        self._load = Workload(
            windows={TEXT: WINDOWS},
            tasks={TASK: TaskLoad(tokens=tokens, shared_tokens=tokens, rows=4, generated=0)},
        )
        counted = Counted(SHAPE, self._load, {TASK: ITEMS}, NODE)
        self._planned = {row.stage: row for row in estimate.stages(recipe, counted)}

    @property
    def memory_bytes(self) -> float:
        return max(row.memory_bytes for row in self._planned.values())

    def rounds(self, stage: str, way: Way) -> Rounds:
        """Seconds of the jobs that a stage is cut into. A round begins when the one before it has
        ended, since it may have decided."""
        verb, _, rest = stage.partition("@")
        variant = rest.partition("--")[2]
        if verb == "evaluate":
            return self._evaluate(variant, way)
        if verb == "reference":  # measures all items that any look may ask for
            return [[self._reference(1 / way.shards)] * way.shards]
        if verb == "benchmark" and not self._world.benchmark:
            return [[SHORT_S]]
        planned = self._planned.get(f"{verb} {variant}".strip())
        return [[(planned.seconds if planned else SHORT_S) + self._carried_s(verb, variant)]]

    def load_s(self, variant: str) -> float:
        """Loading a variant's artifact for both views, with the load check."""
        return self._seconds(self._views(variant), EMPTY, EMPTY)

    def _evaluate(self, variant: str, way: Way) -> Rounds:
        """As one job, the items of all looks in a session that stays open. A shard loads the model
        anew, and so do those of a later look."""
        fetched = self._carried_s("evaluate", variant)
        looked = LOOKED[self._recipe.variants[variant].weights] if way.looks else LOOKS
        count = way.shards
        if count == 1 or not way.looks:
            part = self._part(variant, 1 / count, looked / LOOKS / count)
            return [[fetched + part] * count]
        later = math.ceil(count / LOOKS)  # shards, none of which is larger than without looks
        first = fetched + self._part(variant, 1 / count, 1 / LOOKS / count)
        then = fetched + self._part(variant, 0, 1 / LOOKS / later)
        return [[first] * count, *([[then] * later] * (looked - 1))]

    def _part(self, variant: str, texts: float, items: float) -> float:
        """These shares of the texts, which both views score, and of the items, which one does."""
        of = self._recipe.variants[variant]
        deployed = _share(workload.texts(self._recipe, self._load), texts).plus(
            self._items(items, of.served_by.shares_prefixes)
        )
        if not texts:
            engine = of.served_by.costs.deployed
            return self._seconds(
                lambda tokens: measuring.passing(engine, of.weights, SHAPE, tokens, NODE), deployed
            )
        compared = _share(workload.compared(self._recipe, self._load), texts)
        return self._seconds(self._views(variant), deployed, compared)

    def _views(self, variant: str) -> Callable[[Tokens, Tokens], Work]:
        of = self._recipe.variants[variant]
        return lambda deployed, compared: measuring.evaluation(of, SHAPE, deployed, compared, NODE)

    def _reference(self, share: float) -> float:
        texts = _share(workload.texts(self._recipe, self._load), share)
        tokens = texts.plus(self._items(share, shares_prefixes=True))
        seconds = self._seconds(lambda of: measuring.reference(SHAPE, of, NODE), tokens)
        return seconds + self._carried_s("reference", "")

    def _items(self, share: float, shares_prefixes: bool) -> Tokens:
        all_items = workload.tasks(self._recipe, self._load, {TASK: ITEMS}, shares=shares_prefixes)
        return _share(all_items, share)

    def _seconds(self, work: Callable[..., Work], *tokens: Tokens) -> float:
        """What is done without any tokens is loading."""
        whole, load = (work(*of).seconds(NODE) for of in (tokens, [EMPTY] * len(tokens)))
        return whole - load + self._world.loading * load

    def _carried_s(self, verb: str, variant: str) -> float:
        """From the store and back: the source, an artifact, or all of them."""
        source = 2.0 * SHAPE.parameters
        sizes = {
            name: quantizing.stored_bytes(of, SHAPE) for name, of in self._recipe.variants.items()
        }
        carried = {
            "pin": source,
            "reference": source,
            "quantize": source + sizes.get(variant, 0),
            "evaluate": sizes.get(variant, 0),
            "benchmark": sum(sizes.values()),
        }
        return carried.get(verb, 0) / NETWORK_BYTES_PER_S


def _share(tokens: Tokens, share: float) -> Tokens:
    return Tokens(*(share * count for count in tokens))


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
