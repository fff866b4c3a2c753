"""Tables on speed, memory and cost."""

from __future__ import annotations

from pipeline.records import Benchmark, Latency, Level, Summary, VariantSummary
from pipeline.report import figures
from pipeline.report.content import Cell, Table, cell, table
from pipeline.report.formatting import MISSING, estimate, faster, number, percent, setting, size

Rows = dict[str, VariantSummary]


def load(level: Level) -> str:
    """In words: so many requests at once, or Poisson arrivals at a share of the variant's own
    highest rate."""
    if level.loop == "closed":
        return f"{level.concurrency} at once"
    return f"{percent(level.fraction, 0)} of its highest rate, {number(level.rate_per_s)}/s"


def _each(rows: Rows, http: bool) -> list[tuple[str, VariantSummary, str, Level]]:
    """Variant and profile with each level, the closed loop first."""
    loads = []
    for name, row in rows.items():
        timed = row.http if http else row.benchmark
        for profile in sorted(timed.profiles if timed else {}, key=lambda key: key != "deployed"):
            levels = [*row.levels(profile, "closed", http), *row.levels(profile, "open", http)]
            loads += [(name, row, profile, level) for level in levels]
    return loads


def levels(rows: Rows, http: bool = False) -> Table | None:
    """Every load; None where nothing was timed."""
    lines = []
    for name, row, profile, level in _each(rows, http):
        own = (
            profile == "deployed"
            and level.loop == "closed"
            and not http
            and row.quantizer is not None
        )
        ratio = row.speedup.get(str(level.concurrency)) if own else None
        busy = figures.busy(level)
        lines.append(
            [
                cell(name),
                cell(profile),
                cell(load(level), level.concurrency),
                cell(
                    estimate(level.output_tokens_per_s), level.output_tokens_per_s.median, busy=busy
                ),
                cell(faster(ratio) if ratio else "\u2013", ratio.ratio if ratio else None),
                *(_latency(latency) for latency in (level.ttft_ms, level.tpot_ms, level.e2e_ms)),
                cell(
                    f"{level.failed} of {level.requests}",
                    level.failed,
                    "badge fail" if level.failed else "",
                ),
                cell("\u2013" if level.goodput_per_s is None else estimate(level.goodput_per_s)),
            ]
        )
    heads = [
        "Variant",
        "Profile",
        "Load",
        "Output tokens/s#",
        "Over unquantized#",
        "TTFT, ms#",
        "TPOT, ms#",
        "E2E, ms#",
        "Failed#",
        "In time, requests/s#",
    ]
    return table("Every load over HTTP" if http else "Every load", heads, lines) if lines else None


def _latency(latency: Latency | None) -> Cell:
    return (
        cell(MISSING)
        if latency is None
        else cell(estimate(latency.estimate), latency.estimate.median)
    )


def percentiles(rows: Rows, http: bool = False) -> Table | None:
    """Only those that the number of requests can support; None where it supports none."""
    lines = []
    for name, _, profile, level in _each(rows, http):
        cells = [
            cell(_percentiles(one))
            for one in (level.ttft_ms, level.tpot_ms, level.itl_ms, level.e2e_ms)
        ]
        if any(one.text for one in cells):
            lines.append([cell(name), cell(profile), cell(load(level)), *cells])
    heads = [
        "Variant",
        "Profile",
        "Load",
        *(f"{word}, ms" for word in ("TTFT", "TPOT", "ITL", "E2E")),
    ]
    return table("Latency percentiles", heads, lines) if lines else None


def _percentiles(latency: Latency | None) -> str:
    return (
        ", ".join(f"{name} {number(value)}" for name, value in latency.percentiles.items())
        if latency
        else ""
    )


def resources(rows: Rows) -> Table:
    """Size, memory and load time, and what a million output tokens cost."""
    costs = list(
        dict.fromkeys(
            (cost.currency, cost.utilisation)
            for row in rows.values()
            for cost in row.benchmark.costs
        )
    )
    heads = [
        "Variant",
        "Size on disk#",
        "Peak memory#",
        "Load, s#",
        *(f"{coin} a million output tokens, {percent(busy, 0)} busy#" for coin, busy in costs),
    ]
    lines = []
    for name, row in rows.items():
        profile = row.benchmark.profiles.get("deployed")
        peak, loaded = (profile.peak_memory_bytes, profile.load_s) if profile else (None, None)
        paid = {
            (cost.currency, cost.utilisation): cost.per_million_output_tokens
            for cost in row.benchmark.costs
        }
        lines.append([
            cell(name),
            cell(size(row.size_bytes), row.size_bytes),
            cell(size(peak), peak),
            cell(estimate(loaded), loaded.median if loaded else None),
            *(cell(number(paid.get(key)), paid.get(key)) for key in costs),
        ])  # fmt: skip
    return table("Memory, size, time to load and cost", heads, lines)


def performance(rows: Rows) -> Table | None:
    """Why the performance was judged as it was, where it was asked for or could not be measured;
    None where neither."""
    plain = ("BASELINE", "NOT ASKED")
    lines = [
        [cell(name), cell(row.performance.status), Cell(row.performance.reason, kind="text")]
        for name, row in rows.items()
        if row.performance.status not in plain
    ]
    return table("Was it worth it", ["Variant", "Performance", "Why"], lines) if lines else None


def notices(rows: Rows) -> Table | None:
    """What a reader must know before believing the speeds: what was not timed, then what was noted
    while timing."""
    noted = [
        (name, f"not benchmarked: {row.benchmark.reason}")
        for name, row in rows.items()
        if not row.benchmark.measured
    ]
    timings = [
        (name, timed) for name, row in rows.items() for timed in (row.benchmark, row.http) if timed
    ]
    noted += [(name, notice) for name, timed in timings for notice in timed.notices]
    lines = [[cell(name), Cell(notice, kind="text")] for name, notice in dict.fromkeys(noted)]
    return table("What to know about these figures", ["Variant", "Noted"], lines) if lines else None


def machine(benchmark: Benchmark) -> str:
    """Processor and instruction sets, and the device where it is another than the processor."""
    if not benchmark.machine:
        return "a machine that was not recorded"
    sets = benchmark.machine.get("instruction_sets")
    device = f", device {benchmark.device}" if benchmark.device not in (None, "cpu") else ""
    return (
        f"{benchmark.machine.get('cpu')}, {benchmark.machine.get('cores')}"
        f" cores{f' ({setting(sets)})' if sets else ''}{device}"
    )


def machines(summary: Summary) -> str:
    """A figure without its machine means nothing; variants timed on different ones are named with
    theirs."""
    by_machine: dict[str, list[str]] = {}
    for name, row in summary.variants.items():
        if row.benchmark.machine:
            by_machine.setdefault(machine(row.benchmark), []).append(name)
    return " ".join(f"{', '.join(names)} on {place}." for place, names in by_machine.items())
