"""What each stage of a recipe takes, before it runs: disk, memory that no file backs, and time on
an otherwise idle machine.

    shape      the sizes of the model
    workload   how many tokens are put to it
    rates      work to seconds, at the speed of a machine
    quantizing, measuring   the work and the memory of each kind of stage

Coefficients are fitted to real runs; tests/test_estimate.py holds time and memory within a factor
of two of them."""

from __future__ import annotations

from typing import NamedTuple

from pipeline import engines, quantizers
from pipeline.planning.estimate import measuring, quantizing, workload
from pipeline.planning.estimate.rates import USUAL, Work, forward
from pipeline.planning.estimate.shape import UNKNOWN, Shape, of
from pipeline.planning.estimate.workload import DEFAULT_ITEMS, windows
from pipeline.recipe import Recipe, Variant, ladder, rungs
from pipeline.records import Speed, Workload

__all__ = [
    "DEFAULT_ITEMS",
    "UNKNOWN",
    "USUAL",
    "Counted",
    "Estimate",
    "Shape",
    "needs_bytes",
    "of",
    "stages",
    "windows",
]

CHECK = Work(serial_s=5, flops=0)  # imports, and the model without weights
TOKENIZING = Work(serial_s=6)
HASHING_NS = 1.0  # a byte
LOOKING_BYTES = 0.6e9  # imports and the model without weights
FLOAT32 = 4


class Estimate(NamedTuple):
    stage: str
    environment: str
    disk_bytes: float
    memory_bytes: float
    seconds: float


def needs_bytes(recipe: Recipe, kind: str, variant: Variant | None = None) -> float:
    """Memory of a stage of this kind, 0 where the model's size is not known. `variant`: of quantize
    and evaluate."""
    shape = of(recipe)
    if shape is None:
        return 0
    if variant is None:
        return (
            measuring.reference_bytes(shape) if kind == "reference" else _calibrating_bytes(shape)
        )
    return (
        quantizing.memory_bytes(variant, shape)
        if kind == "quantize"
        else measuring.evaluation_bytes(variant, shape, recipe.serve)
    )


def _calibrating_bytes(shape: Shape) -> float:
    """Of a mixture of experts the source itself runs, to count the tokens of each expert."""
    return LOOKING_BYTES + (2 * shape.parameters if shape.has_experts else 0)


class Counted(NamedTuple):
    """What is known of a recipe beforehand; `items` by task, None where it is not known."""

    shape: Shape
    load: Workload
    items: dict[str, int | None]
    speed: Speed


def stages(recipe: Recipe, counted: Counted) -> list[Estimate]:
    """One row a stage, in the order in which DVC runs them; of a ladder all rungs, though it may
    end at the first."""
    rows = [*_prepared(recipe, counted), _reference(recipe, counted)]
    for name, variant in recipe.variants.items():
        for rung in rungs(variant):
            label = f"{name}, {ladder.words(rung)}" if variant.ladder else name
            rows += _variant(label, rung, recipe, counted)
    seconds = measuring.benchmark(recipe, counted.shape, counted.speed)
    memory = measuring.benchmark_bytes(recipe, counted.shape)
    engines = ", ".join(sorted({variant.engine for variant in recipe.variants.values()}))
    return [*rows, Estimate("benchmark", engines, 0, memory, seconds)]


def _prepared(recipe: Recipe, counted: Counted) -> list[Estimate]:
    shape, speed = counted.shape, counted.speed
    hashing = Work(serial_s=HASHING_NS * 1e-9 * 2 * shape.parameters)
    tokens = recipe.calibration.samples * recipe.calibration.tokens
    counting = (
        Work(flops=forward(shape, workload.Tokens(tokens, 0))) if shape.has_experts else Work()
    )
    fetched = 0 if recipe.model.path else 2 * shape.parameters
    return [
        Estimate("pin", "openvino", fetched, LOOKING_BYTES, CHECK.plus(hashing).seconds(speed)),
        Estimate(
            "calibrate",
            "openvino",
            0,
            _calibrating_bytes(shape),
            TOKENIZING.plus(hashing).plus(counting).seconds(speed),
        ),
    ]


def _reference(recipe: Recipe, counted: Counted) -> Estimate:
    shape, load = counted.shape, counted.load
    items = workload.most_items(recipe, counted.items)
    tokens = workload.texts(recipe, load).plus(workload.tasks(recipe, load, items, shares=True))
    seconds = measuring.reference(shape, tokens, counted.speed).seconds(counted.speed)
    long = recipe.evaluate.long_windows(recipe.serve.max_model_len)
    at_length = workload.long_windows(recipe, load) * len(long.places) if long else 0
    disk = FLOAT32 * (recipe.evaluate.divergence.positions + at_length) * shape.vocabulary
    return Estimate(
        "reference",
        engines.ENGINES["reference"].environment,
        disk,
        measuring.reference_bytes(shape),
        seconds,
    )


def _variant(label: str, variant: Variant, recipe: Recipe, counted: Counted) -> list[Estimate]:
    shape, load, speed = counted.shape, counted.load, counted.speed
    environment = quantizers.tool(variant).environment
    made = quantizing.work(variant, shape, recipe.calibration).seconds(speed)
    disk, memory = quantizing.stored_bytes(variant, shape), quantizing.memory_bytes(variant, shape)
    items = workload.first_items(recipe, variant, counted.items)
    tokens = workload.texts(recipe, load).plus(
        workload.tasks(recipe, load, items, shares=variant.served_by.shares_prefixes)
    )
    seen = measuring.evaluation(
        variant, shape, tokens, workload.compared(recipe, load), speed
    ).seconds(speed)
    rows = [
        Estimate(f"quantize {label}", environment, disk, memory, made),
        Estimate(f"evaluate {label}", engines.ENGINES[variant.engine].environment, 0,
                 measuring.evaluation_bytes(variant, shape, recipe.serve), seen),
    ]  # fmt: skip
    return rows + _later(label, variant, recipe, counted, items)


def _later(
    label: str, variant: Variant, recipe: Recipe, counted: Counted, first: dict[str, int]
) -> list[Estimate]:
    """The items of the looks after the first, all of them."""
    most = workload.most_items(recipe, counted.items)
    left = {task: most[task] - count for task, count in first.items()}
    if not any(left.values()):
        return []
    tokens = workload.tasks(recipe, counted.load, left, shares=variant.served_by.shares_prefixes)
    engine = variant.served_by.costs.deployed
    seconds = measuring.passing(
        engine, variant.weights, counted.shape, tokens, counted.speed
    ).seconds(counted.speed)
    memory = measuring.evaluation_bytes(variant, counted.shape, recipe.serve)
    return [
        Estimate(
            f"evaluate {label}, more items, at most",
            engines.ENGINES[variant.engine].environment,
            0,
            memory,
            seconds,
        )
    ]
