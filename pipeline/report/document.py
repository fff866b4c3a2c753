"""The report of a recipe or an audit as one content: what a reviewer needs first comes first."""

from __future__ import annotations

from pipeline.records import SideBySide, Summary, VariantSummary
from pipeline.report import (
    chart_divergence,
    chart_forest,
    chart_pareto,
    chart_speed,
    provenance,
    quality_tables,
    speed_tables,
    tables,
)
from pipeline.report.content import (
    Block,
    Cell,
    Chart,
    Charts,
    Document,
    Fold,
    Note,
    Points,
    Section,
    Table,
    cell,
    table,
)
from pipeline.report.formatting import listed
from pipeline.report.ship import summed_up

VERDICTS = (
    "Every variant is compared with the source checkpoint in float32, on the same texts and the"
    " same task items. A pass means that all checks lie within their limits with the recipe's"
    " confidence; a missing figure is never a pass."
)
TRADEOFFS = "What is drawn here stands in the table of verdicts."
MARGINS = (
    "Each row is one check of the gate: the estimate and its interval as a share of the margin that"
    " the recipe allows at that precision. 0% is the reference itself, the dashed line is the"
    " limit. A disc passed, a diamond is inconclusive, a cross failed; an arrow lies further out"
    " than the chart shows. Deployed is the engine exactly as it serves, weights the same artifact"
    " in float32."
)
DIVERGENCE = (
    "A mean can hide a few positions where the artifact would answer something else. KL(reference,"
    " artifact) as served, in nats per token over the full vocabulary."
)
SPEED = (
    "Medians over the repeats with the 95% interval of their geometric mean. Deployed is the engine"
    " as it serves, matched the same artifact at the precision that both engines have in common."
    " TTFT runs from when a request is due to its first token, TPOT is the mean time of each"
    " further one, E2E runs to the last. Requests that failed count as failed and give no"
    " throughput."
)
COMPARISON = (
    "The best in its row is marked, and only where the 95% intervals separate from those of every"
    " other variant; on size, which is exact, by any amount; on peak memory, which has no interval,"
    " by more than 5%. Those at the top that cannot be told apart are a tie. Latency is compared at"
    " the lowest concurrency."
)
ITEMS = (
    "Each item is compared with itself under the reference. Recovery is accuracy above chance over"
    " the reference's; p is McNemar's exact test."
)
OVER_HTTP = "Not to be set beside the figures above: these hold the server and the network."


def document(summary: Summary) -> Document:
    headline, facts, verdict = first_card(summary)
    sections = [
        Section("Verdicts and recommendations", _verdicts(summary), "verdicts"),
        Section(
            "Quality against speed and size",
            [Note(TRADEOFFS), Charts(lambda: chart_pareto.charts(summary))],
            "tradeoffs",
        ),
        Section("How much of its margin each variant uses", _margins(summary), "margins"),
        Section("Divergence, position by position", _divergence(summary), "divergence"),
        Section("Throughput and latency", _speed(summary), "speed"),
        Section("Memory, size and cost", _resources(summary), "resources"),
        Section(
            "Comparison",
            [Note(COMPARISON), *map(compared, summary.comparison.sections)],
            "comparison",
        ),
        Section("Evidence that can be read", _evidence(summary), "evidence"),
        Section("What produced these figures", _origin(summary), "provenance"),
    ]
    return Document(summary.recipe, headline, facts, verdict, provenance.source(summary), sections)


def first_card(summary: Summary) -> tuple[str, list[str], str]:
    """Headline, facts, and how they look."""
    ship, rows = summary.comparison.ship, summary.variants
    if provenance.audited(summary):
        return _audited(rows)
    if ship is not None:
        busy = [
            "Other processes took the machine's time while it was timed: measure again before you"
            " rely on its speed."
        ]
        return (
            ship.headline,
            [*ship.facts, *(busy if ship.busy else [])],
            "pass" if ship.variant else "fail",
        )
    failed = [name for name, row in rows.items() if not row.passed]
    facts = (
        [f"Not passed: {listed([f'{name} ({rows[name].verdict.status})' for name in failed])}."]
        if failed
        else []
    )
    passed = (
        f"{len(rows) - len(failed)} of {len(rows)} variants passed; none is quantized, so there is"
        " nothing to recommend."
    )
    return passed, facts, "fail" if failed else "pass"


def _audited(rows: dict[str, VariantSummary]) -> tuple[str, list[str], str]:
    name, row = next((name, row) for name, row in rows.items() if row.manifest.taken_from)
    missed = [
        f"{check.name}: {check.reason}" for check in row.verdict.checks if check.status != "PASS"
    ]
    facts = [
        "An audit: quantgate did not make this artifact. It is neither timed nor published.",
        *missed[:3],
    ]
    return (
        f"{name}: {row.verdict.status}: {summed_up(row)}.",
        facts,
        "pass" if row.passed else "fail",
    )


