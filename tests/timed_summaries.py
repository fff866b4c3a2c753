"""Report summaries whose figures are known to the digit, made from the records that a run would
have written.

`summary()` is a run of seven variants on one machine; the other functions make the parts of others.
tests/summaries.py has one for the page, with quality in full."""

from __future__ import annotations

from typing import Any

from pipeline import records
from pipeline.benchmark import speed_statistics
from pipeline.recipe import Price
from pipeline.report.comparison import compare

ORIGIN = records.Origin(
    revision=records.Revision(commit="c" * 40, changed=[]),
    recipe_sha256="r",
    environment="openvino",
    environment_sha256="e",
)
MACHINE = {"cpu": "X", "cores": 2, "instruction_sets": ["avx2", "avx512f"]}
OPENVINO = {"openvino": "2026.4.1", "openvino-genai": "2026.4.1.0"}
VLLM = {"vllm": "0.32.0+cpu", "torch": "2.13.0+cpu"}
OPENVINO_SETTINGS = {
    "device": "cpu",
    "inference_precision_hint": "<Type: 'bfloat16'>",
    "kv_cache_precision": "<Type: 'uint8_t'>",
    "dynamic_quantization_group_size": "32",
    "inference_num_threads": "2",
    "cache_size": 1,
    "enable_prefix_caching": False,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 64,
}
MATCHED_SETTINGS = {
    **OPENVINO_SETTINGS,
    "kv_cache_precision": "<Type: 'bfloat16'>",
    "dynamic_quantization_group_size": "0",
}
VLLM_SETTINGS = {
    "device": "cpu",
    "dtype": "torch.bfloat16",
    "quantization": "auto_gptq",
    "kv_cache_dtype": "auto",
    "max_model_len": 512,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "enable_prefix_caching": False,
    "enforce_eager": True,
    "kv_cache_gib": 1,
    "threads": "0,1",
    "int4_w4a8": "1",
}
NNCF = records.Rounding(
    format="openvino", bits=4, group_size=128, symmetric=False, outside=["int8"]
)
INT8 = records.Rounding(format="openvino", bits=8, group_size=-1, symmetric=False, outside=["int8"])
GPTQ = records.Rounding(format="gptq", bits=4, group_size=128, symmetric=True, outside=["bf16"])
AWQ = records.Rounding(format="awq", bits=4, group_size=128, symmetric=False, outside=["bf16"])
ROUNDING = records.Rounding(
    format="simulated", bits=2, group_size=128, symmetric=False, outside=["bf16"]
)
PRICE = Price(per_hour=0.5, utilisations=[0.3, 0.6, 0.9])
VIEWS = ("deployed", "weights")
SPEEDUP = {"ratio": 1.5, "low": 1.45, "high": 1.55}


def estimate(median: float, spread: float = 0.01, repeats: int = 5) -> records.Estimate:
    """Values evenly around the median, up to `spread` of it away; one repeat has no interval."""
    half = (repeats - 1) / 2 or 1
    return speed_statistics.estimate(
        [
            median * (1 + spread * (place - half) / half) if repeats > 1 else median
            for place in range(repeats)
        ]
    )


def latency(median: float, **how: Any) -> records.Latency:
    return records.Latency(
        estimate=estimate(median, **how), percentiles={"p50": median, "p90": 2 * median}, n=40
    )


def level(
    speed: float,
    concurrency: int | None = 1,
    fraction: float | None = None,
    failed: int = 0,
    **how: Any,
) -> records.Level:
    """Closed loop at a concurrency, or open loop at a fraction; latencies follow from the speed."""
    return records.Level(
        loop="open" if fraction else "closed",
        concurrency=concurrency,
        fraction=fraction,
        rate_per_s=fraction and fraction * speed / 32,
        requests=40,
        failed=failed,
        errors=["it broke"] if failed else [],
        ttft_ms=latency(2000 / speed, **how),
        tpot_ms=latency(1000 / speed, **how),
        itl_ms=latency(1000 / speed, **how),
        e2e_ms=latency(33000 / speed, **how),
        output_tokens_per_s=estimate(speed, **how),
        total_tokens_per_s=estimate(3 * speed, **how),
        requests_per_s=estimate(speed / 32, **how),
        goodput_per_s=estimate(speed / 40, **how) if fraction else None,
        others_share=0.01,
    )


