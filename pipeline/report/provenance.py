"""Where the figures come from: source, calibration, limits, machines, versions, settings and
hashes."""

from __future__ import annotations

from typing import Any

from pipeline.records import Climb, Summary, VariantSummary
from pipeline.report.content import Cell, Table, cell, pairs, table
from pipeline.report.formatting import estimate, number, percent, setting, size

HIDDEN = (
    "load_average_1min",
)  # a moment's figure; the share of others is measured with each replay
NOT_KNOWN = (
    "Which tool made it, and how, is its files' own word; what it was calibrated on is not known."
)


def audited(summary: Summary) -> str:
    """Of an audit, what a reader must know first; empty for the report of a recipe."""
    place = next(
        (place for row in summary.variants.values() if (place := row.manifest.taken_from)), None
    )
    return f"Audited: made elsewhere, taken from {place}. {NOT_KNOWN}" if place else ""


def source(summary: Summary) -> Table:
    """What heads every report."""
    checkpoint, calibration = summary.checkpoint, summary.calibration
    facts = {
        "Source checkpoint": checkpoint.path or f"{checkpoint.repo} at {checkpoint.revision}",
        "Model": (
            f"{checkpoint.architecture}, {checkpoint.parameters:,} parameters, {checkpoint.dtype}"
        ),
    }
    if audited(summary):
        return pairs("Source", {"Artifact": audited(summary), **facts})
    rows = f"{calibration.rows} rows of {calibration.prompts}, seed {calibration.seed}"
    overlap = (
        f"overlap with the evaluation texts {percent(calibration.overlap, 2)}, limit"
        f" {percent(calibration.overlap_limit, 0)}"
    )
    return pairs("Source", {**facts, "Calibration": f"{rows}; {overlap}"})


def limits(summary: Summary) -> Table:
    """The recipe's limits; where they depend on the precision, a column each."""
    by_weights = [
        name for limit in summary.limits.values() if isinstance(limit, dict) for name in limit
    ]
    used = {row.weights for row in summary.variants.values()}
    shown = [name for name in dict.fromkeys(by_weights) if name in used]
    rows = []
    for name, limit in summary.limits.items():
        values = (
            [limit.get(weight) for weight in shown]
            if isinstance(limit, dict)
            else [limit] * max(len(shown), 1)
        )
        rows.append([cell(name.replace("_", " ")), *(_limit(value) for value in values)])
    return table(
        "Limits of the gate, by precision of the weights",
        ["Limit", *(f"{name}#" for name in shown)],
        rows,
    )


