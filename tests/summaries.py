"""A full summary of a recipe with six variants, as `pipeline.report.summarize` gives it, made from
the project's own records.

One variant fails and is not timed, one could not even be loaded, one is accurate but not faster.
Texts hold what would do harm in a page that does not escape them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import gate
from pipeline.records import (
    Benchmark,
    CalibrationSet,
    Checkpoint,
    Cost,
    Estimate,
    Evaluation,
    File,
    Latency,
    Layers,
    Level,
    Manifest,
    Performance,
    Profile,
    Rounding,
    ScoredReference,
    Summary,
    VariantSummary,
    Verdict,
)  # fmt: skip
from pipeline.report.comparison import compare
from pipeline.report.distribution import kl_distribution
from tests import evaluations as make

HARM = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
TASKS = ("sums", "facts")
MACHINE = {
    "cpu": "Example CPU",
    "cores": 16,
    "instruction_sets": ["avx2", "amx_int8"],
    "memory_bytes": 64 * 10**9,
    "python": "3.11.7",
}
CONCURRENCY = (1, 4, 8)
RANDOM = np.random.default_rng(0)
NLL = RANDOM.normal(64, 6, make.WINDOWS)
SCORES = (RANDOM.random(3000) < 0.8).astype(float)
# Name: engine, weights, quantizer, size in MB, typical KL, items lost, tokens/s at one request in
# flight
VARIANTS = {
    "ov-bf16": ("openvino", "bf16", None, 1600, 2e-5, 0, 40.0),
    "ov-int8": ("openvino", "int8", "openvino", 850, 3e-4, 3, 62.0),
    "ov-int4": ("openvino", "int4", "openvino", 520, 6e-3, 20, 88.0),
    "vllm-bf16": ("vllm", "bf16", None, 1600, 4e-5, 1, 36.0),
    "gptq-int4": ("vllm", "int4", "gptq", 540, 7e-3, 24, 37.0),
    "rtn-int2": ("vllm", "int2", "rounding", 300, 0.4, 700, 0.0),
}
PERFORMANCE = {
    "ov-bf16": Performance(status="BASELINE", reason="unquantized"),
    "ov-int8": Performance(
        status="FASTER",
        reason="1.55 times as fast (1.50 to 1.60)",
        concurrency=8,
        speedup=1.55,
        low=1.5,
        high=1.6,
    ),
    "ov-int4": Performance(
        status="FASTER",
        reason="2.20 times as fast (2.10 to 2.30)",
        concurrency=8,
        speedup=2.2,
        low=2.1,
        high=2.3,
    ),
    "vllm-bf16": Performance(status="BASELINE", reason="unquantized"),
    "gptq-int4": Performance(
        status="NOT FASTER",
        reason="1.03 times as fast (0.97 to 1.09), asked for 1.2",
        speedup=1.03,
        limit=1.2,
    ),
    "rtn-int2": Performance(status="NOT MEASURED", reason="the gate says FAIL"),
}


def rows() -> dict[str, Any]:
    """The variants as JSON, for tests to change."""
    reference = make.reference(NLL, [make.draws(SCORES, task) for task in TASKS])
    return {name: _variant(name, reference) for name in VARIANTS}


def summary(variants: dict[str, Any] | None = None, goal: str = "smallest") -> Summary:
    found = {
        name: VariantSummary.model_validate(row)
        for name, row in (rows() if variants is None else variants).items()
    }
    return Summary(
        recipe="example",
        goal=goal,
        checkpoint=Checkpoint(
            repo="someone/model",
            revision="0" * 40,
            path=None,
            architecture="LlamaForCausalLM",
            dtype="BF16",
            parameters=8 * 10**8,
            files=[File(path="model.safetensors", size_bytes=16 * 10**8, sha256="a" * 64)],
        ),
        calibration=CalibrationSet(
            prompts="prompts",
            seed=0,
            prompts_used=9,
            sha256="b" * 64,
            overlap=0.0004,
            overlap_limit=0.05,
            rows=64,
        ),
        limits={
            "mean_kl": {"bf16": 0.001, "int8": 0.002, "int4": 0.02, "int2": 0.02},
            "length_ratio": [0.9, 1.1],
            "confidence": 0.95,
            "on_inconclusive": "block",
        },
        reference=ScoredReference(
            **_quality(),
            settings={"reference": {"dtype": "float32"}},
            versions={"torch": "2.13.0"},
            wall_s=18.0,
        ),
        variants=found,
        comparison=compare(goal, found),
    )


def _variant(name: str, reference: Evaluation) -> dict[str, Any]:
    engine, weights, quantizer, megabytes, _, _, speed = VARIANTS[name]
    found = _evaluation(name)
    verdict = _verdict(name, reference, found)
    benchmark = _benchmark(name, engine, megabytes, speed)
    return {
        "engine": engine,
        "quantizer": quantizer,
        "answered_by": "a tool" if quantizer else "nothing",
        "weights": weights,
        "size_bytes": megabytes * 10**6,
        "size_ratio": megabytes / 1600,
        "speedup": {},
        **_quality(),
        "verdict": verdict.model_dump(mode="json"),
        "performance": PERFORMANCE[name].model_dump(mode="json"),
        "benchmark": benchmark.model_dump(mode="json"),
        "http": _http(benchmark) if name == "ov-int4" else None,
        "kl_distribution": {
            text: one.model_dump(mode="json") for text, one in kl_distribution(found).items()
        },
        "flipped": _flipped(verdict),
        "manifest": _manifest(name, engine, weights, quantizer).model_dump(mode="json"),
        "evaluation": {
            "settings": {"deployed": {"threads": None}},
            "versions": {engine: "1.0"},
            "wall_s": 17.0,
        },
        "worst_tokens": [_worst(place) for place in range(8)] if found.views else [],
    }


def _evaluation(name: str) -> Evaluation:
    _, _, _, _, typical, lost, _ = VARIANTS[name]
    drawn = np.random.default_rng(
        list(VARIANTS).index(name)
    )  # its own, so that a figure does not hang on what ran before
    values = np.minimum(drawn.lognormal(np.log(typical), 1.0, make.SHAPE), 1.9)
    kl = (
        np.sort(values, axis=None).reshape(make.SHAPE[::-1]).T
    )  # windows alike: else 512 positions bound no 99th percentile
    tasks = [make.draws(make.flipped(SCORES, lost, lost // 2), task) for task in TASKS]
    return make.candidate(NLL + typical, tasks, kl, variant=name)


def _verdict(name: str, reference: Evaluation, found: Evaluation) -> Verdict:
    weights = VARIANTS[name][1]
    loose = weights in ("int4", "int2")
    limits = make.limits(
        mean_kl=0.02 if loose else 0.002,
        p99_kl=0.3 if loose else 0.02,
        items=dict.fromkeys(TASKS, (3000, 3000)),
        quantized=False,
    )
    return gate.decide(reference, found, None, limits)


def estimate(middle: float, spread: float = 0.03) -> Estimate:
    return Estimate(
        median=middle,
        low=middle * (1 - spread),
        high=middle * (1 + spread),
        cv=spread,
        values=[middle] * 5,
    )


def latency(middle: float) -> Latency:
    return Latency(estimate=estimate(middle), percentiles={"50": middle, "95": middle * 1.4}, n=80)


def level(speed: float, concurrency: int, fraction: float | None = None) -> Level:
    rate = speed * concurrency**0.7 / 32
    per_s = estimate(speed * concurrency**0.7)
    return Level(
        loop="closed" if fraction is None else "open",
        concurrency=concurrency if fraction is None else None,
        fraction=fraction,
        rate_per_s=None if fraction is None else rate * fraction,
        requests=80,
        failed=0,
        errors=[],
        ttft_ms=latency(900 / speed * concurrency),
        tpot_ms=latency(1000 / speed * concurrency**0.3),
        itl_ms=None,
        e2e_ms=latency(40000 / speed),
        output_tokens_per_s=per_s,
        total_tokens_per_s=per_s,
        requests_per_s=estimate(rate),
        goodput_per_s=None if fraction is None else estimate(rate * fraction * 0.9),
        others_share=0.01,
    )


def _benchmark(name: str, engine: str, megabytes: float, speed: float) -> Benchmark:
    common: dict[str, Any] = {
        "recipe": "example",
        "variant": name,
        "engine": engine,
        "over": "in process",
    }
    if not speed:
        return Benchmark(**common, measured=False, reason="the gate says FAIL")
    levels = [
        *(level(speed, count) for count in CONCURRENCY),
        *(level(speed, 8, fraction) for fraction in (0.5, 0.8)),
    ]
    profile = Profile(
        settings={"threads": 16},
        load_s=estimate(4 if engine == "vllm" else 1),
        peak_memory_bytes=int(megabytes * 1.3e6),
        levels=levels,
    )
    profiles = {"deployed": profile} | ({"matched": profile} if engine == "openvino" else {})
    costs = [
        Cost(
            currency="USD",
            price_per_hour=1.5,
            utilisation=busy,
            per_million_output_tokens=100 / speed / busy,
            per_million_tokens=40 / speed / busy,
        )
        for busy in (0.3, 0.6, 0.9)
    ]
    return Benchmark(
        **common,
        measured=True,
        reason="the gate says PASS",
        artifact_sha256="c" * 64,
        device="cpu",
        size_bytes=int(megabytes * 10**6),
        versions={engine: "1.0"},
        machine=MACHINE,
        trace_sha256="d" * 64,
        profiles=profiles,
        costs=costs,
        notices=["Other processes took 4% of the machine's time."],
    )


def _http(benchmark: Benchmark) -> dict[str, Any]:
    return benchmark.model_copy(
        update={"over": "http", "notices": ["Measured with one client."]}
    ).model_dump(mode="json")


def _quality() -> dict[str, Any]:
    tasks = {task: {"accuracy": 0.8, "standard_error": 0.007, "n": 3000} for task in TASKS}
    return {"perplexity": {"x": 7.4}, "bits_per_byte": {"x": 0.7}, "tasks": tasks}


def _flipped(verdict: Verdict) -> list[dict[str, Any]]:
    return [
        {
            "task": task.name,
            "doc_id": name.rpartition("/")[2],
            "lost": lost,
            "text": f"Question: {HARM}\nAnswer: → {name}",
        }
        for task in verdict.tasks
        for lost, names in ((True, task.lost), (False, task.won))
        for name in names[:15]
    ]


ROUNDING = Rounding(format="openvino", bits=4, group_size=128, symmetric=False, outside=["int8"])


def _manifest(name: str, engine: str, weights: str, quantizer: str | None) -> Manifest:
    return Manifest(
        recipe="example",
        variant=name,
        engine=engine,
        device="cpu",
        quantizer=quantizer,
        answered_by="a tool" if quantizer else "nothing",
        weights=weights,
        requested={"group_size": 128} if quantizer else {},
        resolved={"group_size": 128, "nncf": {"mode": "int4_asym"}} if quantizer else {},
        rounding=ROUNDING if quantizer else None,
        notes=["a note"],
        layers=Layers(expected=21, quantized=21, skipped=[]),
        stored_types={weights: 21},
        versions={"tool": "3.4.0"},
        checkpoint_sha256="a" * 64,
        samples_sha256="b" * 64,
        files=[],
        wall_s=12.0,
        peak_memory_bytes=10**9,
        origin=make.ORIGIN,
    )


def _worst(place: int) -> dict[str, Any]:
    return {
        "text": "x",
        "window": place,
        "position": 10 * place,
        "kl_nats": 2.5 / (place + 1),
        "context": f"Who lives {HARM} here?\nThe",
        "token": " farmer",
        "reference_probability": 0.9,
        "probability": 0.1,
        "reference_top": " farmer",
        "top": "\n",
    }
