"""Throughput against latency under load, requests served in time, and what a variant takes: memory, disk, time to load, money."""

from __future__ import annotations

import re
from typing import Any

import altair as alt
from markupsafe import Markup

from pipeline.report import parts, theme
from pipeline.report.found import levels, profiles
from pipeline.report.words import dig, estimate, finite, listed, number, percent, size

PROFILES = {"deployed": "as deployed", "matched": "at matched precision"}
LATENCIES = {"tpot_ms": "Time per output token", "ttft_ms": "Time to first token"}
ROW = 28

Point = dict[str, Any]


def curves(summary: dict[str, Any]) -> list[parts.Figure]:
    """Per profile and latency: one line a variant, from the lowest load to the highest."""
    found = [_curve(summary, profile, latency) for profile in profiles(summary) for latency in LATENCIES]
    return [figure for figure in found if figure]


def _curve(summary: dict[str, Any], profile: str, latency: str) -> parts.Figure | None:
    points = [
        point
        for name, row in summary["variants"].items()
        for level in levels(row.get("benchmark"), profile)
        if (point := _loaded(name, level, latency))
    ]
    if not points:
        return None
    shown, names = list(dict.fromkeys(point["variant"] for point in points)), list(summary["variants"])
    title = f"{LATENCIES[latency]} under load, {PROFILES.get(profile, profile)}"
    caption = "Median over all requests with 95% intervals; the number at each point is the concurrency. "
    caption += "Further right and lower is better."
    label = f"{title}: output tokens per second against milliseconds for {listed(shown)}."
    key, axes = f"curve-{latency}-{profile}", ("Output tokens/s", f"{LATENCIES[latency]}, ms")
    wide, narrow = theme.both(lambda width: _lines(points, axes, shown, names, width), key, label)
    return parts.Figure(key, title, caption, wide, narrow, _table(title, axes, "Concurrency", points))


def _loaded(name: str, level: dict[str, Any], latency: str) -> Point | None:
    speed, time = level["output_tokens_per_s"], dig(level, latency, "estimate")
    x, y = finite(dig(speed, "median")), finite(dig(time, "median"))
    if x is None or y is None:
        return None
    label = f"{name} at concurrency {level['concurrency']}: {estimate(speed)} output tokens/s, {estimate(time)} ms"
    at, written = level["concurrency"], (estimate(speed), estimate(time))
    return {"variant": name, "at": str(at), "order": at, "x": x, "y": y, "label": label, "written": written} | _bounds(speed, time)


def _bounds(x: Any, y: Any) -> dict[str, float | None]:
    return {f"{axis}_{end}": finite(dig(found, end)) for axis, found in (("x", x), ("y", y)) for end in ("low", "high")}


def _lines(points: list[Point], axes: tuple[str, str], shown: list[str], names: list[str], width: int) -> alt.LayerChart:
    x = alt.X("x:Q", scale=_from_zero(points, "x"), axis=alt.Axis(title=axes[0], tickCount=theme.ticks(width), format=",.6~g"))
    y = alt.Y("y:Q", scale=_from_zero(points, "y"), axis=alt.Axis(title=axes[1], tickCount=5, format=",.6~g"))
    colour = alt.Color("variant:N", scale=theme.colours(names), legend=theme.legend(shown, width))
    shape = alt.Shape("variant:N", scale=theme.shapes(names), legend=theme.legend(shown, width))
    fill = alt.Fill("variant:N", scale=theme.colours(names), legend=None)
    base = alt.Chart(theme.rows(points))
    line = base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, order="order:Q")
    dots = base.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape, description="label:N")
    spread = base.mark_rule(strokeWidth=1.2, opacity=0.55, aria=False)
    across = spread.transform_filter("isValid(datum.x_low)").encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour)
    along = spread.transform_filter("isValid(datum.y_low)").encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour)
    # Beside its own interval lines: above on the left for every other variant, below on the right for the rest.
    above = alt.Chart(theme.rows([point for point in points if shown.index(point["variant"]) % 2 == 0]))
    below = alt.Chart(theme.rows([point for point in points if shown.index(point["variant"]) % 2]))
    texts = [
        above.mark_text(align="right", dx=-5, dy=-9, fontSize=11, **theme.HALO),
        below.mark_text(align="left", dx=5, dy=11, fontSize=11, **theme.HALO),
    ]
    return theme.layered(across, along, line, dots, *(text.encode(x=x, y=y, text="at:N", fill=fill) for text in texts), height=300)