def profile(speed: float, settings: dict[str, Any], failed: int = 0, **how: Any) -> records.Profile:
    """Two closed levels, of which the lower may fail, and an open one."""
    levels = [
        level(speed, 1, failed=failed, **how),
        level(3 * speed, 4, **how),
        level(3 * speed, None, 0.8, **how),
    ]
    return records.Profile(
        settings=settings, load_s=estimate(1.0, repeats=1), peak_memory_bytes=10**9, levels=levels
    )


def benchmark(
    name: str, engine: str, size: int, profiles: dict[str, records.Profile], **change: Any
) -> records.Benchmark:
    usual = {
        "recipe": "tiny",
        "variant": name,
        "engine": engine,
        "over": "in process",
        "measured": True,
        "reason": "the gate says PASS",
        "artifact_sha256": name,
        "device": "cpu",
        "size_bytes": size,
        "versions": OPENVINO if engine == "openvino" else VLLM,
        "machine": MACHINE,
        "trace_sha256": "trace",
        "profiles": profiles,
        "costs": speed_statistics.costs(profiles["deployed"], PRICE),
        "notices": speed_statistics.notices(profiles),
    }
    return records.Benchmark(**{**usual, **change})


def check(name: str, value: float, status: records.Status = "PASS") -> records.Check:
    return records.Check(
        **records.Question.named(name)._asdict(),
        status=status,
        value=value,
        low=0.9 * value,
        high=1.1 * value,
        limit=1.0,
        n=100,
        method="m",
        reason=f"{name} is {value:g}",
    )


def verdict(name: str, kl: float, status: records.Status = "PASS") -> records.Verdict:
    """In the weights view everything is half as far from the reference."""
    checks = [check("accuracy_drop", kl, status)]
    for view, part in zip(VIEWS, (1.0, 0.5), strict=True):
        values = {
            "perplexity_ratio": 1 + part * kl,
            "mean_kl": part * kl,
            "p99_kl": 10 * part * kl,
            "top1_agreement": 1 - part * kl,
        }
        checks += [check(f"{kind} {view} text", value) for kind, value in values.items()]
    task = records.TaskComparison(
        name="world_facts",
        n=100,
        reference_accuracy=0.8,
        accuracy=0.8 - kl,
        recovery=0.99,
        mcnemar_p=0.5,
        lost=["world_facts/1"],
        won=[],
        length_ratio=None,
    )
    tails = [
        records.Tails(view=view, text="text", quantiles={"0.01": -0.1, "0.5": 0.0, "0.99": 0.1})
        for view in VIEWS
    ]
    return records.Verdict(
        recipe="tiny",
        variant=name,
        status=status,
        checks=checks,
        tasks=[task],
        tails=tails,
        reference_sha256="source",
        candidate_sha256=name,
    )


def manifest(
    name: str, engine: str, quantizer: str | None, weights: str, rounding: records.Rounding | None
) -> records.Manifest:
    return records.Manifest(
        recipe="tiny",
        variant=name,
        engine=engine,
        device="cpu",
        quantizer=quantizer,
        answered_by="optimum-intel with NNCF" if engine == "openvino" else "GPTQModel",
        weights=weights,
        requested={},
        resolved={"mode": "as asked"},
        rounding=rounding,
        notes=["a note"],
        layers=records.Layers(expected=21, quantized=21, skipped=[]),
        stored_types={weights: 21},
        versions={"nncf": "3.4.0"} if engine == "openvino" else {"gptqmodel": "7.6.0"},
        checkpoint_sha256="source",
        samples_sha256="samples",
        files=[],
        wall_s=12,
        peak_memory_bytes=10**9,
        origin=ORIGIN,
    )


def timed(
    name: str, engine: str, speed: float | None, size: int, status: str, **how: Any
) -> records.Benchmark:
    """`speed` None: not benchmarked. OpenVINO's is timed at vLLM's precision too, at 9/10 of its
    speed."""
    if speed is None:
        return records.Benchmark(
            recipe="tiny",
            variant=name,
            engine=engine,
            over="in process",
            measured=False,
            reason=f"the gate says {status}",
        )
    if engine == "vllm":
        return benchmark(name, engine, size, {"deployed": profile(speed, VLLM_SETTINGS, **how)})
    both = {
        "deployed": profile(speed, OPENVINO_SETTINGS, **how),
        "matched": profile(0.9 * speed, MATCHED_SETTINGS, **how),
    }
    return benchmark(name, engine, size, both)


