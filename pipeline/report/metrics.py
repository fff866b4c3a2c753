"""A few flat numbers a variant, for `dvc metrics`: what fits into one row of a terminal. The JSON
report has all. Pure."""

from __future__ import annotations

from pipeline.records import Check, Summary, VariantSummary
from pipeline.report.formatting import finite

# Of all texts, as deployed and of the weights alone.
WORST = {"accuracy_drop": max, "perplexity_ratio": max, "mean_kl": max, "top1_agreement": min}


def metrics(summary: Summary) -> dict[str, dict[str, str | float]]:
    """By variant: verdict, distance from the reference, size, and speed at the lowest load. What
    was not measured is left out."""
    return {name: _metrics(row) for name, row in summary.variants.items()}


def _metrics(row: VariantSummary) -> dict[str, str | float]:
    figures = {
        "speedup": row.performance.speedup,
        **_quality(row.verdict.checks),
        "size_mb": row.size_bytes / 1e6,
        **_speed(row),
    }
    known = {
        name: value
        for name, value in figures.items()
        if value is not None and finite(value) is not None
    }
    return {"verdict": row.verdict.status, "performance": row.performance.status, **known}


def _quality(checks: list[Check]) -> dict[str, float | None]:
    figures = {}
    for kind, worst in WORST.items():
        values = [
            check.value
            for check in checks
            if check.kind == kind and finite(check.value) is not None
        ]
        figures[kind] = worst(values) if values else None
    return figures


def _speed(row: VariantSummary) -> dict[str, float | None]:
    profile = row.benchmark.profiles.get("deployed")
    if profile is None:
        return {}
    figures: dict[str, float | None] = {
        "peak_memory_mb": profile.peak_memory_bytes and profile.peak_memory_bytes / 1e6
    }
    for level in row.levels()[:1]:
        at = level.concurrency
        figures[f"tokens_per_s_at_{at}"] = level.output_tokens_per_s.median
        figures[f"ttft_ms_at_{at}"] = level.ttft_ms.estimate.median if level.ttft_ms else None
    return figures
