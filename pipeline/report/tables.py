"""Tables of verdicts, checks and comparisons."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.records import (
    Check,
    ComparedRow,
    Metric,
    SideBySide,
    Summary,
    VariantSummary,
)
from pipeline.report import figures
from pipeline.report.chart_forest import KINDS, interval, share
from pipeline.report.content import Cell, Column, Table, cell, status, table
from pipeline.report.formatting import MISSING, bounds, fixed, number, percent, size, times

PERFORMANCE = {
    "FASTER": ("faster", "pass"),
    "NOT FASTER": ("not faster", "open"),
    "FAILED": ("requests failed or figures are missing", "fail"),
    "OFF TARGET": ("not measured on its target", "open"),
    "NOT ASKED": ("no speedup asked for", "none"),
    "NOT MEASURED": ("not measured", "none"),
    "BASELINE": ("baseline of its engine", "none"),
}
Rows = dict[str, VariantSummary]


def performance(word: str, verdict: str) -> Cell:
    """In words; that a variant is accurate but no faster is said as one."""
    text, kind = PERFORMANCE.get(word, (word.lower(), "none"))
    if word == "NOT FASTER" and verdict == "PASS":
        text = "accurate but not faster"
    return Cell(text, kind=f"badge {kind}")


def quantized_first(rows: Rows) -> Rows:
    return dict(sorted(rows.items(), key=lambda pair: pair[1].quantizer is None))


def verdicts(summary: Summary) -> Table:
    at = summary.concurrency
    speed = "Output tokens/s#" if at is None else f"Output tokens/s, {at} at once#"
    rows = []
    for name, row in quantized_first(summary.variants).items():
        level = next((level for level in row.levels() if level.concurrency == at), None)
        ratio, rate, kl = (
            row.speedup.get(str(at)),
            level.output_tokens_per_s if level else None,
            row.mean_kl,
        )
        busy = figures.busy(level)
        over = (
            Cell(times(ratio.ratio), ratio.ratio, "", bounds(ratio), busy)
            if ratio and row.quantizer
            else cell("")
        )
        rows.append(
            [
                cell(name),
                status(row.verdict.status),
                cell(size(row.size_bytes), row.size_bytes),
                cell(percent(row.size_ratio, 0), row.size_ratio),
                Cell(number(kl.value), kl.value, "", bounds(kl)) if kl else cell(MISSING),
                Cell(number(rate.median), rate.median, "", bounds(rate), busy)
                if rate
                else cell(MISSING),
                over,
                performance(row.performance.status, row.verdict.status),
                cell(
                    f"{row.weights} by {row.answered_by}"
                    if row.quantizer
                    else f"unquantized, {row.weights}"
                ),
            ]
        )
    heads = [
        "Variant",
        "Accuracy",
        "Size#",
        "Of unquantized#",
        "Mean KL, nats#",
        speed,
        "Over unquantized#",
        "Performance",
    ]
    heads.append("Made by")
    return table("Verdict of each variant", heads, rows)


def missed(rows: Rows) -> Table | None:
    """What stood in the way of a pass; None where nothing did."""
    lines = [
        [
            cell(name),
            Cell(check.name, kind="hash"),
            status(check.status),
            Cell(check.reason, kind="text"),
        ]
        for name, row in rows.items()
        for check in row.verdict.checks
        if check.status != "PASS"
    ]
    return (
        table("Checks that did not pass", ["Variant", "Check", "Verdict", "Why"], lines)
        if lines
        else None
    )


def checks(rows: Rows) -> Table:
    """Every check of the gate, in the order of the charts; what fails before a kind is asked comes
    first."""
    order = [kind.name for kind in KINDS]
    named = [(name, check) for name, row in rows.items() for check in row.verdict.checks]
    named.sort(key=lambda pair: order.index(pair[1].kind) if pair[1].kind in order else -1)
    heads = [
        "Variant",
        "Check",
        "Value#",
        "Bounds#",
        "Limit#",
        "Margin used#",
        "Items or windows#",
        "Verdict",
    ]
    return table("Every check of the gate", heads, [_check(name, check) for name, check in named])


def _check(name: str, check: Check) -> list[Cell]:
    kind = next((kind for kind in KINDS if kind.name == check.kind), None)
    form = kind.form if kind else number
    used = share(kind, check, check.value) if kind else None
    return [
        cell(name),
        Cell(check.name, kind="hash"),
        cell(form(check.value), check.value),
        cell(interval(form, check), check.low),
        cell(form(check.limit), check.limit),
        cell(percent(used, 0), used),
        cell(f"{check.n:,}", check.n),
        status(check.status),
    ]


def comparison(section: SideBySide, metrics: list[Metric] | None = None) -> Table:
    """One column a variant, one row a metric, with the winner marked: read across. `metrics`: those
    to show, usually all."""
    columns = [
        Column("Metric"),
        *(Column(row.variant, True) for row in section.rows),
        Column("Best"),
    ]
    facts: list[tuple[str, Callable[[ComparedRow], Cell]]] = [
        ("Engine", lambda row: cell(row.engine)),
        ("Weights", lambda row: cell(row.weights)),
        ("Accuracy", lambda row: status(row.verdict)),
        ("Performance", lambda row: performance(row.performance, row.verdict)),
        ("Perplexity ratio", lambda row: cell(fixed(row.quality["perplexity_ratio"], 4))),
        ("Mean KL, nats", lambda row: cell(number(row.quality["mean_kl"]))),
        ("Accuracy drop", lambda row: cell(percent(row.quality["accuracy_drop"], 2, signed=True))),
    ]
    rows = [[cell(title), *(fact(row) for row in section.rows), cell("")] for title, fact in facts]
    shown = section.metrics if metrics is None else metrics
    return Table(
        section.title, columns, [*rows, *(_compared(metric, section) for metric in shown)], "across"
    )


def _compared(metric: Metric, section: SideBySide) -> list[Cell]:
    winner, leaders = section.winners.get(metric.key), section.leaders.get(metric.key, [])
    tie = (
        leaders
        if len(leaders) < sum(row.values.get(metric.key) is not None for row in section.rows)
        else []
    )
    cells = []
    for row in section.rows:
        value = row.values.get(metric.key)
        kind = (
            "best"
            if row.variant == winner
            else "tied"
            if winner is None and row.variant in tie
            else ""
        )
        median, busy = (value.median, value.busy) if value else (None, False)
        cells.append(Cell(number(median), kind=kind, note=bounds(value), busy=busy))
    best = (
        Cell(winner)
        if winner
        else Cell(f"tie of {len(tie)}")
        if tie
        else Cell("no winner", kind="muted")
    )
    return [Cell(heading(metric), note=f"{metric.better} is better"), *cells, best]


def heading(metric: Metric) -> str:
    """With its unit, unless the title says it."""
    return metric.title if metric.unit in metric.title else f"{metric.title}, {metric.unit}"


def reasons(section: SideBySide) -> Table:
    """Of each metric, why it has its winner, or none."""
    rows = [
        [cell(metric.title), Cell(section.reasons.get(metric.key, ""), kind="text")]
        for metric in section.metrics
    ]
    return table(f"Why these are the best: {section.title}", ["Metric", "Why"], rows, "pairs")
