"""Records -> one page per recipe: JSON (everything), Markdown (for people), metrics (for `dvc metrics`)."""

from __future__ import annotations

import json
import math
from typing import Any

from pipeline import paths
from pipeline.errors import ArtifactError
from pipeline.judge import evaluation_of
from pipeline.recipe import Recipe
from pipeline.records import (
    Benchmark,
    Checkpoint,
    Evaluation,
    Manifest,
    Samples,
    Task,
    Verdict,
    read,
    write_text,
)


def write(name: str, recipe: Recipe) -> None:
    """Writes the three files of artifacts/reports/. Raises ArtifactError if a record is missing."""
    from pipeline.report.markdown import render

    summary = summarize(name, recipe)
    write_text(paths.report(name, "json"), _json(summary))
    write_text(paths.report(name, "metrics.json"), _json(metrics(summary)))
    write_text(paths.report(name, "md"), render(summary))


def summarize(name: str, recipe: Recipe) -> dict[str, Any]:
    """Everything a reader may ask about, joined per variant; speeds relative to the unquantized model on that engine."""
    checkpoint = read(paths.checkpoint(name), Checkpoint)
    samples = read(paths.samples(name), Samples)
    reference = read(paths.evaluation(name, "reference"), Evaluation)
    rows = {variant: _variant(name, variant, reference) for variant in recipe.variants}
    baselines = {row["engine"]: row for row in rows.values() if row["quantizer"] is None}
    for row in rows.values():
        _relate(row, baselines.get(row["engine"]))
    return {
        "recipe": name,
        "checkpoint": checkpoint.model_dump(mode="json"),
        "calibration": samples.model_dump(mode="json", exclude={"ids"}) | {"rows": len(samples.ids)},
        "limits": recipe.gate.model_dump(),
        "reference": {**_quality(reference), **_how(reference)},
        "variants": rows,
    }


def _variant(name: str, variant: str, reference: Evaluation) -> dict[str, Any]:
    manifest = read(paths.manifest(name, variant), Manifest)
    evaluation = evaluation_of(name, variant)
    verdict = read(paths.verdict(name, variant), Verdict)
    benchmark = read(paths.benchmark(name, variant), Benchmark)
    if verdict.candidate_sha256 != evaluation.artifact_sha256 or verdict.reference_sha256 != reference.artifact_sha256:
        raise ArtifactError(f"{paths.verdict(name, variant)}: made from another evaluation. Run: dvc repro gate@{name}--{variant}")
    if benchmark.measured and benchmark.artifact_sha256 != evaluation.artifact_sha256:
        raise ArtifactError(f"{paths.benchmark(name, variant)}: of another artifact. Run: dvc repro benchmark@{name}--{variant}")
    return {
        "engine": manifest.engine,
        "quantizer": manifest.quantizer,
        "answered_by": manifest.answered_by,
        "weights": manifest.weights,
        "size_bytes": manifest.size_bytes,
        **_quality(evaluation),
        "verdict": verdict.model_dump(mode="json"),
        "benchmark": benchmark.model_dump(mode="json"),
        "manifest": manifest.model_dump(mode="json", exclude={"files"}),
        "evaluation": _how(evaluation),
        "worst_tokens": [
            {"text": divergence.text, **worst.model_dump()}
            for view in evaluation.views.values()
            for divergence in view.divergence
            for worst in divergence.worst
            if view is evaluation.views.get("deployed")
        ],
    }


def _how(evaluation: Evaluation) -> dict[str, Any]:
    settings = {name: view.settings for name, view in evaluation.views.items()}
    return {"settings": settings, "versions": evaluation.versions, "wall_s": evaluation.wall_s}


def _quality(evaluation: Evaluation) -> dict[str, Any]:
    """Perplexity of the whole texts, as served; accuracy with its standard error."""
    view = evaluation.views.get("deployed") or evaluation.views.get("reference")
    texts = view.perplexity if view else []
    return {
        "perplexity": {item.text: item.value for item in texts},
        "bits_per_byte": {item.text: item.bits_per_byte for item in texts},
        "tasks": {
            task.name: {"accuracy": task.mean, "standard_error": standard_error(task), "n": len(task.items)}
            for task in evaluation.tasks
        },
    }


def standard_error(task: Task) -> float:
    """Of the mean over independent items; NaN below two items."""
    n, mean = len(task.items), task.mean
    if n < 2:
        return math.nan
    return math.sqrt(sum((item.score - mean) ** 2 for item in task.items) / (n - 1) / n)


def _relate(row: dict[str, Any], baseline: dict[str, Any] | None) -> None:
    """Adds size and throughput over the unquantized model's on the same engine, where both were measured."""
    row["size_ratio"] = row["size_bytes"] / baseline["size_bytes"] if baseline else None
    speeds = _speeds(row)
    base = _speeds(baseline) if baseline else {}
    row["speedup"] = {level: speeds[level] / base[level] for level in speeds if base.get(level)}


def _speeds(row: dict[str, Any]) -> dict[str, float]:
    return {str(level["concurrency"]): level["output_tokens_per_s"]["median"] for level in row["benchmark"]["levels"]}


def metrics(summary: dict[str, Any]) -> dict[str, Any]:
    """Flat numbers per variant, for `dvc metrics show` and `dvc metrics diff`."""
    return {name: _metrics(row) for name, row in summary["variants"].items()}


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    checks = {check["name"].replace(" ", "_"): check["value"] for check in row["verdict"]["checks"]}
    speeds = {f"tokens_per_s_at_{level}": value for level, value in _speeds(row).items()}
    return {"verdict": row["verdict"]["status"], **checks, "size_mb": row["size_bytes"] / 1e6, **speeds}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