def _verdicts(summary: Summary) -> list[Block]:
    rows = summary.variants
    blocks: list[Block | None] = [
        Note(VERDICTS),
        tables.verdicts(summary),
        Points(
            [
                *_all_passed(rows),
                *(f"{name}: {looked}" for name, row in rows.items() if (looked := _looks(row))),
            ]
        ),
        tables.missed(rows),
        speed_tables.performance(rows),
        recommendations(summary),
    ]
    return _there(blocks)


def _there(blocks: list[Block | None]) -> list[Block]:
    return [block for block in blocks if block is not None]


def _all_passed(rows: dict[str, VariantSummary]) -> list[str]:
    """Equal passes as one; how many checks the others passed."""
    counts: dict[int, list[str]] = {}
    for name, row in rows.items():
        if row.passed:
            counts.setdefault(len(row.verdict.checks), []).append(name)
    sentences = [f"PASS, all {count} checks: {listed(names)}." for count, names in counts.items()]
    for name, row in rows.items():
        if not row.passed:
            passed = sum(check.status == "PASS" for check in row.verdict.checks)
            sentences.append(
                f"{row.verdict.status}: {name}, {passed} of {len(row.verdict.checks)} checks"
                " passed."
            )
    return sentences


def _looks(row: VariantSummary) -> str:
    """At which number of items the gate looked, and what the accuracy said; nothing where there was
    one look."""
    looks = [
        f"{look.items:,} items {look.status} ({look.low:+.2%} to {look.high:+.2%})"
        for look in row.verdict.looks
    ]
    return f"Looks at the accuracy: {'; '.join(looks)}." if looks else ""


def recommendations(summary: Summary) -> Table:
    """Among the quantized variants that passed; the unquantized ones apart."""
    comparison = summary.comparison
    rows = []
    for one in (*comparison.recommendations, *comparison.baselines):
        rows.append([cell(one.goal), cell(one.variant or "none"), Cell(one.reason, kind="text")])
    return table("Recommendations", ["For", "Serve", "Because"], rows)


def _margins(summary: Summary) -> list[Block]:
    return [
        Note(MARGINS),
        Charts(lambda: chart_forest.charts(summary.variants), tables.checks(summary.variants)),
    ]


def _divergence(summary: Summary) -> list[Block]:
    rows = summary.variants
    drawn, tails = (
        Charts(lambda: chart_divergence.charts(summary), quality_tables.divergence(rows)),
        quality_tables.tails(rows),
    )
    return [Note(DIVERGENCE), drawn, *([Fold(tails.caption, [tails])] if tails else [])]


def _speed(summary: Summary) -> list[Block]:
    rows = summary.variants
    noted, over_http = speed_tables.notices(rows), speed_tables.levels(rows, http=True)
    blocks: list[Block] = [Note(f"{speed_tables.machines(summary)} {SPEED}")]
    if noted:
        warning = (
            f"{len(noted.rows)} things may have changed these figures; those taken on a busy"
            " machine say so."
        )
        blocks.append(Note(warning, "warning"))
        blocks.append(Fold(noted.caption, [noted]))
    blocks.append(
        Charts(
            lambda: [*chart_speed.curves(summary), *chart_speed.goodput(summary)],
            speed_tables.levels(rows),
        )
    )
    if percentiles := speed_tables.percentiles(rows):
        blocks.append(Fold(percentiles.caption, [percentiles]))
    if over_http:
        blocks.append(Section("Over HTTP", [Note(OVER_HTTP), over_http]))
    return blocks


def _resources(summary: Summary) -> list[Block]:
    def draw() -> list[Chart]:
        return [*chart_speed.resources(summary), *chart_speed.costs(summary)]

    return [Charts(draw, speed_tables.resources(summary.variants))]


def compared(section: SideBySide) -> Section:
    reasons = tables.reasons(section)
    return Section(
        section.title,
        [Note(section.note), tables.comparison(section), Fold(reasons.caption, [reasons])],
    )


def _evidence(summary: Summary) -> list[Block]:
    blocks: list[Block] = [
        *quality_tables.quality(summary),
        Note(ITEMS),
        quality_tables.changed_tasks(summary.variants),
    ]
    for name, row in summary.variants.items():
        for what, evidence in (
            ("items whose answer changed", quality_tables.flipped(row)),
            ("positions that differ most", quality_tables.worst(row)),
        ):
            if evidence:
                blocks.append(Fold(f"{name}: the {len(evidence.rows)} {what}", [evidence]))
    return blocks


def _origin(summary: Summary) -> list[Block]:
    blocks: list[Block] = [provenance.limits(summary)]
    blocks.append(
        Fold("Machines and versions", [*provenance.machines(summary), provenance.versions(summary)])
    )
    for name, row in summary.variants.items():
        blocks.append(
            Fold(
                f"{name}: how it was made, scored and timed",
                [Points(provenance.notes(row)), *provenance.made(row)],
            )
        )
    hashes = provenance.hashes(summary)
    return [*blocks, Fold("SHA-256 of source, samples and artifacts", [hashes])]