def _limit(value: Any) -> Cell:
    if isinstance(value, (list, tuple)):
        return Cell(" to ".join(map(number, value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return cell(number(value, 4), value)
    return Cell(setting(value))


def machines(summary: Summary) -> list[Table]:
    """Every distinct machine on which something was timed, with the variants that were."""
    groups: dict[str, tuple[dict[str, str], list[str]]] = {}
    for name, row in summary.variants.items():
        if row.benchmark.machine:
            facts = _machine(row.benchmark.machine)
            groups.setdefault(setting(facts), (facts, []))[1].append(name)
    return [
        pairs(f"Machine that timed {', '.join(names)}", facts) for facts, names in groups.values()
    ]


def _machine(machine: dict[str, Any]) -> dict[str, str]:
    return {
        key.removesuffix("_bytes").replace("_", " "): (
            size(value) if key.endswith("_bytes") else setting(value)
        )
        for key, value in machine.items()
        if key not in HIDDEN
    }


def versions(summary: Summary) -> Table:
    heads = ["Variant", "Engine", "Engine's versions", "Quantizer's versions", "Stored layers"]
    first = [
        cell("reference (float32)"),
        cell("torch"),
        cell(setting(summary.reference.versions)),
        cell(""),
        cell(""),
    ]
    rows = [
        [
            cell(name),
            cell(row.engine),
            cell(setting(row.evaluation.versions)),
            cell(setting(row.manifest.versions) if row.quantizer else "not quantized"),
            cell(setting(row.manifest.stored_types)),
        ]
        for name, row in summary.variants.items()
    ]
    return table("Versions", heads, [first, *rows])


def made(row: VariantSummary) -> list[Table]:
    """How one variant was made, scored and timed."""
    requested, resolved = row.manifest.requested, row.manifest.resolved
    settings = [
        [
            cell(name),
            Cell(_shown(requested, name), kind="text"),
            Cell(_shown(resolved, name), kind="text"),
        ]
        for name in dict.fromkeys([*requested, *resolved])
    ]
    tables = [_way(row.manifest.climb)] if row.manifest.climb else []
    tables += [table("Quantizer's settings", ["Setting", "Requested", "Resolved"], settings)]
    tables.append(pairs("Calibration tokens of each expert", experts(row)))
    for view, used in row.evaluation.settings.items():
        tables.append(pairs(f"Scored in the view \u201c{view}\u201d with", _settings(used)))
    for profile, timed in row.benchmark.profiles.items():
        tables.append(
            pairs(f"Timed in the profile \u201c{profile}\u201d with", _settings(timed.settings))
        )
    return [one for one in tables if one.rows]


def _settings(settings: dict[str, Any]) -> dict[str, str]:
    return {key: setting(value) for key, value in settings.items()}


def _way(climb: Climb) -> Table:
    """The rungs of a ladder that were tried, in order."""
    heads = ["Rung", "Outcome", "Size#", "Mean KL at first look (nats)#", "Output tokens/s#", "Why"]
    rows = [
        [
            cell(step.rung),
            cell(step.status),
            Cell(size(step.size_bytes)),
            Cell(number(step.mean_kl)),
            Cell(estimate(step.output_tokens_per_s)),
            Cell(step.reason, kind="text"),
        ]
        for step in climb.steps
    ]
    order = {
        None: "in the recipe's order",
        "smallest": "the smallest first",
        "fastest": "the fastest first",
    }[climb.goal]
    return table(f"Way up the ladder, {order}", heads, rows)


def experts(row: VariantSummary) -> dict[str, str]:
    """Of a mixture of experts: each block with the calibration tokens that its experts 0, 1, ...
    are sent."""
    return {block: ", ".join(map(str, counts)) for block, counts in row.manifest.coverage.items()}


def _shown(settings: dict[str, Any], name: str) -> str:
    return setting(settings[name]) if name in settings else "\u2013"


def notes(row: VariantSummary) -> list[str]:
    manifest, layers = row.manifest, row.manifest.layers
    sentences = [
        f"Made by {row.answered_by} in {number(manifest.wall_s)} s with at most"
        f" {size(manifest.peak_memory_bytes)} of memory."
    ]
    if manifest.taken_from:
        sentences = [f"Made elsewhere, taken from {manifest.taken_from}. {NOT_KNOWN}"]
    if row.quantizer:
        sentences.append(
            f"{layers.quantized} of {layers.expected} layers have {row.weights} weights."
        )
    if layers.skipped:
        sentences.append(f"Left out: {', '.join(layers.skipped)}.")
    return sentences + row.remarks


def hashes(summary: Summary) -> Table:
    """SHA-256 of what was compared: enough to know that two reports are about the same things."""
    digests: dict[str, str | None] = (
        {} if audited(summary) else {"calibration samples": summary.calibration.sha256}
    )
    for name, row in summary.variants.items():
        digests["reference"] = row.verdict.reference_sha256
        digests[f"artifact {name}"] = row.verdict.candidate_sha256
        digests["trace of requests"] = row.benchmark.trace_sha256 or digests.get(
            "trace of requests"
        )
    files = {f"source file {file.path}": file.sha256 for file in summary.checkpoint.files}
    return pairs(
        "SHA-256", {name: value for name, value in {**digests, **files}.items() if value}, "hash"
    )
