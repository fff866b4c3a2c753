"""A variant's model card for the Hugging Face hub, from the report's summary alone: how to serve it
first, then what it rests on.

`render` gives README.md of a repository that holds the artifact's files. The commands in it are
functions of the settings that were measured, so that who follows them gets what was measured;
tests/integration/test_card.py runs them."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.capabilities import ENGINES
from pipeline.records import Check, Checkpoint, Climb, Summary, VariantSummary
from pipeline.report import markdown, quality_tables, speed_tables, tables
from pipeline.report.chart_forest import KINDS, share
from pipeline.report.content import Block, Note, Section, Table, pairs
from pipeline.report.formatting import finite, listed, setting, size
from pipeline.report.provenance import audited
from pipeline.report.ship import summed_up


def render(summary: Summary, variant: str) -> str:
    from huggingface_hub import ModelCard

    row = summary.variants[variant]
    sections = [
        Section("Verdict", _verdict(variant, row)),
        Section("Quality", _quality(summary, variant)),
        Section("Speed", _speed(variant, row)),
        Section("How it was made", _made(summary, row)),
    ]
    paragraphs = [
        f"# {title(summary, variant)}",
        *([f"**{audited(summary)}**"] if audited(summary) else []),
        _what(summary, row),
        "## Serve it",
        *_serve(title(summary, variant), row),
        *(paragraph for section in sections for paragraph in markdown.block(section, 2)),
        "## Limits",
        markdown.points(_limits(summary, row)),
    ]
    return str(
        ModelCard(
            f"---\n{_metadata(summary, variant).to_yaml()}\n---\n\n"
            + "\n\n".join(paragraphs)
            + "\n"
        )
    )


def title(summary: Summary, variant: str) -> str:
    """The model's name, and the folder's in the commands."""
    return f"{summary.recipe}-{variant}"


def _metadata(summary: Summary, variant: str) -> Any:
    from huggingface_hub import ModelCardData

    row, base = summary.variants[variant], summary.checkpoint.repo
    audit = row.manifest.taken_from is not None
    tags = [
        row.engine,
        *([row.weights, row.quantizer] if row.quantizer else []),
        "quantgate",
        *(["audited"] if audit else []),
    ]
    return ModelCardData(
        base_model=base,
        base_model_relation="quantized" if base and row.quantizer else None,
        library_name=ENGINES[row.engine].hub_library,
        license=None if audit else summary.checkpoint.license,
        pipeline_tag="text-generation",
        tags=tags,
        model_name=title(summary, variant),
        eval_results=_results(row) or None,
    )


def _results(row: VariantSummary) -> list[Any]:
    """What was measured and is a number."""
    from huggingface_hub import EvalResult

    measured = [(name, "accuracy", "accuracy", task.accuracy) for name, task in row.tasks.items()]
    measured += [
        (name, "perplexity", "perplexity per token", value)
        for name, value in row.perplexity.items()
    ]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type=kind,
            metric_name=metric,
            metric_value=value,
        )
        for name, kind, metric, value in measured
        if finite(value) is not None
    ]


def _what(summary: Summary, row: VariantSummary) -> str:
    made = (
        f"in {row.weights} ({row.quantizer}, by {row.answered_by})"
        if row.quantizer
        else "unquantized"
    )
    checkpoint, word = summary.checkpoint, row.verdict.status
    warning = "" if row.passed else " It did not pass: do not put it into service."
    return (
        f"**{word}: {summed_up(row)}.**{warning} {_source(checkpoint)} ({checkpoint.architecture},"
        f" {checkpoint.parameters:,} parameters), {made}, for {ENGINES[row.engine].title} on"
        f" {row.manifest.device.upper()}. {size(row.size_bytes)} on disk. Every figure below was"
        " measured by quantgate on the engine that serves the model, against the source in"
        " float32."
    )


def _source(checkpoint: Checkpoint) -> str:
    if checkpoint.repo is None:
        return f"A local checkpoint, `{checkpoint.path}`"
    return f"{checkpoint.repo} at revision `{checkpoint.revision}`"


def _verdict(variant: str, row: VariantSummary) -> list[Block]:
    """Of each kind the check that is nearest to its limit; of those that did not pass, all."""
    checks = row.verdict.checks
    missed = tables.missed({variant: row})
    passed: dict[str, list[Check]] = {}
    for check in checks:
        if check.status == "PASS":
            passed.setdefault(check.kind, []).append(check)
    kinds = {kind.name: kind for kind in KINDS}
    nearest = [
        max(of_kind, key=lambda check: share(kinds[check.kind], check, check.value) or 0.0)
        for of_kind in passed.values()
    ]
    shown = tables.checks(
        {
            variant: row.model_copy(
                update={"verdict": row.verdict.model_copy(update={"checks": nearest})}
            )
        }
    )
    count = f"{sum(map(len, passed.values()))} of {len(checks)} checks passed"
    blocks: list[Block] = [
        Note(
            f"{count}; all must. Of each kind the one that is nearest to its limit:"
            if nearest
            else f"{count}."
        )
    ]
    blocks += [_alone(shown)] if nearest else []
    return [*blocks, *([_alone(missed)] if missed else [])]


def _alone(table: Table) -> Table:
    """Without the column that names the variant, and without a caption."""
    return table._replace(
        caption="", columns=table.columns[1:], rows=[row[1:] for row in table.rows]
    )


def _quality(summary: Summary, variant: str) -> list[Block]:
    """Beside the source's own figures."""
    one = summary.model_copy(update={"variants": {variant: summary.variants[variant]}})
    return [table._replace(caption="") for table in quality_tables.quality(one)]


