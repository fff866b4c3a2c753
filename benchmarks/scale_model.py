"""What benchmarks/scale simulates: a recipe, its stages as DVC has them, a node, and how long each
takes there by the coefficients of `quantgate plan`."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

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
