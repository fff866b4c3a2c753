"""Tables of what was measured of quality, down to the items and tokens that can be read."""

from __future__ import annotations

from pipeline.records import (
    Accuracy,
    Scored,
    Summary,
    VariantSummary,
)
from pipeline.report.content import Cell, Table, cell, table
from pipeline.report.formatting import MISSING, finite, fixed, number, percent, times
from pipeline.report.tables import Rows


def quality(summary: Summary) -> list[Table]:
    """Perplexity of the whole texts and accuracy of each task, the reference first."""
    every: dict[str, Scored] = {"reference (float32)": summary.reference, **summary.variants}
    texts, tasks = list(summary.reference.perplexity), list(summary.reference.tasks)
    tables = []
    if texts:
        heads = [f"{text}: {what}#" for text in texts for what in ("perplexity", "bits per byte")]
        rows = [
            [cell(name), *(figure for text in texts for figure in _perplexity(row, text))]
            for name, row in every.items()
        ]
        tables.append(table("Perplexity of the whole texts as served", ["Variant", *heads], rows))
    if tasks:
        rows = [
            [cell(name), *(_accuracy(row.tasks.get(task)) for task in tasks)]
            for name, row in every.items()
        ]
        tables.append(
            table(
                "Accuracy with its standard error",
                ["Variant", *(f"{task}#" for task in tasks)],
                rows,
            )
        )
    return tables


def _perplexity(row: Scored, text: str) -> list[Cell]:
    return [
        cell(fixed(value, 4), value)
        for value in (row.perplexity.get(text), row.bits_per_byte.get(text))
    ]


def _accuracy(task: Accuracy | None) -> Cell:
    if task is None or finite(task.accuracy) is None:
        return cell(MISSING)
    error = "" if finite(task.standard_error) is None else f" \u00b1 {percent(task.standard_error)}"
    return cell(percent(task.accuracy) + error, task.accuracy)


def changed_tasks(rows: Rows) -> Table:
    """How many items each variant lost and won."""
    heads = ["Variant", "Task", "Items#", "Lost#", "Won#", "Recovery#", "p (McNemar)#", "Length#"]
    lines = [
        [
            cell(name),
            cell(task.name),
            cell(f"{task.n:,}", task.n),
            cell(str(len(task.lost)), len(task.lost)),
            cell(str(len(task.won)), len(task.won)),
            cell(percent(task.recovery), task.recovery),
            cell(number(task.mcnemar_p, 2), task.mcnemar_p),
            cell(
                "\u2013" if task.length_ratio is None else times(task.length_ratio),
                task.length_ratio,
            ),
        ]
        for name, row in rows.items()
        for task in row.verdict.tasks
    ]
    return table("Items that each variant lost and won against the reference", heads, lines)


def flipped(row: VariantSummary) -> Table | None:
    """The items themselves, the lost ones first; None where no answer changed."""
    rows = [
        [
            cell(f"{item.task}/{item.doc_id}"),
            Cell("lost" if item.lost else "won", kind="badge fail" if item.lost else "badge pass"),
            Cell(item.text or "text not kept", kind="text" if item.text else "muted"),
        ]
        for item in sorted(row.flipped, key=lambda item: not item.lost)
    ]
    return (
        table("Items whose answer changed", ["Item", "Change", "Question and right answer"], rows)
        if rows
        else None
    )


def worst(row: VariantSummary) -> Table | None:
    """The positions that lie furthest from the reference."""
    heads = [
        "Text and place",
        "KL, nats#",
        "After",
        "True token",
        "Probability, then now#",
        "Reference said",
        "Artifact said",
    ]
    rows = [
        [
            cell(f"{token.text}, window {token.window}, position {token.position}"),
            cell(number(token.kl_nats), token.kl_nats),
            Cell(token.context, kind="context"),
            Cell(token.token, kind="token"),
            cell(
                f"{percent(token.reference_probability)} \u2192 {percent(token.probability)}",
                token.probability,
            ),
            Cell(token.reference_top, kind="token"),
            Cell(token.top, kind="token"),
        ]
        for token in row.worst_tokens
    ]
    return table("Positions that differ most, as served", heads, rows) if rows else None


def tails(rows: Rows) -> Table | None:
    """Between what the probability of the true token changed at 98 % of the positions."""
    lines = [
        [
            cell(name),
            cell(f"{tail.view} {tail.text}"),
            *(_change(tail.quantiles.get(level)) for level in ("0.01", "0.99")),
        ]
        for name, row in rows.items()
        for tail in row.verdict.tails
    ]
    heads = ["Variant", "View and text", "1% fall below#", "1% rise above#"]
    return table("Change of the true token's probability", heads, lines) if lines else None


def _change(value: float | None) -> Cell:
    return cell(percent(value, 2, signed=True), value)


def divergence(rows: Rows) -> Table | None:
    """Quantiles of KL over the positions, in nats."""
    levels = {"0.5": "Median", "0.9": "90%", "0.95": "95%", "0.99": "99%", "0.999": "99.9%"}
    lines = []
    for name, row in rows.items():
        for text, one in row.kl_distribution.items():
            values = [*(one.quantiles.get(level) for level in levels), one.largest]
            cells = [cell(number(value), value) for value in values]
            lines.append(
                [cell(name), cell(text), *cells, cell(f"{one.positions:,}", one.positions)]
            )
    heads = [
        "Variant",
        "Text",
        *(f"{word}#" for word in (*levels.values(), "Largest", "Positions")),
    ]
    return table("Quantiles of KL over the positions, in nats", heads, lines) if lines else None
