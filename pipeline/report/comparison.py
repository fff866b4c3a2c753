"""Which variant is better in what: side by side, with a winner only where the figures can tell.
Pure.

As deployed, every variant runs as its engine serves it. Like for like, variants of two engines with
equally many bits run at the same precision (pipeline/report/like_for_like.py)."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pipeline import records
from pipeline.records import ComparedRow, Comparison, SideBySide, Value, VariantSummary
from pipeline.report import figures, like_for_like
from pipeline.report.figures import Figure, Figures, Metric
from pipeline.report.formatting import listed
from pipeline.report.recommendation import baselines, recommend
from pipeline.report.ship import ship

DEPLOYED = (
    "Every variant as its engine serves it, with that engine's own precision of activations and KV"
    " cache. Quality is that "
)
DEPLOYED += "of the deployed view."


class Decision(NamedTuple):
    """`tie` says in a few words why there is no winner; `reason` says it, or why there is one, with
    the figures. `leaders` are those at the top that cannot be told apart."""

    winner: str | None
    tie: str
    reason: str
    leaders: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A variant in one of its profiles, under the name that its row has; `view` is where its
    quality comes from."""

    label: str
    row: VariantSummary
    profile: str = "deployed"
    view: str = "deployed"


def compare(goal: str, variants: dict[str, VariantSummary]) -> Comparison:
    """Sections, a recommendation for each goal, and which variant to ship for the recipe's."""
    entries = [Entry(name, row) for name, row in variants.items()]
    groups = like_for_like.groups(variants)
    note = " ".join([DEPLOYED, *like_for_like.left_out(variants, groups)])
    sections = [section("As deployed", note, entries)]
    for group in groups:
        rows = [
            Entry(name, variants[name], profile, "weights")
            for name, profile in group.profiles.items()
        ]
        sections.append(section(group.title, group.note, rows, group.withheld))
    advice, unquantized = recommend(variants), baselines(variants)
    return Comparison(
        concurrency=concurrency(entries),
        sections=sections,
        recommendations=advice,
        baselines=unquantized,
        ship=ship(goal, variants, advice, unquantized),
    )


def concurrency(entries: list[Entry]) -> int | None:
    """The lowest, at which latency is compared; None where nothing was timed."""
    return min(
        (
            at
            for entry in entries
            for level in entry.row.levels()
            if (at := level.concurrency) is not None
        ),
        default=None,
    )


def section(title: str, note: str, entries: list[Entry], withheld: str = "") -> SideBySide:
    """`withheld` says why no row of this section may win; empty where one may."""
    by_label = {
        entry.label: figures.of(entry.row, entry.profile, entry.view == "deployed")
        for entry in entries
    }
    barred = _barred(entries)
    metrics = _metrics(list(by_label.values()))
    decided: dict[str, Decision] = {}
    for metric in metrics:
        values = {label: known[metric] for label, known in by_label.items() if metric in known}
        bars = barred["timed" if metric.timed else "stored"]
        decided[metric.key] = (
            Decision(None, "withheld", withheld) if withheld else winner(metric, values, bars)
        )
    return SideBySide(
        title=title,
        note=note,
        metrics=[
            records.Metric(key=m.key, title=m.title, unit=m.unit, better=m.better) for m in metrics
        ],
        rows=[_row(entry, by_label[entry.label], metrics) for entry in entries],
        winners={key: decision.winner for key, decision in decided.items()},
        leaders={key: list(decision.leaders) for key, decision in decided.items()},
        ties={key: decision.tie for key, decision in decided.items() if decision.tie},
        reasons={key: decision.reason for key, decision in decided.items()},
    )


def _metrics(rows: list[Figures]) -> list[Metric]:
    """Those that two rows have, or the only row; in the order of the first that has them."""
    counted = Counter(metric for row in rows for metric in row)
    return [metric for metric, count in counted.items() if count >= min(2, len(rows))]


def _row(entry: Entry, known: Figures, metrics: list[Metric]) -> ComparedRow:
    row = entry.row
    return ComparedRow(
        variant=entry.label,
        engine=row.engine,
        weights=row.weights,
        verdict=row.verdict.status,
        performance=row.performance.status,
        quality=figures.quality(row, entry.view),
        values={metric.key: _value(known.get(metric)) for metric in metrics},
    )


def _value(figure: Figure | None) -> Value | None:
    return (
        None
        if figure is None
        else Value(median=figure.median, low=figure.low, high=figure.high, busy=figure.busy)
    )


def _barred(entries: list[Entry]) -> dict[str, dict[str, str]]:
    """Rows that cannot win, with the reason: by what is stored (the verdict), and by how they were
    timed as well."""
    stored = {
        entry.label: f"its verdict is {entry.row.verdict.status}"
        for entry in entries
        if not entry.row.passed
    }
    timings = {entry.label: timed for entry in entries if (timed := figures.timing(entry.row))}
    if not timings:
        return {"stored": stored, "timed": stored}
    usual = Counter(timings.values()).most_common(1)[0][0]
    elsewhere = {
        label: figures.elsewhere(timed, usual) for label, timed in timings.items() if timed != usual
    }
    return {"stored": stored, "timed": {**stored, **elsewhere}}


def winner(metric: Metric, values: dict[str, Figure], barred: dict[str, str]) -> Decision:
    """The row that is better than every other that may win, and a sentence that says why, or who
    cannot be told apart."""
    bars = {
        label: bar for label, figure in values.items() if (bar := barred.get(label) or figure.bar)
    }
    contenders = [label for label in values if label not in bars]
    contenders.sort(key=lambda label: values[label].median, reverse=metric.better == "higher")
    out = "".join(f" {label} is left out: {bar}." for label, bar in bars.items())
    if len(contenders) < 2:
        alone = (
            f"Only {contenders[0]} has a figure that counts"
            if contenders
            else "No variant has a figure that counts"
        )
        return Decision(None, "nothing to compare", f"{alone}: there is nothing to compare.{out}")
    best, rest = contenders[0], contenders[1:]
    alike = [label for label in rest if not figures.better(metric, values[best], values[label])]
    if not alike:
        first = figures.text(metric, values[best])
        why = f"{best}: {first}; next is {rest[0]}: {figures.text(metric, values[rest[0]])}.{out}"
        return Decision(best, "", why, (best,))
    each = listed(
        [f"{label} has {figures.text(metric, values[label])}" for label in (best, *alike)]
    )
    why = _why(metric, values, [best, *alike])
    behind = [
        f"{label} with {figures.text(metric, values[label])}"
        for label in rest
        if label not in alike
    ]
    ahead = f" Behind them: {listed(behind)}." if behind else ""
    return Decision(
        None,
        why,
        f"{listed([best, *alike])} cannot be told apart ({why}): {each}.{ahead}{out}",
        (best, *alike),
    )


def _why(metric: Metric, values: dict[str, Figure], alike: list[str]) -> str:
    if metric.margin == 0:
        return "the same size"
    if metric.margin is not None:
        return f"no more than {metric.margin:.0%} apart"
    single = any(values[label].low is None for label in alike)
    return "measured once, so without an interval" if single else "their intervals overlap"
