"""Throughput against latency under load, requests served in time, and what a variant takes: memory,
disk, time to load, money."""

from __future__ import annotations

from typing import Any

import altair as alt
from markupsafe import Markup

from pipeline.records import Cost, Estimate, Latency, Level, Summary
from pipeline.report import labels, theme
from pipeline.report.content import Chart
from pipeline.report.formatting import MISSING, estimate, listed, number, percent, size

PROFILES = {"deployed": "as deployed", "matched": "at matched precision"}
LATENCIES = {"tpot_ms": "Time per output token", "ttft_ms": "Time to first token"}
ROW, HEIGHT = 28, 300  # of a bar's row and of a plot, in pixels

Point = dict[str, Any]


def curves(summary: Summary) -> list[Chart]:
    """Per profile and latency: one line a variant, from the lowest load to the highest."""
    names = dict.fromkeys(
        name for row in summary.variants.values() for name in row.benchmark.profiles
    )
    profiles = sorted(names, key=lambda name: name != "deployed")
    drawn = [_curve(summary, profile, latency) for profile in profiles for latency in LATENCIES]
    return [chart for chart in drawn if chart]


def _curve(summary: Summary, profile: str, latency: str) -> Chart | None:
    points = [
        point
        for name, row in summary.variants.items()
        for level in row.levels(profile)
        if (point := _loaded(name, level, getattr(level, latency)))
    ]
    if not points:
        return None
    shown, names = list(dict.fromkeys(point["variant"] for point in points)), list(summary.variants)
    title = f"{LATENCIES[latency]} under load, {PROFILES.get(profile, profile)}"
    caption = (
        "Median over all requests with 95% intervals; the number at each point is the concurrency. "
    )
    caption += "Further right and lower is better."
    label = f"{title}: output tokens per second against milliseconds for {listed(shown)}."
    key, axes = f"curve-{latency}-{profile}", ("Output tokens/s", f"{LATENCIES[latency]}, ms")
    wide, narrow = theme.both(lambda width: _lines(points, axes, shown, names, width), key, label)
    return Chart(key, title, caption, wide, narrow)


def _loaded(name: str, level: Level, latency: Latency | None) -> Point | None:
    speed = level.output_tokens_per_s
    if latency is None or not speed.median:
        return None
    time = latency.estimate
    label = (
        f"{name} at concurrency {level.concurrency}: {estimate(speed)} output tokens/s,"
        f" {estimate(time)} ms"
    )
    return (
        _point(name, str(level.concurrency), level.concurrency or 0, label)
        | _ends("x", speed)
        | _ends("y", time)
    )


def _point(name: str, at: str, order: float, label: str) -> Point:
    return {"variant": name, "at": at, "order": order, "label": label}


def _ends(axis: str, measured: Estimate) -> dict[str, float | None]:
    return {axis: measured.median, f"{axis}_low": measured.low, f"{axis}_high": measured.high}


def _lines(
    points: list[Point], axes: tuple[str, str], shown: list[str], names: list[str], width: int
) -> alt.LayerChart:
    across, up = labels.axis(points, "x"), labels.axis(points, "y")
    x = alt.X("x:Q", scale=across.scale, axis=across.drawn(axes[0], theme.ticks(width)))
    y = alt.Y("y:Q", scale=up.scale, axis=up.drawn(axes[1], 5))
    colour = alt.Color("variant:N", scale=theme.colours(names), legend=theme.legend(shown, width))
    shape = alt.Shape("variant:N", scale=theme.shapes(names), legend=theme.legend(shown, width))
    fill = alt.Fill("variant:N", scale=theme.colours(names), legend=None)
    base = alt.Chart(theme.rows(points))
    line = base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, order="order:Q")
    dots = base.mark_point(size=60, filled=True, opacity=1).encode(
        x=x, y=y, color=colour, shape=shape, description="label:N"
    )
    spread = base.mark_rule(strokeWidth=1.2, opacity=0.55, aria=False)
    over = spread.transform_filter("isValid(datum.x_low)").encode(
        x="x_low:Q", x2="x_high:Q", y=y, color=colour
    )
    along = spread.transform_filter("isValid(datum.y_low)").encode(
        x=x, y="y_low:Q", y2="y_high:Q", color=colour
    )
    plot = labels.Plot(across, up, width, HEIGHT)
    at = alt.Chart(theme.rows(labels.placed(points, "at", plot)))
    return theme.layered(over, along, line, dots, *labels.drawn(at, "at", x, fill), height=HEIGHT)


def goodput(summary: Summary) -> list[Chart]:
    """Requests inside every SLO at Poisson arrivals; empty where nothing was timed so."""
    points = [
        _served(name, level, level.rate_per_s, level.goodput_per_s)
        for name, row in summary.variants.items()
        for level in row.levels(loop="open")
        if level.rate_per_s is not None and level.goodput_per_s is not None
    ]
    if not points:
        return []
    shown, names = list(dict.fromkeys(point["variant"] for point in points)), list(summary.variants)
    title = "Requests served in time"
    caption = (
        "Requests inside every service level objective per second, at random arrivals at the given"
        " rate. The number at each "
    )
    caption += "point is the load as a share of the variant's own highest throughput."
    axes = ("Requests arriving per second", "Requests served in time per second")
    label = f"{title}: goodput against the rate of arrivals for {listed(shown)}."
    wide, narrow = theme.both(
        lambda width: _lines(points, axes, shown, names, width), "goodput", label
    )
    return [Chart("goodput", title, caption, wide, narrow)]


