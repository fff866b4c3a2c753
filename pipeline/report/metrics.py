"""Flat numbers for `dvc metrics` and `dvc plots`. Pure."""

from __future__ import annotations

from typing import Any

from pipeline.report.measures import closed_levels
from pipeline.report.words import finite

NO_LEVEL: dict[str, Any] = {"concurrency": None, "tokens_per_s": None, "ttft_ms": None, "tpot_ms": None}


def metrics(summary: dict[str, Any]) -> dict[str, Any]:
    """By variant, for `dvc metrics show` and `dvc metrics diff`."""
    return {name: _metrics(row) for name, row in summary["variants"].items()}


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    checks = {check["name"].replace(" ", "_"): check["value"] for check in row["verdict"]["checks"]}
    found = {"verdict": row["verdict"]["status"], "performance": row["performance"]["status"], **checks}
    found["size_mb"] = row["size_bytes"] / 1e6
    if row["performance"]["speedup"] is not None:
        found["speedup"] = row["performance"]["speedup"]
    profile = row["benchmark"]["profiles"].get("deployed")
    return found | (_speed(profile) if profile else {})


def _speed(profile: dict[str, Any]) -> dict[str, float]:
    found = {"load_s": profile["load_s"]["median"], "peak_memory_mb": profile["peak_memory_bytes"] / 1e6}
    for level in profile["levels"]:
        at = f"{level['concurrency']}" if level["loop"] == "closed" else f"open_{level['fraction']:g}"
        found[f"tokens_per_s_at_{at}"] = level["output_tokens_per_s"]["median"]
        for name in ("ttft_ms", "tpot_ms"):
            if level[name] is not None:
                found[f"{name}_at_{at}"] = level[name]["estimate"]["median"]
        if level["goodput_per_s"] is not None:
            found[f"goodput_per_s_at_{at}"] = level["goodput_per_s"]["median"]
    return found


def plots(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of two plots. All rows of one have the same keys, and none is empty: `dvc plots` can read nothing else."""
    rows = summary["variants"].items()
    return {
        "speed": [point for name, row in rows for point in _speeds(name, row)],
        "quality": [point for name, row in rows for point in _qualities(name, row, list(summary["reference"]["perplexity"]))],
    }


def _levels(row: dict[str, Any]) -> list[dict[str, Any]]:
    profile = row["benchmark"]["profiles"].get("deployed")
    return closed_levels(profile) if profile else []


def _speeds(name: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """A variant that was not timed has one row without figures."""
    points = [
        {
            "concurrency": level["concurrency"],
            "tokens_per_s": level["output_tokens_per_s"]["median"],
            "ttft_ms": _median(level["ttft_ms"]),
            "tpot_ms": _median(level["tpot_ms"]),
        }
        for level in _levels(row)
    ]
    return [{"variant": name, **point} for point in points or [NO_LEVEL]]


def _median(latency: dict[str, Any] | None) -> float | None:
    return None if latency is None else finite(latency["estimate"]["median"])


def _qualities(name: str, row: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
    """Distance from the reference beside the throughput at the lowest concurrency."""
    checks = {check["name"]: finite(check["value"]) for check in row["verdict"]["checks"]}
    levels = _levels(row)
    return [
        {
            "variant": name,
            "text": text,
            "view": view,
            "mean_kl": checks.get(f"mean_kl {view} {text}"),
            "perplexity_ratio": checks.get(f"perplexity_ratio {view} {text}"),
            "tokens_per_s": levels[0]["output_tokens_per_s"]["median"] if levels else None,
            "size_mb": row["size_bytes"] / 1e6,
        }
        for text in texts
        for view in ("deployed", "weights")
    ]
