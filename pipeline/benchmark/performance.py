"""Is a quantized variant as much faster than the unquantized model on its engine as the recipe
asks? Pure.

The ratio of throughputs is taken round by round, since the variants of one round ran close together
in time; Student's one-sided bound of the mean log ratio must reach the limit."""

from __future__ import annotations

import math
from statistics import fmean, stdev

from scipy.stats import t as student

from pipeline import paths
from pipeline.benchmark.speed_statistics import closed_levels
from pipeline.recipe import Recipe, Variant
from pipeline.records import Benchmark, Level, Performance, read

REJECTED = ("NOT FASTER", "FAILED")


def of(recipe: Recipe, variant_name: str) -> Performance:
    """The verdict on a variant's speed from the stored benchmarks. Raises ArtifactError if one is
    missing."""
    variant = recipe.variants[variant_name]
    baseline = recipe.baseline(variant)
    own = read(paths.benchmark(recipe.name, variant_name), Benchmark)
    return performance(
        recipe,
        variant,
        own,
        read(paths.benchmark(recipe.name, baseline), Benchmark) if baseline else None,
    )


def performance(
    recipe: Recipe, variant: Variant, own: Benchmark, baseline: Benchmark | None
) -> Performance:
    """`baseline` is the benchmark of the unquantized variant on the same engine; None for that
    variant itself."""
    limit = recipe.gate.speedup.get(variant.weights)
    if not own.measured:
        return Performance(status="NOT MEASURED", reason=own.reason)
    if own.device != variant.target:
        reason = (
            f"not measured on its target: measured on {own.device}, made for {variant.target};"
            " neither pass nor fail"
        )
        return Performance(status="OFF TARGET", reason=reason)
    if baseline is None:
        return Performance(
            status="BASELINE", reason="unquantized: the speed that others are compared with"
        )
    if limit is None:
        return Performance(
            status="NOT ASKED", reason="the recipe asks for no speedup (gate.speedup)"
        )
    if not baseline.measured:
        return Performance(
            status="FAILED",
            reason=f"nothing to compare with: {baseline.variant}: {baseline.reason}",
        )
    return _compare(own, baseline, limit, recipe.gate.confidence)


def speedup(ours: list[float], theirs: list[float]) -> float:
    """The geometric mean over rounds of the ratio within a round."""
    return math.exp(fmean(math.log(a / b) for a, b in zip(ours, theirs, strict=True)))


def _compare(own: Benchmark, baseline: Benchmark, limit: float, confidence: float) -> Performance:
    ours, theirs = (
        closed_levels(benchmark.profiles["deployed"])[0] for benchmark in (own, baseline)
    )
    if own.trace_sha256 != baseline.trace_sha256 or ours.concurrency != theirs.concurrency:
        return Performance(
            status="FAILED", reason="not comparable: the two were not put to the same requests"
        )
    if own.machine.get("cpu") != baseline.machine.get("cpu") or own.device != baseline.device:
        return Performance(
            status="FAILED", reason="not comparable: the two were measured on different machines"
        )
    for name, level in ((own.variant, ours), (baseline.variant, theirs)):
        if level.failed or 0 in level.output_tokens_per_s.values:
            return Performance(
                status="FAILED",
                reason=f"{name}: {level.failed} of {level.requests} requests failed",
            )
    rounds = zip(ours.output_tokens_per_s.values, theirs.output_tokens_per_s.values, strict=True)
    ratios = [math.log(a / b) for a, b in rounds]
    if len(ratios) < 2:
        return Performance(
            status="FAILED", reason="one repeat has no spread: set benchmark.repeats to 2 or more"
        )
    half = float(student.ppf(confidence, len(ratios) - 1)) * stdev(ratios) / math.sqrt(len(ratios))
    bounds = [math.exp(fmean(ratios) + offset) for offset in (0, -half, half)]
    return _decided(bounds, limit, ours, baseline.variant, confidence)


def _decided(
    bounds: list[float], limit: float, level: Level, baseline: str, confidence: float
) -> Performance:
    speedup, low, high = bounds
    measured = (
        f"{speedup:.2f} times {baseline}'s output tokens/s at concurrency {level.concurrency}"
        f" ({confidence:.0%} bounds {low:.2f} to {high:.2f},"
        f" {len(level.output_tokens_per_s.values)} rounds)"
    )
    faster = low >= limit
    if faster:
        reason = f"{measured}: at least the {limit:g} that the recipe asks for"
    elif high < limit:
        reason = (
            f"accurate but not faster: {measured}, below the {limit:g} that the recipe asks for"
        )
    else:
        reason = (
            f"accurate but not shown to be faster: {measured}, the recipe asks for {limit:g}; more"
            " repeats could decide"
        )
    return Performance(
        status="FASTER" if faster else "NOT FASTER",
        reason=reason,
        concurrency=level.concurrency,
        speedup=speedup,
        low=low,
        high=high,
        limit=limit,
    )