def variant(
    name: str,
    engine: str = "openvino",
    quantizer: str | None = "openvino",
    weights: str = "int4",
    speed: float | None = 300.0,
    kl: float = 0.006,
    size: int = 1_000_000,
    rounding: records.Rounding | None = NNCF,
    status: records.Status = "PASS",
    **how: Any,
) -> dict[str, Any]:
    """One row of the summary; `how` says how it was timed (failed, repeats, spread)."""
    measured = timed(name, engine, speed, size, status, **how)
    made = manifest(name, engine, quantizer, weights, rounding if quantizer else None)
    word = "NOT MEASURED" if speed is None else "BASELINE" if quantizer is None else "NOT ASKED"
    judged = records.Performance(status=word, reason=f"what is said of {name}'s speed")
    own = OPENVINO_SETTINGS if engine == "openvino" else VLLM_SETTINGS
    worst = {
        "text": "text",
        "window": 1,
        "position": 2,
        "kl_nats": 3.2,
        "context": " colour of X is",
        "token": " red",
        "reference_probability": 0.68,
        "probability": 0.01,
        "reference_top": " red",
        "top": " indigo",
    }
    return {
        "engine": engine,
        "quantizer": quantizer,
        "answered_by": made.answered_by,
        "weights": weights,
        "size_bytes": size,
        "perplexity": {"text": 1.7 * (1 + kl)},
        "bits_per_byte": {"text": 0.23 * (1 + kl)},
        "tasks": {"world_facts": {"accuracy": 0.8 - kl, "standard_error": 0.01, "n": 1200}},
        "verdict": verdict(name, kl, status).model_dump(mode="json"),
        "benchmark": measured.model_dump(mode="json"),
        "performance": judged.model_dump(mode="json"),
        "http": None,
        "manifest": made.model_dump(mode="json"),
        "worst_tokens": [worst],
        "size_ratio": 0.5,
        "evaluation": {
            "settings": {"deployed": own, "weights": {"precision": "float32"}},
            "versions": measured.versions,
            "wall_s": 17.0,
        },
        "speedup": {}
        if speed is None
        else {"1": SPEEDUP, "4": {"ratio": 1.4, "low": 0.9, "high": 2.1}},
    }


def variants() -> dict[str, Any]:
    """Two engines, 16, 8 and 4 bits; ov-int8 and ov-int4 are equally fast, and rounded-int2 did not
    pass."""
    return {
        "ov-bf16": variant(
            "ov-bf16", quantizer=None, weights="bf16", speed=200, kl=0.0001, size=2_000_000
        ),
        "ov-int8": variant(
            "ov-int8", weights="int8", speed=301, kl=0.0005, size=1_200_000, rounding=INT8
        ),
        "ov-int4": variant("ov-int4", speed=300, kl=0.006),
        "vllm-bf16": variant("vllm-bf16", "vllm", None, "bf16", 50, 0.0002, 2_000_000),
        "gptq-int4": variant("gptq-int4", "vllm", "gptq", "int4", 60, 0.005, 900_000, GPTQ),
        "awq-int4": variant("awq-int4", "vllm", "awq", "int4", 61, 0.004, 900_000, AWQ),
        "rounded-int2": variant(
            "rounded-int2", "openvino", "rounding", "int2", None, 0.5, 800_000, ROUNDING, "FAIL"
        ),
    }


def summary(
    rows: dict[str, Any] | None = None, goal: str = "smallest", **checkpoint: Any
) -> records.Summary:
    """As artifacts/reports/RECIPE.json holds it. `checkpoint` changes the source: repo, revision,
    path, license."""
    source = {
        "repo": None,
        "revision": None,
        "path": "recipes/tiny/checkpoint",
        "architecture": "LlamaForCausalLM",
        "dtype": "BF16",
        "parameters": 623488,
        "files": [],
    }
    measured = {
        "perplexity": {"text": 1.7},
        "bits_per_byte": {"text": 0.23},
        "tasks": {"world_facts": {"accuracy": 0.8, "standard_error": 0.01, "n": 1200}},
    }
    made = variants() if rows is None else rows
    found = {name: records.VariantSummary.model_validate(row) for name, row in made.items()}
    return records.Summary(
        recipe="tiny",
        goal=goal,
        checkpoint=records.Checkpoint(**{**source, **checkpoint}),
        calibration=records.CalibrationSet(
            prompts="tiny-prompts",
            seed=0,
            prompts_used=253,
            sha256="samples",
            overlap=0.0004,
            overlap_limit=0.05,
            rows=64,
        ),
        limits={"confidence": 0.95},
        reference=records.ScoredReference(
            **measured, settings={"reference": {"dtype": "float32"}}, versions={}, wall_s=18.0
        ),
        variants=found,
        comparison=compare(goal, found),
    )
