"""What the reference, an evaluation and the benchmark take: time, and the memory that no file
backs."""

from __future__ import annotations

from pipeline.capabilities import Passes
from pipeline.planning.estimate import quantizing
from pipeline.planning.estimate.rates import Work, forward
from pipeline.planning.estimate.shape import Shape
from pipeline.planning.estimate.workload import Tokens
from pipeline.recipe import Recipe, Serve, Variant
from pipeline.records import Speed

GIB = 1 << 30
FLOAT32 = 4  # bytes
ROWS = 2048  # of logits at a time
ROW_PASSES = 8  # over the log-probabilities of a row, in float32: soft-max, comparison


REFERENCE = Passes(10, 4, "float32", {"bf16": 0.65})
REFERENCE_BASE_BYTES, REFERENCE_LOGITS_BYTES = (
    0.5e9,
    0.13e9,
)  # as an engine's (pipeline/capabilities.py)


def passing(engine: Passes, weights: str, shape: Shape, tokens: Tokens, speed: Speed) -> Work:
    """Of loading the model and putting the tokens through it. Where the machine has no instructions
    for bfloat16, torch emulates its products at a hundredth of float32's rate, and engines compute
    in float32."""
    native = max(speed.bfloat16_flops, speed.float32_flops)
    rate = native if engine.precision == "bfloat16" else speed.float32_flops
    share = engine.share.get(weights, engine.share["bf16"])
    flops = forward(shape, tokens) / share * (speed.float32_flops / rate)
    rows = ROW_PASSES * FLOAT32 * shape.vocabulary * tokens.rows
    return Work(engine.start_s + engine.serial_ns * 1e-9 * shape.parameters, flops, rows)


def reference(shape: Shape, tokens: Tokens, speed: Speed) -> Work:
    return passing(REFERENCE, "bf16", shape, tokens, speed)


def reference_bytes(shape: Shape) -> float:
    return (
        _besides_bytes(REFERENCE_BASE_BYTES, REFERENCE_LOGITS_BYTES, shape)
        + FLOAT32 * shape.parameters
    )


def _besides_bytes(base_bytes: float, logits_bytes: float, shape: Shape) -> float:
    """Of what is not the model's weights: imports, an engine without a model, logits. A small
    vocabulary has small logits."""
    return base_bytes + min(logits_bytes, ROWS * FLOAT32 * shape.vocabulary)


def evaluation(
    variant: Variant, shape: Shape, deployed: Tokens, compared: Tokens, speed: Speed
) -> Work:
    """Both views: as deployed, then the compared windows in float32."""
    costs = variant.served_by.costs
    first = passing(costs.deployed, variant.weights, shape, deployed, speed)
    read = deployed.decoded * quantizing.stored_bytes(variant, shape)
    return first.plus(passing(costs.weights, "bf16", shape, compared, speed)).plus(
        Work(read_bytes=read)
    )


def evaluation_bytes(variant: Variant, shape: Shape, serve: Serve) -> float:
    """The larger of the two views. A KV cache that is taken whole goes with the engine, before the
    other view."""
    costs = variant.served_by.costs
    kept = costs.keeps_quantized and variant.weights != "bf16"
    weights = (2 if kept else FLOAT32) * shape.parameters
    cache = serve.kv_cache_gib * GIB if costs.takes_cache else 0
    compiling = 0 if serve.eager else costs.compiling_bytes
    return _besides_bytes(costs.base_bytes, costs.logits_bytes, shape) + max(
        weights, 2 * shape.parameters + cache + compiling
    )


def benchmark(recipe: Recipe, shape: Shape, speed: Speed) -> float:
    """Seconds of all variants' turns: prompts are products, each decoding step reads all weights
    once."""
    return sum(_turns(variant, recipe, shape, speed) for variant in recipe.variants.values())


def _turns(variant: Variant, recipe: Recipe, shape: Shape, speed: Speed) -> float:
    plan, engine = recipe.benchmark, variant.served_by
    profiles = 2 if plan.matched and engine.own_precision else 1
    prompts = passing(
        engine.costs.deployed,
        variant.weights,
        shape,
        Tokens(plan.requests * plan.prompt_tokens, plan.requests),
        speed,
    )
    prompt_s = prompts.seconds(speed) - Work(prompts.serial_s).seconds(speed)
    step_s = engine.costs.step_s + quantizing.stored_bytes(variant, shape) / (
        STEP_SHARE * speed.memory_bytes_per_s
    )
    closed = sum(
        prompt_s + plan.requests / level * plan.output_tokens * step_s for level in plan.concurrency
    )
    opened = sum(
        prompt_s + plan.requests / max(plan.concurrency) * plan.output_tokens * step_s / part
        for part in plan.open_loop
    )
    return profiles * (engine.costs.load_s + plan.repeats * closed) + plan.repeats * opened


STEP_SHARE = 0.5  # of the bandwidth of a copy that decoding reaches


def benchmark_bytes(recipe: Recipe, shape: Shape) -> float:
    """Of the largest variant: those that memory has no room for besides the others are loaded again
    each turn."""
    return max(
        evaluation_bytes(variant, shape, recipe.serve) for variant in recipe.variants.values()
    )
