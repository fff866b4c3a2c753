"""What the reference, an evaluation and the benchmark take: time, and the memory that no file backs."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.estimate import quantizing
from pipeline.estimate.rates import Work, forward
from pipeline.estimate.shape import Shape
from pipeline.estimate.workload import Tokens
from pipeline.recipe import Recipe, Serve, Variant
from pipeline.records import Speed

GIB = 1 << 30
FLOAT32 = 4  # bytes
ROW_PASSES = 8  # over the log-probabilities of a row, in float32: soft-max, comparison


class Engine(NamedTuple):
    """`start_s`: imports, lm-eval, a load of the smallest model; `serial_ns`: of one core, a parameter, for loading, compiling and
    the load check; `share`: of the machine's product rate in the `precision` it computes in. Memory: `base_bytes`, `held`
    bytes a parameter besides the stored weights, and whether the KV cache is allocated whole.
    """

    start_s: float
    serial_ns: float
    precision: str
    share: float
    base_bytes: float
    held: float


REFERENCE = Engine(10, 4, "float32", 0.6, 0.6e9, FLOAT32)
DEPLOYED = {
    "openvino": Engine(18, 40, "bfloat16", 0.4, 0.8e9, 2.0),
    "vllm": Engine(28, 40, "bfloat16", 0.25, 1.2e9, 2.0),
}
WEIGHTS = {"openvino": Engine(2, 10, "float32", 0.8, 0, FLOAT32), "vllm": Engine(3, 20, "float32", 0.6, 0, FLOAT32)}


def passing(engine: Engine, shape: Shape, tokens: Tokens, speed: Speed) -> Work:
    """Of loading the model and putting the tokens through it."""
    flops = forward(shape, tokens) / engine.share * (speed.float32_flops / _rate(engine, speed))
    rows = ROW_PASSES * FLOAT32 * shape.vocabulary * tokens.rows
    return Work(engine.start_s + engine.serial_ns * 1e-9 * shape.parameters, flops, rows)


def _rate(engine: Engine, speed: Speed) -> float:
    return speed.bfloat16_flops if engine.precision == "bfloat16" else speed.float32_flops


def reference(shape: Shape, tokens: Tokens, speed: Speed) -> Work:
    return passing(REFERENCE, shape, tokens, speed)


def reference_bytes(shape: Shape) -> float:
    return REFERENCE.base_bytes + REFERENCE.held * shape.parameters


def evaluation(variant: Variant, shape: Shape, deployed: Tokens, compared: Tokens, speed: Speed) -> Work:
    """Both views: as deployed, then the compared windows in float32."""
    first = passing(DEPLOYED[variant.engine], shape, deployed, speed)
    read = deployed.decoded * quantizing.stored_bytes(variant, shape)
    return first.plus(passing(WEIGHTS[variant.engine], shape, compared, speed)).plus(Work(read_bytes=read))


def evaluation_bytes(variant: Variant, shape: Shape, serve: Serve) -> float:
    """The larger of the two views."""
    engine = DEPLOYED[variant.engine]
    deployed = engine.base_bytes + engine.held * shape.parameters + serve.kv_cache_gib * GIB
    weights = engine.base_bytes + WEIGHTS[variant.engine].held * shape.parameters
    return max(deployed, weights)


def benchmark(recipe: Recipe, shape: Shape, speed: Speed) -> float:
    """Seconds of all variants' turns: prompts are products, each decoding step reads all weights once."""
    return sum(_turns(variant, recipe, shape, speed) for variant in recipe.variants.values())


def _turns(variant: Variant, recipe: Recipe, shape: Shape, speed: Speed) -> float:
    plan, engine = recipe.benchmark, DEPLOYED[variant.engine]
    profiles = 2 if plan.matched and variant.engine == "openvino" else 1
    prompts = passing(engine, shape, Tokens(plan.requests * plan.prompt_tokens, plan.requests), speed)
    prompt_s = prompts.seconds(speed) - Work(prompts.serial_s).seconds(speed)
    step_s = STEP_S[variant.engine] + quantizing.stored_bytes(variant, shape) / (STEP_SHARE * speed.memory_bytes_per_s)
    closed = sum(prompt_s + plan.requests / level * plan.output_tokens * step_s for level in plan.concurrency)
    opened = sum(prompt_s + plan.requests / max(plan.concurrency) * plan.output_tokens * step_s / part for part in plan.open_loop)
    return profiles * (LOAD_S[variant.engine] + plan.repeats * closed) + plan.repeats * opened


STEP_S = {"openvino": 0.003, "vllm": 0.010}  # of a decoding step besides reading the weights
STEP_SHARE = 0.5  # of the bandwidth of a copy that decoding reaches
LOAD_S = {"openvino": 6, "vllm": 25}


def benchmark_bytes(recipe: Recipe, shape: Shape) -> float:
    """Of the largest variant: those that memory has no room for besides the others are loaded again each turn."""
    return max(evaluation_bytes(variant, shape, recipe.serve) for variant in recipe.variants.values())