def _speed(variant: str, row: VariantSummary) -> list[Block]:
    benchmark = row.benchmark
    if not benchmark.measured:
        return [Note(f"Not measured: {benchmark.reason}.")]
    deployed = benchmark.profiles["deployed"].model_copy(update={"levels": row.levels()})
    one = {
        variant: row.model_copy(
            update={"benchmark": benchmark.model_copy(update={"profiles": {"deployed": deployed}})}
        )
    }
    noted = (
        f" {len(benchmark.notices)} things were noted while it was timed: see the report."
        if benchmark.notices
        else ""
    )
    intro = (
        f"Measured on {speed_tables.machine(benchmark)}. {row.performance.status}:"
        f" {row.performance.reason}.{noted}"
    )
    loads, taken = speed_tables.levels(one), speed_tables.resources(one)
    needs = [
        f"{column.title}: {cell.text}"
        for column, cell in zip(taken.columns[1:], taken.rows[0][1:], strict=True)
    ]
    return [Note(intro), *([_alone(loads)] if loads else []), Note(f"{'; '.join(needs)}.")]


def _made(summary: Summary, row: VariantSummary) -> list[Block]:
    manifest, calibration = row.manifest, summary.calibration
    scalars = {
        key: value
        for key, value in manifest.resolved.items()
        if isinstance(value, (str, int, float, bool))
    }
    facts = {"taken from": manifest.taken_from} if manifest.taken_from else {}
    facts |= {
        "made by": row.answered_by,
        "settings": setting(scalars),
        "linear layers": (
            f"{setting(manifest.stored_types)}; {len(manifest.layers.skipped)} skipped"
        ),
    }
    if row.quantizer is not None and not manifest.taken_from:
        facts["calibration"] = (
            f"{calibration.rows} rows from {calibration.prompts}, seed {calibration.seed}"
        )
    if manifest.climb:
        facts["ladder"] = _way(manifest.climb)
    if counts := [count for block in manifest.coverage.values() for count in block]:
        facts["calibration tokens that an expert is sent"] = f"{min(counts):,} to {max(counts):,}"
    if row.remarks:
        facts["noted"] = "; ".join(row.remarks)
    facts |= {
        "versions": setting(manifest.versions),
        "measured with": setting(row.evaluation.versions),
    }
    return [pairs("How it was made", facts)]


def _way(climb: Climb) -> str:
    return "; then ".join(f"{step.rung}: {step.status}" for step in climb.steps)


def _serve(folder: str, row: VariantSummary) -> list[str]:
    settings = row.evaluation.settings.get("deployed")
    if settings is None:
        return ["Its engine did not run it, so there is nothing to follow."]
    intro = f"With these files in a folder `{folder}` and {_installed(row)}:"
    module, name = ENGINES[row.engine].snippet.split(":")
    return [intro, *getattr(importlib.import_module(module), name)(folder, settings)]


def _installed(row: VariantSummary) -> str:
    """Of what was installed to measure it, the engine itself."""
    packages = ENGINES[row.engine].packages
    installed = [
        f"{name} {version}" for name, version in row.evaluation.versions.items() if name in packages
    ]
    return listed(installed) or f"{ENGINES[row.engine].title}, of a version that was not recorded"


def _limits(summary: Summary, row: VariantSummary) -> list[str]:
    """What the figures do not say."""
    measured = [*summary.reference.tasks, *summary.reference.perplexity]
    source = summary.checkpoint.repo or "the source checkpoint"
    licence = f"What the source may be used for, this may: its licence is that of {source}."
    if row.manifest.taken_from:
        licence = f"What it may be used for, its maker and the licence of {source} say."
    skipped = row.manifest.layers.skipped
    return [
        (
            f"The verdict is on {', '.join(measured)} and on nothing else: not on other languages,"
            " long contexts or safety."
        ),
        "The speeds are of the machine named above. On another one, measure again.",
        licence,
        *([f"Layers left unquantized: {', '.join(skipped)}."] if skipped else []),
    ]