def _from_zero(points: list[Point], axis: str) -> alt.Scale:
    """With room for a label beyond the last point."""
    furthest = max(max(point[axis], point[f"{axis}_high"] or 0.0) for point in points)
    return alt.Scale(domain=[0, 1.08 * furthest or 1], nice=False)


def _table(title: str, axes: tuple[str, str], order: str, points: list[Point]) -> parts.Table:
    columns = [parts.Column("Variant"), parts.Column(order, True), *(parts.Column(axis, True) for axis in axes)]
    rows = [
        [
            parts.cell(point["variant"]),
            parts.cell(point["at"], point["order"]),
            parts.cell(point["written"][0], point["x"]),
            parts.cell(point["written"][1], point["y"]),
        ]
        for point in points
    ]
    return parts.Table(title, columns, rows)


def goodput(summary: dict[str, Any]) -> list[parts.Figure]:
    """Requests inside every SLO at Poisson arrivals; empty where nothing was timed so."""
    points = [
        point
        for name, row in summary["variants"].items()
        for level in levels(row.get("benchmark"), "deployed", "open")
        if (point := _served(name, level))
    ]
    if not points:
        return []
    shown, names, title = (
        list(dict.fromkeys(point["variant"] for point in points)),
        list(summary["variants"]),
        "Requests served in time",
    )
    caption = "Requests inside every service level objective per second, at random arrivals at the given rate. The number at each "
    caption += "point is the load as a share of the variant's own highest throughput."
    axes = ("Requests arriving per second", "Requests served in time per second")
    label = f"{title}: goodput against the rate of arrivals for {listed(shown)}."
    wide, narrow = theme.both(lambda width: _lines(points, axes, shown, names, width), "goodput", label)
    return [parts.Figure("goodput", title, caption, wide, narrow, _table(title, axes, "Load", points))]


def _served(name: str, level: dict[str, Any]) -> Point | None:
    rate, found = finite(level["rate_per_s"]), level["goodput_per_s"]
    served = finite(dig(found, "median"))
    if rate is None or served is None:
        return None
    load, written = percent(level["fraction"], 0), (number(rate), estimate(found))
    label = f"{name} at {load} load: {written[1]} of {written[0]} requests/s served in time"
    point = {"variant": name, "at": load, "order": rate, "x": rate, "y": served, "label": label, "written": written}
    return point | _bounds(None, found)


def resources(summary: dict[str, Any]) -> list[parts.Figure]:
    """Size on disk, peak memory and load time, one bar a variant; small enough for one width."""
    sizes, memory, load = [], [], []
    for name, row in summary["variants"].items():
        profile = dig(row.get("benchmark"), "profiles", "deployed")
        stored, peak = finite(row.get("size_bytes")), finite(dig(profile, "peak_memory_bytes"))
        sizes.append({"variant": name, "x": stored and stored / 1e6, "written": size(stored)})
        memory.append({"variant": name, "x": peak and peak / 1e6, "written": size(peak)})
        seconds = dig(profile, "load_s")
        load.append(
            {
                "variant": name,
                "x": finite(dig(seconds, "median")),
                "low": finite(dig(seconds, "low")),
                "high": finite(dig(seconds, "high")),
                "written": "not measured" if seconds is None else f"{estimate(seconds, 3)} s",
            }
        )
    found = [
        _bars("size", "Size on disk", "MB", "Everything in the artifact's folder.", sizes),
        _bars("memory", "Peak memory", "MB", "The most that the engine held while it was timed.", memory),
        _bars("load", "Time to load", "seconds", "Until the first token.", load),
    ]
    return [figure for figure in found if figure]


