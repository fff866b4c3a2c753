"""What the reference, an evaluation and the benchmark take: time, and the memory that no file backs."""

from __future__ import annotations

from typing import NamedTuple

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


class Engine(NamedTuple):
    """`start_s`: imports, lm-eval, a load of the smallest model; `serial_ns`: of one core, a parameter, for loading, compiling and
    the load check; `share`: of the machine's product rate in `precision`, by the stored weights, what is not named computing
    like bf16.
    """

    start_s: float
    serial_ns: float
    precision: str
    share: dict[str, float]


REFERENCE = Engine(10, 4, "float32", {"bf16": 0.65})
DEPLOYED = {
    "openvino": Engine(15, 40, "bfloat16", {"bf16": 0.5}),
    "vllm": Engine(18, 40, "bfloat16", {"bf16": 0.25, "int4": 0.15}),  # whose 4-bit kernels are for AMX
}
WEIGHTS = {
    "openvino": Engine(2, 10, "float32", {"bf16": 0.8}),
    "vllm": Engine(3, 20, "float32", {"bf16": 0.65}),
}

# Memory: of imports and an engine without a model; of logits and what is made of them, at most, in float32 rows.
BASE_BYTES = {"reference": 0.5e9, "openvino": 0.65e9, "vllm": 1.5e9}
LOGITS_BYTES = {"reference": 0.13e9, "openvino": 0.67e9, "vllm": 0.13e9}


def passing(engine: Engine, weights: str, shape: Shape, tokens: Tokens, speed: Speed) -> Work:
    """Of loading the model and putting the tokens through it."""
    rate = speed.bfloat16_flops if engine.precision == "bfloat16" else speed.float32_flops
    share = engine.share.get(weights, engine.share["bf16"])
    flops = forward(shape, tokens) / share * (speed.float32_flops / rate)
    rows = ROW_PASSES * FLOAT32 * shape.vocabulary * tokens.rows
    return Work(engine.start_s + engine.serial_ns * 1e-9 * shape.parameters, flops, rows)


def reference(shape: Shape, tokens: Tokens, speed: Speed) -> Work:
    return passing(REFERENCE, "bf16", shape, tokens, speed)


def reference_bytes(shape: Shape) -> float:
    return _besides_bytes("reference", shape) + FLOAT32 * shape.parameters


def _besides_bytes(engine: str, shape: Shape) -> float:
    """Of what is not the model's weights. A small vocabulary has small logits."""
    return BASE_BYTES[engine] + min(LOGITS_BYTES[engine], ROWS * FLOAT32 * shape.vocabulary)


def evaluation(variant: Variant, shape: Shape, deployed: Tokens, compared: Tokens, speed: Speed) -> Work:
    """Both views: as deployed, then the compared windows in float32."""
    first = passing(DEPLOYED[variant.engine], variant.weights, shape, deployed, speed)
    read = deployed.decoded * quantizing.stored_bytes(variant, shape)
    return first.plus(passing(WEIGHTS[variant.engine], "bf16", shape, compared, speed)).plus(Work(read_bytes=read))


def evaluation_bytes(variant: Variant, shape: Shape, serve: Serve) -> float:
    """The larger of the two views. OpenVINO keeps quantized weights as they are in float32 arithmetic too, and takes its KV cache
    as it fills; vLLM's is taken whole and goes with the engine."""
    kept = variant.engine == "openvino" and variant.weights != "bf16"
    weights = (2 if kept else FLOAT32) * shape.parameters
    cache = serve.kv_cache_gib * GIB if variant.engine == "vllm" else 0
    return _besides_bytes(variant.engine, shape) + max(weights, 2 * shape.parameters + cache)


def benchmark(recipe: Recipe, shape: Shape, speed: Speed) -> float:
    """Seconds of all variants' turns: prompts are products, each decoding step reads all weights once."""
    return sum(_turns(variant, recipe, shape, speed) for variant in recipe.variants.values())


def _turns(variant: Variant, recipe: Recipe, shape: Shape, speed: Speed) -> float:
    plan, engine = recipe.benchmark, DEPLOYED[variant.engine]
    profiles = 2 if plan.matched and variant.engine == "openvino" else 1
    prompts = passing(engine, variant.weights, shape, Tokens(plan.requests * plan.prompt_tokens, plan.requests), speed)
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
