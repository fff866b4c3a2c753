"""A few flat numbers a variant, for `dvc metrics`: what fits into one row of a terminal. The JSON report has all. Pure."""

from __future__ import annotations

from typing import Any

from pipeline.report.measures import closed_levels
from pipeline.report.words import finite

WORST = {"perplexity_ratio": max, "mean_kl": max, "top1_agreement": min}  # of all texts, as deployed and of the weights alone


def metrics(summary: dict[str, Any]) -> dict[str, dict[str, str | float]]:
    """By variant: verdict, distance from the reference, size, and speed at the lowest load. What was not measured is left out."""
    return {name: _metrics(row) for name, row in summary["variants"].items()}


def _metrics(row: dict[str, Any]) -> dict[str, str | float]:
    found = {"verdict": row["verdict"]["status"], "performance": row["performance"]["status"]}
    figures = {"speedup": row["performance"]["speedup"], **_quality(row["verdict"]["checks"]), "size_mb": row["size_bytes"] / 1e6}
    profile = row["benchmark"]["profiles"].get("deployed")
    figures |= _speed(profile) if profile else {}
    return found | {name: value for name, value in figures.items() if finite(value) is not None}


def _quality(checks: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {check["name"]: check["value"] for check in checks if check["name"] == "accuracy drop"}
    found = {name.replace(" ", "_"): value for name, value in found.items()}
    for name, worst in WORST.items():
        values = [check["value"] for check in checks if check["name"].startswith(f"{name} ") and finite(check["value"]) is not None]
        found[name] = worst(values) if values else None
    return found


def _speed(profile: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"peak_memory_mb": profile["peak_memory_bytes"] / 1e6}
    for level in closed_levels(profile)[:1]:
        at = level["concurrency"]
        found[f"tokens_per_s_at_{at}"] = level["output_tokens_per_s"]["median"]
        found[f"ttft_ms_at_{at}"] = level["ttft_ms"] and level["ttft_ms"]["estimate"]["median"]
    return found
