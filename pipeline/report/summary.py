"""Records -> one summary per recipe: everything that a reader may ask about, of artifacts that
belong together."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipeline import paths
from pipeline.benchmark import performance, speed_statistics
from pipeline.errors import ArtifactError
from pipeline.evidence import settings
from pipeline.evidence.candidate import Candidate
from pipeline.evidence.evaluations import evaluation_of
from pipeline.recipe import Recipe
from pipeline.records import (
    Accuracy,
    Benchmark,
    CalibrationSet,
    Checkpoint,
    Evaluation,
    Flip,
    Manifest,
    Performance,
    Samples,
    Scored,
    ScoredReference,
    Scoring,
    Speedup,
    Summary,
    Task,
    VariantSummary,
    Verdict,
    WorstPlace,
    read,
)
from pipeline.report.comparison import compare
from pipeline.report.distribution import kl_distribution


class Judged(NamedTuple):
    """All that is known of one artifact; `evaluation` is with the items that were added later,
    `http` over HTTP."""

    manifest: Manifest
    evaluation: Evaluation
    verdict: Verdict
    benchmark: Benchmark
    performance: Performance
    http: Benchmark | None = None


def summarize(recipe: Recipe) -> Summary:
    """Of all variants of a recipe, from where their stages left them. Raises ArtifactError."""
    reference = read(paths.evaluation(recipe.name, "reference"), Evaluation)
    return of(
        recipe,
        {variant: _judged(recipe, variant, reference) for variant in recipe.variants},
    )


def of(recipe: Recipe, judged: dict[str, Judged]) -> Summary:
    """Everything a reader may ask about, joined per variant; speeds relative to the unquantized
    model on that engine."""
    checkpoint = read(paths.checkpoint(recipe.name), Checkpoint)
    samples = read(paths.samples(recipe.name), Samples)
    reference = read(paths.evaluation(recipe.name, "reference"), Evaluation)
    floors = {variant: recipe.baseline(recipe.variants[variant]) or variant for variant in judged}
    rows = {
        variant: _row(artifact, judged.get(floors[variant]), reference)
        for variant, artifact in judged.items()
    }
    return Summary(
        recipe=recipe.name,
        goal=recipe.goal,
        checkpoint=checkpoint,
        calibration=CalibrationSet(**samples.model_dump(exclude={"ids"}), rows=len(samples.ids)),
        limits=recipe.gate.model_dump(),
        reference=ScoredReference(
            **_scored(reference).model_dump(), **_scoring(reference).model_dump()
        ),
        variants=rows,
        comparison=compare(recipe.goal, rows),
    )


def _judged(recipe: Recipe, variant: str, reference: Evaluation) -> Judged:
    manifest = read(paths.manifest(recipe.name, variant), Manifest)
    evaluation = evaluation_of(Candidate.here(recipe, variant))
    verdict = read(paths.verdict(recipe.name, variant), Verdict)
    benchmark = read(paths.benchmark(recipe.name, variant), Benchmark)
    if (
        verdict.candidate_sha256 != evaluation.artifact_sha256
        or verdict.reference_sha256 != reference.artifact_sha256
    ):
        raise ArtifactError(
            f"{paths.verdict(recipe.name, variant)}: made from another evaluation. Run: dvc repro"
            f" gate@{recipe.name}--{variant}"
        )
    if benchmark.measured and benchmark.artifact_sha256 != evaluation.artifact_sha256:
        raise ArtifactError(
            f"{paths.benchmark(recipe.name, variant)}: of another artifact. Run: dvc repro"
            f" benchmark@{recipe.name}"
        )
    if benchmark.measured and benchmark.requested != settings.timed_under(recipe, variant):
        raise ArtifactError(
            f"{paths.benchmark(recipe.name, variant)}: under other settings than the recipe's."
            f" Run: dvc repro report@{recipe.name}"
        )
    http = _http(recipe.name, variant, evaluation.artifact_sha256)
    return Judged(manifest, evaluation, verdict, benchmark, performance.of(recipe, variant), http)


def _row(judged: Judged, baseline: Judged | None, reference: Evaluation) -> VariantSummary:
    manifest, evaluation, verdict = judged.manifest, judged.evaluation, judged.verdict
    deployed = evaluation.views.get("deployed")
    return VariantSummary(
        **_scored(evaluation).model_dump(),
        engine=manifest.engine,
        quantizer=manifest.quantizer,
        answered_by=manifest.answered_by,
        weights=manifest.weights,
        size_bytes=manifest.size_bytes,
        size_ratio=manifest.size_bytes / baseline.manifest.size_bytes if baseline else None,
        speedup=_speedups(judged.benchmark, baseline.benchmark) if baseline else {},
        verdict=verdict,
        performance=judged.performance,
        benchmark=judged.benchmark,
        http=judged.http,
        manifest=manifest,
        evaluation=_scoring(evaluation),
        kl_distribution=kl_distribution(evaluation),
        flipped=_flipped(verdict, reference),
        worst_tokens=[
            WorstPlace(text=divergence.text, **worst.model_dump())
            for divergence in (deployed.divergence if deployed else [])
            for worst in divergence.worst
        ],
    )


def _flipped(verdict: Verdict, reference: Evaluation) -> list[Flip]:
    """The items whose answer changed, with what the reference's evaluation kept of their text."""
    texts = {
        f"{item.task}/{item.doc_id}": item.text for task in reference.tasks for item in task.items
    }
    changed = [
        (key, lost)
        for task in verdict.tasks
        for keys, lost in ((task.lost, True), (task.won, False))
        for key in keys
    ]
    split = [(key.rpartition("/"), lost, texts.get(key, "")) for key, lost in changed]
    return [
        Flip(task=task, doc_id=doc_id, lost=lost, text=text)
        for (task, _, doc_id), lost, text in split
    ]


