"""Records -> one dictionary per recipe: everything that a reader may ask about, of artifacts that belong together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pipeline import paths
from pipeline.benchmark import performance
from pipeline.errors import ArtifactError
from pipeline.evidence import settings
from pipeline.evidence.evaluations import evaluation_of
from pipeline.recipe import Recipe
from pipeline.records import Benchmark, Checkpoint, Evaluation, Manifest, Performance, Samples, Task, Verdict, read
from pipeline.report.comparison import compare
from pipeline.report.distribution import kl_distribution


class Judged(NamedTuple):
    """All that is known of one artifact; `evaluation` is with the items that were added later, `http` over HTTP."""

    manifest: Manifest
    evaluation: Evaluation
    verdict: Verdict
    benchmark: Benchmark
    performance: Performance
    http: Benchmark | None = None


def summarize(name: str, recipe: Recipe) -> dict[str, Any]:
    """Of all variants of a recipe, from where their stages left them. Raises ArtifactError."""
    reference = read(paths.evaluation(name, "reference"), Evaluation)
    return of(name, recipe, {variant: _judged(name, recipe, variant, reference) for variant in recipe.variants})


def of(name: str, recipe: Recipe, judged: dict[str, Judged]) -> dict[str, Any]:
    """Everything a reader may ask about, joined per variant; speeds relative to the unquantized model on that engine."""
    checkpoint = read(paths.checkpoint(name), Checkpoint)
    samples = read(paths.samples(name), Samples)
    reference = read(paths.evaluation(name, "reference"), Evaluation)
    rows = {variant: _row(found, reference) for variant, found in judged.items()}
    baselines = {row["engine"]: row for row in rows.values() if row["quantizer"] is None}
    for row in rows.values():
        _relate(row, baselines.get(row["engine"]))
    summary = {
        "recipe": name,
        "checkpoint": checkpoint.model_dump(mode="json"),
        "calibration": samples.model_dump(mode="json", exclude={"ids"}) | {"rows": len(samples.ids)},
        "limits": recipe.gate.model_dump(),
        "reference": {**_quality(reference), **_how(reference)},
        "variants": rows,
    }
    return summary | {"comparison": compare(summary)}


def _judged(name: str, recipe: Recipe, variant: str, reference: Evaluation) -> Judged:
    manifest = read(paths.manifest(name, variant), Manifest)
    evaluation = evaluation_of(name, variant, paths.place(name, variant))
    verdict = read(paths.verdict(name, variant), Verdict)
    benchmark = read(paths.benchmark(name, variant), Benchmark)
    if verdict.candidate_sha256 != evaluation.artifact_sha256 or verdict.reference_sha256 != reference.artifact_sha256:
        raise ArtifactError(f"{paths.verdict(name, variant)}: made from another evaluation. Run: dvc repro gate@{name}--{variant}")
    if benchmark.measured and benchmark.artifact_sha256 != evaluation.artifact_sha256:
        raise ArtifactError(f"{paths.benchmark(name, variant)}: of another artifact. Run: dvc repro benchmark@{name}")
    if benchmark.measured and benchmark.requested != settings.timed_under(recipe, variant):
        raise ArtifactError(
            f"{paths.benchmark(name, variant)}: under other settings than the recipe's. Run: dvc repro report@{name}"
        )
    http = _http(name, variant, evaluation.artifact_sha256)
    return Judged(manifest, evaluation, verdict, benchmark, performance.of(name, recipe, variant), http)


def _row(judged: Judged, reference: Evaluation) -> dict[str, Any]:
    manifest, evaluation, verdict, benchmark, speed, http = judged
    return {
        "engine": manifest.engine,
        "quantizer": manifest.quantizer,
        "answered_by": manifest.answered_by,
        "weights": manifest.weights,
        "size_bytes": manifest.size_bytes,
        **_quality(evaluation),
        "kl_distribution": kl_distribution(evaluation),
        "flipped": _flipped(verdict, reference),
        "verdict": verdict.model_dump(mode="json"),
        "benchmark": benchmark.model_dump(mode="json"),
        "http": http.model_dump(mode="json") if http else None,
        "performance": speed.model_dump(mode="json"),
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


def _flipped(verdict: Verdict, reference: Evaluation) -> list[dict[str, Any]]:
    """The items whose answer changed, with what the reference's evaluation kept of their text."""
    texts = {f"{item.task}/{item.doc_id}": item.text for task in reference.tasks for item in task.items}
    changed = [(key, lost) for task in verdict.tasks for keys, lost in ((task.lost, True), (task.won, False)) for key in keys]
    return [
        {"task": key.rpartition("/")[0], "doc_id": key.rpartition("/")[2], "lost": lost, "text": texts.get(key, "")}
        for key, lost in changed
    ]


def _http(name: str, variant: str, artifact_sha256: str) -> Benchmark | None:
    """The benchmark over HTTP, if one was made of this artifact or of a server that quantgate cannot look into."""
    path = paths.http(name, variant)
    found = read(path, Benchmark) if path.is_file() else None
    return found if found and found.artifact_sha256 in (None, artifact_sha256) else None


def _how(evaluation: Evaluation) -> dict[str, Any]:
    settings = {name: view.settings for name, view in evaluation.views.items()}
    notes = evaluation.load_check.notes if evaluation.load_check else []
    return {"settings": settings, "versions": evaluation.versions, "wall_s": evaluation.wall_s, "notes": notes}


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
    rates = _rates(row)
    base = _rates(baseline) if baseline else {}
    row["speedup"] = {level: performance.speedup(rates[level], base[level]) for level in rates if level in base}


def _rates(row: dict[str, Any]) -> dict[str, list[float]]:
    """Output tokens/s of each closed load, one a repeat; none where a repeat gave nothing."""
    levels = row["benchmark"]["profiles"].get("deployed", {"levels": []})["levels"]
    found = {str(level["concurrency"]): level["output_tokens_per_s"]["values"] for level in levels if level["loop"] == "closed"}
    return {level: values for level, values in found.items() if min(values) > 0}
