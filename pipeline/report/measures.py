"""The figures of one variant that can be set beside another's, from the report's summary. Pure."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pipeline.records import Question
from pipeline.report.words import finite, number

MEMORY_MARGIN = 0.05  # peak memory has no interval: less is a page cache or an allocator, not the artifact


class Metric(NamedTuple):
    """`margin` is the share by which a figure without interval must be better; None where intervals must separate."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    margin: float | None = None
    timed: bool = True


class Figure(NamedTuple):
    """`bar` says why the figure cannot win; empty where it can."""

    median: float
    low: float | None = None
    high: float | None = None
    bar: str = ""


Figures = dict[Metric, Figure]
SIZE = Metric("size_mb", "Size on disk", "MB", "lower", margin=0.0, timed=False)
MEMORY = Metric("peak_memory_gb", "Peak memory", "GB", "lower", margin=MEMORY_MARGIN)
LOAD = Metric("load_s", "Load time", "s", "lower")


def figures(row: dict[str, Any], profile: str, as_deployed: bool = True) -> Figures:
    """Everything that is there of a variant in one profile; of one that was not benchmarked, its size.

    Cost and goodput are of the deployed profile alone, so they are no part of a comparison of another (`as_deployed` false).
    """
    found = {SIZE: Figure(row["size_bytes"] / 1e6)}
    timed = row["benchmark"]["profiles"].get(profile)
    if timed is None:
        return found
    closed = closed_levels(timed)
    if closed:
        for level in closed:
            found |= _throughput(level)
        found |= _latencies(closed[0])
    bar = _failures(timed["levels"])
    found |= {LOAD: _figure(timed["load_s"]), MEMORY: Figure(timed["peak_memory_bytes"] / 1e9, bar=bar)}
    if as_deployed:
        found |= _costs(row["benchmark"]["costs"], closed)
        for level in timed["levels"]:
            found |= _goodput(level)
    return {metric: figure for metric, figure in found.items() if finite(figure.median) is not None}


def closed_levels(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """Lowest concurrency first."""
    return sorted((level for level in profile["levels"] if level["loop"] == "closed"), key=lambda level: int(level["concurrency"]))


def best_level(profile: dict[str, Any]) -> dict[str, Any] | None:
    """The closed-loop level of the highest throughput."""
    return max(closed_levels(profile), key=lambda level: float(level["output_tokens_per_s"]["median"]), default=None)


def throughput(level: dict[str, Any]) -> Figure:
    return _figure(level["output_tokens_per_s"], _failures([level]))


def _throughput(level: dict[str, Any]) -> Figures:
    at = level["concurrency"]
    return {Metric(f"tokens_per_s_at_{at}", f"Output tokens/s at concurrency {at}", "tokens/s", "higher"): throughput(level)}


def _latencies(level: dict[str, Any]) -> Figures:
    """At the lowest concurrency, where a request waits for no other."""
    found, at = {}, level["concurrency"]
    for name in ("ttft", "tpot", "e2e"):
        if (latency := level[f"{name}_ms"]) is not None:
            metric = Metric(f"{name}_ms_at_{at}", f"{name.upper()}, median, at concurrency {at}", "ms", "lower")
            found[metric] = _figure(latency["estimate"], _failures([level]))
    return found


def _goodput(level: dict[str, Any]) -> Figures:
    """A fraction of the variant's own highest rate, so the rates differ between variants; the figure is requests in time."""
    if level["loop"] != "open" or level["goodput_per_s"] is None:
        return {}
    title = f"Goodput at {level['fraction']:.0%} of the variant's own highest rate"
    metric = Metric(f"goodput_at_{level['fraction']:g}", title, "requests/s", "higher")
    return {metric: _figure(level["goodput_per_s"], _failures([level]))}


def _costs(costs: list[dict[str, Any]], closed: list[dict[str, Any]]) -> Figures:
    """At the middle utilisation. The interval is that of the throughput behind it: nothing else in it was measured."""
    best = max(closed, key=lambda level: float(level["output_tokens_per_s"]["median"]), default=None)
    if not costs or best is None:
        return {}
    cost = sorted(costs, key=lambda cost: float(cost["utilisation"]))[len(costs) // 2]
    title = f"Cost per million output tokens, busy {cost['utilisation']:.0%} of the time"
    metric = Metric("cost_per_million_output_tokens", title, cost["currency"], "lower")
    rate, median = throughput(best), cost["per_million_output_tokens"]
    if rate.low is None or rate.high is None or rate.low <= 0:
        return {metric: Figure(median, bar=rate.bar)}
    return {metric: Figure(median, median * rate.median / rate.high, median * rate.median / rate.low, rate.bar)}


def _figure(estimate: dict[str, Any], bar: str = "") -> Figure:
    return Figure(estimate["median"], estimate["low"], estimate["high"], bar)


def _failures(levels: list[dict[str, Any]]) -> str:
    failed, requests = sum(level["failed"] for level in levels), sum(level["requests"] for level in levels)
    return f"{failed} of {requests} requests failed" if failed else ""


def better(metric: Metric, best: Figure, other: Figure) -> bool:
    """Whether the figures themselves tell: the intervals separate, or, without intervals, by more than the margin."""
    if metric.margin is not None:
        return best.median * (1 + metric.margin) < other.median
    if best.low is None or best.high is None or other.low is None or other.high is None:
        return False
    return best.low > other.high if metric.better == "higher" else best.high < other.low


def text(metric: Metric, figure: Figure) -> str:
    spread = "" if figure.low is None else f" ({number(figure.low)} to {number(figure.high)})"
    return f"{number(figure.median)}{spread} {metric.unit}"


def quality(row: dict[str, Any], view: str) -> dict[str, float | None]:
    """The worst of the texts in one view. Tasks are answered as deployed only."""

    def worst(kind: str, view: str = "") -> float | None:
        checks = [check for check in row["verdict"]["checks"] if Question.named(check["name"])[:2] == (kind, view)]
        return max((value for check in checks if (value := finite(check["value"])) is not None), default=None)

    return {
        "perplexity_ratio": worst("perplexity_ratio", view),
        "mean_kl": worst("mean_kl", view),
        "accuracy_drop": worst("accuracy_drop") if view == "deployed" else None,
    }


def place(row: dict[str, Any]) -> tuple[Any, ...] | None:
    """What two timings must have in common to be compared; None for a variant that was not timed."""
    benchmark = row["benchmark"]
    if not benchmark["measured"]:
        return None
    machine = benchmark["machine"]
    return (benchmark["device"], machine.get("cpu"), machine.get("cores"), benchmark["trace_sha256"], benchmark["over"])


def place_words(found: tuple[Any, ...], other: tuple[Any, ...]) -> str:
    """In what `found` differs from `other`."""
    names = ("device", "processor", "cores", "trace of requests", "way to the engine")
    pairs = zip(names, found, other, strict=True)
    different = [name if name.startswith("trace") else f"{name} ({a}, not {b})" for name, a, b in pairs if a != b]
    return f"timed on another {' and '.join(different)}"


def apart(check: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the bounds of two checks do not overlap."""
    bounds = [finite(found[key]) for found in (check, other) for key in ("low", "high")]
    if None in bounds:
        return False
    low, high, other_low, other_high = (float(bound) for bound in bounds if bound is not None)
    return high < other_low or low > other_high