def _bars(key: str, title: str, unit: str, caption: str, points: list[Point]) -> parts.Figure | None:
    if all(point["x"] is None for point in points):
        return None
    for point in points:
        point["label"] = f"{point['variant']}: {title.lower()} {point['written']}"
        point["shown"] = re.sub(r" \(.*\)", "", point["written"])
    label = f"{title} in {unit} for {listed([point['variant'] for point in points])}."
    x = alt.X("x:Q", scale=alt.Scale(zero=True), axis=alt.Axis(title=None, labels=False, ticks=False, grid=False, domain=False))
    y = alt.Y("variant:N", sort=None, axis=alt.Axis(title=None, ticks=False, domain=False, labelColor=theme.INK, labelLimit=150))
    base = alt.Chart(theme.rows(points)).transform_calculate(length="isValid(datum.x) ? datum.x : 0")
    bars = base.mark_bar(color=theme.COLOURS["c1"].light, height=14).encode(x=x, y=y, description="label:N")
    text = base.mark_text(align="left", dx=5, color=theme.INK, aria=False).encode(x=alt.X("length:Q"), y=y, text="shown:N")
    spread = base.transform_filter("isValid(datum.low)").mark_rule(color=theme.INK, aria=False).encode(x="low:Q", x2="high:Q", y=y)
    spread_known = any(point.get("low") is not None for point in points)
    layers = [bars, *([spread] if spread_known else []), text]
    layered = theme.layered(*layers, height=ROW * len(points), padding={"left": 0, "right": 78, "top": 4, "bottom": 4})
    small = theme.draw(layered, f"bars-{key}", theme.NARROW, label)
    columns = [parts.Column("Variant"), parts.Column(f"{title} ({unit})" if key == "load" else title, True)]
    rows = [[parts.cell(point["variant"]), parts.cell(point["written"], point["x"])] for point in points]
    caption += " The line is the interval." if spread_known else ""
    return parts.Figure(f"bars-{key}", title, caption, Markup(), small, parts.Table(title, columns, rows))


def costs(summary: dict[str, Any]) -> list[parts.Figure]:
    """What a million output tokens cost, by the share of time that the machine is busy."""
    points = [
        _cost(name, found)
        for name, row in summary["variants"].items()
        for found in dig(row.get("benchmark"), "costs") or []
        if finite(found["per_million_output_tokens"]) is not None
    ]
    if not points:
        return []
    currency, per_hour = points[0]["currency"], points[0]["per_hour"]
    title = "Cost of a million output tokens"
    caption = f"At {number(per_hour)} {currency} per hour and the highest throughput measured; the shapes are shares of time that "
    caption += "the machine is busy."
    label = f"{title} in {currency} for {listed(list(dict.fromkeys(point['variant'] for point in points)))}."
    wide, narrow = theme.both(lambda width: _priced(points, currency, width), "costs", label)
    return [parts.Figure("costs", title, caption, wide, narrow, _prices(title, currency, points))]


def _cost(name: str, found: dict[str, Any]) -> Point:
    price, busy = finite(found["per_million_output_tokens"]), percent(found["utilisation"], 0)
    label = f"{name}, busy {busy} of the time: {number(price, 3)} {found['currency']} per million output tokens"
    return {
        "variant": name,
        "x": price,
        "busy": busy,
        "share": finite(found["utilisation"]),
        "label": label,
        "whole": finite(found["per_million_tokens"]),
        "currency": found["currency"],
        "per_hour": found["price_per_hour"],
    }


def _priced(points: list[Point], currency: str, width: int) -> alt.LayerChart:
    shares = list(dict.fromkeys(point["busy"] for point in sorted(points, key=lambda point: point["share"] or 0.0)))
    x = alt.X(
        "x:Q",
        scale=alt.Scale(zero=True),
        axis=alt.Axis(title=f"{currency} per million output tokens", tickCount=theme.ticks(width)),
    )
    y = alt.Y(
        "variant:N",
        sort=None,
        axis=alt.Axis(title=None, ticks=False, domain=False, grid=True, labelColor=theme.INK, labelLimit=150),
    )
    legend = alt.Legend(title="Machine busy", titleColor=theme.MUTED, titleFontWeight="normal", columns=4)
    shape = alt.Shape("busy:N", scale=theme.shapes(shares), sort=shares, legend=legend)
    dots = alt.Chart(theme.rows(points)).mark_point(size=70, filled=True, opacity=1, color=theme.COLOURS["c1"].light)
    return theme.layered(
        dots.encode(x=x, y=y, shape=shape, description="label:N"), height=ROW * len({p["variant"] for p in points})
    )


def _prices(title: str, currency: str, points: list[Point]) -> parts.Table:
    prices = [f"{currency} per million output tokens", f"{currency} per million tokens, prompts included"]
    columns = [parts.Column("Variant"), *(parts.Column(name, True) for name in ("Machine busy", *prices))]
    rows = [
        [
            parts.cell(point["variant"]),
            parts.cell(point["busy"], point["share"]),
            parts.cell(number(point["x"], 3), point["x"]),
            parts.cell(number(point["whole"], 3), point["whole"]),
        ]
        for point in points
    ]
    return parts.Table(title, columns, rows)