def _served(name: str, level: Level, rate: float, served: Estimate) -> Point:
    load = percent(level.fraction, 0)
    label = f"{name} at {load} load: {estimate(served)} of {number(rate)} requests/s served in time"
    return _point(name, load, rate, label) | {"x": rate} | _ends("y", served)


def resources(summary: Summary) -> list[Chart]:
    """Size on disk, peak memory and load time, one bar a variant; small enough for one width."""
    sizes, memory, load = [], [], []
    for name, row in summary.variants.items():
        profile = row.benchmark.profiles.get("deployed")
        peak, seconds = (profile.peak_memory_bytes, profile.load_s) if profile else (None, None)
        sizes.append({"variant": name, "x": row.size_bytes / 1e6, "written": size(row.size_bytes)})
        memory.append(
            {"variant": name, "x": None if peak is None else peak / 1e6, "written": size(peak)}
        )
        bar = _ends("x", seconds) if seconds else {"x": None}
        load.append(
            {
                "variant": name,
                **bar,
                "written": f"{number(seconds.median)} s" if seconds else MISSING,
            }
        )
    drawn = [
        _bars("size", "Size on disk", "MB", "Everything in the artifact's folder.", sizes),
        _bars(
            "memory",
            "Peak memory",
            "MB",
            "The most that the engine held while it was timed.",
            memory,
        ),
        _bars("load", "Time to load", "seconds", "Until the first token.", load),
    ]
    return [chart for chart in drawn if chart]


def _bars(key: str, title: str, unit: str, caption: str, points: list[Point]) -> Chart | None:
    if all(point["x"] is None for point in points):
        return None
    for point in points:
        point["label"] = f"{point['variant']}: {title.lower()} {point['written']}"
    label = f"{title} in {unit} for {listed([point['variant'] for point in points])}."
    x = alt.X(
        "x:Q",
        scale=alt.Scale(zero=True),
        axis=alt.Axis(title=None, labels=False, ticks=False, grid=False, domain=False),
    )
    y = alt.Y(
        "variant:N",
        sort=None,
        axis=alt.Axis(title=None, ticks=False, domain=False, labelColor=theme.INK, labelLimit=150),
    )
    # The text stands behind the bar and its interval, whichever ends later.
    end = "isValid(datum.x_high) ? max(datum.x, datum.x_high) : isValid(datum.x) ? datum.x : 0"
    base = alt.Chart(theme.rows(points)).transform_calculate(length=end)
    bars = base.mark_bar(color=theme.COLOURS["c1"].light, height=14).encode(
        x=x, y=y, description="label:N"
    )
    text = base.mark_text(align="left", dx=5, color=theme.INK, aria=False).encode(
        x=alt.X("length:Q"), y=y, text="written:N"
    )
    spread_known = any(point.get("x_low") is not None for point in points)
    layers = [bars, text]
    if spread_known:
        spread = base.transform_filter("isValid(datum.x_low)").mark_rule(
            color=theme.INK, aria=False
        )
        layers.insert(1, spread.encode(x="x_low:Q", x2="x_high:Q", y=y))
    layered = theme.layered(
        *layers, height=ROW * len(points), padding={"left": 0, "right": 78, "top": 4, "bottom": 4}
    )
    small = theme.draw(layered, f"bars-{key}", theme.NARROW, label)
    return Chart(
        f"bars-{key}",
        title,
        caption + (" The line is the interval." if spread_known else ""),
        Markup(),
        small,
    )


def costs(summary: Summary) -> list[Chart]:
    """What a million output tokens cost, by the share of time that the machine is busy."""
    every = [(name, cost) for name, row in summary.variants.items() for cost in row.benchmark.costs]
    if not every:
        return []
    points, first = [_cost(name, cost) for name, cost in every], every[0][1]
    title = "Cost of a million output tokens"
    caption = (
        f"At {number(first.price_per_hour)} {first.currency} per hour and the highest throughput"
        " measured; the shapes are "
    )
    caption += "shares of time that the machine is busy."
    label = (
        f"{title} in {first.currency} for {listed(list(dict.fromkeys(name for name, _ in every)))}."
    )
    wide, narrow = theme.both(lambda width: _priced(points, first.currency, width), "costs", label)
    return [Chart("costs", title, caption, wide, narrow)]


def _cost(name: str, cost: Cost) -> Point:
    price, busy = cost.per_million_output_tokens, percent(cost.utilisation, 0)
    label = (
        f"{name}, busy {busy} of the time: {number(price)} {cost.currency} per million output"
        " tokens"
    )
    return {"variant": name, "x": price, "busy": busy, "share": cost.utilisation, "label": label}


def _priced(points: list[Point], currency: str, width: int) -> alt.LayerChart:
    shares = list(
        dict.fromkeys(point["busy"] for point in sorted(points, key=lambda point: point["share"]))
    )
    across = labels.axis(points, "x")
    x = alt.X(
        "x:Q",
        scale=across.scale,
        axis=across.drawn(f"{currency} per million output tokens", theme.ticks(width)),
    )
    names = alt.Axis(
        title=None, ticks=False, domain=False, grid=True, labelColor=theme.INK, labelLimit=150
    )
    y = alt.Y("variant:N", sort=None, axis=names)
    legend = alt.Legend(
        title="Machine busy", titleColor=theme.MUTED, titleFontWeight="normal", columns=4
    )
    shape = alt.Shape("busy:N", scale=theme.shapes(shares), sort=shares, legend=legend)
    dots = alt.Chart(theme.rows(points)).mark_point(
        size=70, filled=True, opacity=1, color=theme.COLOURS["c1"].light
    )
    height = ROW * len({point["variant"] for point in points})
    return theme.layered(dots.encode(x=x, y=y, shape=shape, description="label:N"), height=height)