def _http(name: str, variant: str, artifact_sha256: str) -> Benchmark | None:
    """The benchmark over HTTP, if one was made of this artifact or of a server that quantgate
    cannot look into."""
    path = paths.http(name, variant)
    measured = read(path, Benchmark) if path.is_file() else None
    return measured if measured and measured.artifact_sha256 in (None, artifact_sha256) else None


def _scoring(evaluation: Evaluation) -> Scoring:
    return Scoring(
        settings={name: view.settings for name, view in evaluation.views.items()},
        versions=evaluation.versions,
        wall_s=evaluation.wall_s,
        notes=evaluation.load_check.notes if evaluation.load_check else [],
    )


def _scored(evaluation: Evaluation) -> Scored:
    view = evaluation.views.get("deployed") or evaluation.views.get("reference")
    texts = view.perplexity if view else []
    return Scored(
        perplexity={item.text: item.value for item in texts},
        bits_per_byte={item.text: item.bits_per_byte for item in texts},
        tasks={
            task.name: Accuracy(
                accuracy=task.mean, standard_error=standard_error(task), n=len(task.items)
            )
            for task in evaluation.tasks
        },
    )


def standard_error(task: Task) -> float:
    """Of the mean over independent items; NaN below two items."""
    n, mean = len(task.items), task.mean
    if n < 2:
        return math.nan
    return math.sqrt(sum((item.score - mean) ** 2 for item in task.items) / (n - 1) / n)


def _speedups(own: Benchmark, baseline: Benchmark) -> dict[str, Speedup]:
    """By concurrency, at the loads that both were measured at."""
    ours, theirs = _rates(own), _rates(baseline)
    speedups = {}
    for level in ours.keys() & theirs.keys():
        pairs = zip(ours[level], theirs[level], strict=True)
        interval = speed_statistics.estimate(a / b for a, b in pairs)
        ratio = performance.speedup(ours[level], theirs[level])
        speedups[level] = Speedup(ratio=ratio, low=interval.low, high=interval.high)
    return {level: speedups[level] for level in ours if level in speedups}


def _rates(benchmark: Benchmark) -> dict[str, list[float]]:
    """Output tokens/s of each closed load, one a repeat; none where a repeat gave nothing."""
    levels = (
        speed_statistics.closed_levels(benchmark.profiles["deployed"])
        if "deployed" in benchmark.profiles
        else []
    )
    rates = {str(level.concurrency): level.output_tokens_per_s.values for level in levels}
    return {level: values for level, values in rates.items() if min(values) > 0}
