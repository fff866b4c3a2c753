"""The figures of one variant that can be set beside another's, from the report's summary. Pure."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pipeline.benchmark.speed_statistics import QUIET_SHARE
from pipeline.records import Check, Estimate, Level, VariantSummary
from pipeline.report.formatting import estimate, finite

MEMORY_MARGIN = (
    0.05  # peak memory has no interval: less is a page cache or an allocator, not the artifact
)


class Metric(NamedTuple):
    """`margin` is the share by which a figure without interval must be better; None where intervals
    must separate."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    margin: float | None = None
    timed: bool = True


class Figure(NamedTuple):
    """`bar` says why the figure cannot win; empty where it can. `busy`: other processes took the
    machine's time meanwhile."""

    median: float
    low: float | None = None
    high: float | None = None
    bar: str = ""
    busy: bool = False


Figures = dict[Metric, Figure]
SIZE = Metric("size_mb", "Size on disk", "MB", "lower", margin=0.0, timed=False)
MEMORY = Metric("peak_memory_gb", "Peak memory", "GB", "lower", margin=MEMORY_MARGIN)
LOAD = Metric("load_s", "Load time", "s", "lower")
CLOSEST = Metric("mean_kl", "Mean KL", "nats", "lower", timed=False)


def of(row: VariantSummary, profile: str, as_deployed: bool = True) -> Figures:
    """Everything that is there of a variant in one profile; of one that was not benchmarked, its
    size.

    Cost and goodput are of the deployed profile alone, so they are no part of a comparison of
    another (`as_deployed` false)."""
    figures = {SIZE: Figure(row.size_bytes / 1e6)}
    timed = row.benchmark.profiles.get(profile)
    if timed is None:
        return figures
    closed = row.levels(profile)
    if closed:
        for level in closed:
            figures |= _throughput(level)
        figures |= _latencies(closed[0])
    figures |= {LOAD: _figure(timed.load_s)}
    if timed.peak_memory_bytes is not None:
        figures[MEMORY] = Figure(timed.peak_memory_bytes / 1e9, bar=_failures(timed.levels))
    if as_deployed:
        figures |= _costs(row)
        for level in row.levels(profile, "open"):
            figures |= _goodput(level)
    return {
        metric: figure for metric, figure in figures.items() if finite(figure.median) is not None
    }


def busy(level: Level | None) -> bool:
    return level is not None and level.others_share > QUIET_SHARE


def throughput(level: Level) -> Figure:
    return _figure(level.output_tokens_per_s, level)


def best_level(row: VariantSummary) -> Level | None:
    """The closed-loop level of the highest throughput, as served."""
    return max(row.levels(), key=lambda level: level.output_tokens_per_s.median, default=None)


def _throughput(level: Level) -> Figures:
    at = level.concurrency
    return {
        Metric(
            f"tokens_per_s_at_{at}", f"Output tokens/s at concurrency {at}", "tokens/s", "higher"
        ): throughput(level)
    }


def _latencies(level: Level) -> Figures:
    """At the lowest concurrency, where a request waits for no other."""
    figures, at = {}, level.concurrency
    for name, latency in (("ttft", level.ttft_ms), ("tpot", level.tpot_ms), ("e2e", level.e2e_ms)):
        if latency is not None:
            metric = Metric(
                f"{name}_ms_at_{at}", f"{name.upper()}, median, at concurrency {at}", "ms", "lower"
            )
            figures[metric] = _figure(latency.estimate, level)
    return figures


def _goodput(level: Level) -> Figures:
    """A fraction of the variant's own highest rate, so the rates differ between variants; the
    figure is requests in time."""
    if level.goodput_per_s is None:
        return {}
    title = f"Goodput at {level.fraction:.0%} of the variant's own highest rate"
    metric = Metric(f"goodput_at_{level.fraction:g}", title, "requests/s", "higher")
    return {metric: _figure(level.goodput_per_s, level)}


def _costs(row: VariantSummary) -> Figures:
    """At the middle utilisation. The interval is that of the throughput behind it: nothing else in
    it was measured."""
    best, costs = best_level(row), row.benchmark.costs
    if not costs or best is None:
        return {}
    cost = sorted(costs, key=lambda cost: cost.utilisation)[len(costs) // 2]
    title = f"Cost per million output tokens, busy {cost.utilisation:.0%} of the time"
    metric = Metric("cost_per_million_output_tokens", title, cost.currency, "lower")
    rate, median = throughput(best), cost.per_million_output_tokens
    if rate.low is None or rate.high is None or rate.low <= 0:
        return {metric: rate._replace(median=median, low=None, high=None)}
    return {
        metric: rate._replace(
            median=median,
            low=median * rate.median / rate.high,
            high=median * rate.median / rate.low,
        )
    }


def _figure(estimated: Estimate | None, level: Level | None = None) -> Figure:
    if estimated is None:
        return Figure(math.nan)
    return Figure(
        estimated.median,
        estimated.low,
        estimated.high,
        _failures([level]) if level else "",
        busy(level),
    )


def _failures(levels: list[Level]) -> str:
    failed, requests = (
        sum(level.failed for level in levels),
        sum(level.requests for level in levels),
    )
    return f"{failed} of {requests} requests failed" if failed else ""


def better(metric: Metric, best: Figure, other: Figure) -> bool:
    """Whether the figures themselves tell: the intervals separate, or, without intervals, by more
    than the margin."""
    if metric.margin is not None:
        return best.median * (1 + metric.margin) < other.median
    if best.low is None or best.high is None or other.low is None or other.high is None:
        return False
    return best.low > other.high if metric.better == "higher" else best.high < other.low


def text(metric: Metric, figure: Figure) -> str:
    interval = Estimate(median=figure.median, low=figure.low, high=figure.high, cv=None, values=[])
    return f"{estimate(interval)} {metric.unit}{' (busy)' if figure.busy else ''}"


def quality(row: VariantSummary, view: str) -> dict[str, float | None]:
    """The worst of the texts in one view. Tasks are answered as deployed only."""
    ratio, kl, drop = (
        row.worst("perplexity_ratio", view),
        row.worst("mean_kl", view),
        row.worst("accuracy_drop"),
    )
    return {
        "perplexity_ratio": ratio.value if ratio else None,
        "mean_kl": kl.value if kl else None,
        "accuracy_drop": drop.value if drop and view == "deployed" else None,
    }


class Timing(NamedTuple):
    """What two timings must have in common to be compared."""

    device: str | None
    processor: str | None
    cores: int | None
    trace_of_requests: str | None
    way_to_the_engine: str


def timing(row: VariantSummary) -> Timing | None:
    """None for a variant that was not timed."""
    benchmark = row.benchmark
    if not benchmark.measured:
        return None
    machine = benchmark.machine
    return Timing(
        benchmark.device,
        machine.get("cpu"),
        machine.get("cores"),
        benchmark.trace_sha256,
        benchmark.over,
    )


def elsewhere(timed: Timing, usual: Timing) -> str:
    """In what a timing differs from the others."""
    different = []
    for key, here, there in zip(Timing._fields, timed, usual, strict=True):
        name = key.replace("_", " ")
        if here != there:
            different.append(
                name if key == "trace_of_requests" else f"{name} ({here}, not {there})"
            )
    return f"timed on another {' and '.join(different)}"


def apart(check: Check, other: Check) -> bool:
    """Whether the bounds of two checks do not overlap."""
    known = all(math.isfinite(bound) for bound in (check.low, check.high, other.low, other.high))
    return known and (check.high < other.low or check.low > other.high)
