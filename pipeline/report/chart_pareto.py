"""Quality against throughput and against size: which variant is worth its price."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from pipeline.records import Summary
from pipeline.report import labels, theme
from pipeline.report.content import Chart
from pipeline.report.formatting import estimate, listed, number, size

LEAST_KL = 1e-6  # what a log axis can show of a divergence of nothing
HEIGHT = 320  # of the plot, in pixels
CROSS = "M-.55,-.55L.55,.55M-.55,.55L.55,-.55"
FASTER = "Lower is better, further right is faster."
SMALLER = "Lower is better, further left is smaller."
LINE_DRAWN = "The line joins the best trade-offs: no other variant that passed is better in both."
LEGEND = "Filled: passed. Crossed out: not passed."

Point = dict[str, Any]


def charts(summary: Summary) -> list[Chart]:
    """A chart without any point is left out."""
    concurrency, names = summary.concurrency, list(summary.variants)
    speeds, sizes = [], []
    for name, row in summary.variants.items():
        kl = row.mean_kl
        if kl is None:
            continue
        passed = {
            "name": name if row.passed else f"{name} ({row.verdict.status})",
            "passed": row.passed,
        }
        bounds = {
            f"y{end}": max(value, LEAST_KL)
            for end, value in (("", kl.value), ("_low", kl.low), ("_high", kl.high))
        }
        point = {"variant": name, "kl": kl.value, **passed, **bounds}
        sizes.append({**point, "x": row.size_bytes / 1e6, "written": size(row.size_bytes)})
        speed = next(
            (
                level.output_tokens_per_s
                for level in row.levels()
                if level.concurrency == concurrency
            ),
            None,
        )
        if speed is not None:
            ends = {"x_low": speed.low, "x_high": speed.high}
            speeds.append({**point, "x": speed.median, **ends, "written": estimate(speed)})
    drawn = [
        _drawn(
            "speed",
            "Quality against throughput",
            f"Output tokens/s at concurrency {concurrency}",
            FASTER,
            -1,
            speeds,
            names,
        ),
        _drawn("size", "Quality against size", "Size on disk, MB", SMALLER, 1, sizes, names),
    ]
    return [chart for chart in drawn if chart]


def _drawn(
    key: str, title: str, axis: str, note: str, sign: int, points: list[Point], names: list[str]
) -> Chart | None:
    """`sign` is -1 where more is better."""
    if not points:
        return None
    for point in points:
        point["label"] = (
            f"{point['name']}: {axis} {point['written']}, mean KL {number(point['kl'])} nats"
        )
    front = _front(points, sign)
    missing = [name for name in names if name not in {point["variant"] for point in points}]
    drawn_line = f" {LINE_DRAWN}" if len(front) > 1 else ""
    caption = f"{note}{drawn_line} {LEGEND}" + (
        f" Not measured: {listed(missing)}." if missing else ""
    )
    best = listed([point["variant"] for point in front]) or "none"
    label = f"{title}: {len(points)} variants. Best trade-offs among those that passed: {best}."
    wide, narrow = theme.both(
        lambda width: _chart(points, front, axis, names, width), f"pareto-{key}", label
    )
    return Chart(f"pareto-{key}", title, caption, wide, narrow)


def _front(points: list[Point], sign: int) -> list[Point]:
    """The passed ones that none beats in both, from the best quality on."""
    front: list[Point] = []
    for point in sorted(
        (point for point in points if point["passed"]),
        key=lambda point: (point["y"], sign * point["x"]),
    ):
        if not front or sign * point["x"] < sign * front[-1]["x"]:
            front.append(point)
    return front


def _chart(
    points: list[Point], front: list[Point], axis: str, names: list[str], width: int
) -> alt.LayerChart:
    across = labels.axis(points, "x")
    lowest, highest = (
        min(point["y_low"] for point in points),
        max(point["y_high"] for point in points),
    )
    up = theme.Axis(lowest / 2, highest * 2, True)
    x = alt.X("x:Q", scale=across.scale, axis=across.drawn(axis, theme.ticks(width)))
    tens = [
        10.0**power
        for power in range(math.ceil(math.log10(up.low)), math.floor(math.log10(up.high)) + 1)
    ]
    y = alt.Y(
        "y:Q",
        scale=up.scale,
        axis=alt.Axis(title="Mean KL, nats per token (log scale)", format="~g", values=tens),
    )
    colour = alt.Color("variant:N", scale=theme.colours(names), legend=None)
    fill = alt.Fill("variant:N", scale=theme.colours(names), legend=None)
    inside = alt.condition("datum.passed", fill, alt.value(theme.PAPER))
    line = alt.Chart(theme.rows(front)).mark_line(color=theme.LINE, strokeWidth=1.5, aria=False)
    plot = labels.Plot(across, up, width, HEIGHT)
    base = alt.Chart(theme.rows(labels.placed(points, "name", plot)))
    bars = base.mark_rule(strokeWidth=1.5, aria=False)
    crosses = base.transform_filter("!datum.passed").mark_point(
        shape=CROSS, size=70, strokeWidth=2, opacity=1, aria=False
    )
    layers = [
        line.encode(x=x, y=y, order=alt.Order("y:Q")),
        bars.transform_filter("isValid(datum.x_low)").encode(
            x="x_low:Q", x2="x_high:Q", y=y, color=colour
        ),
        bars.encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour),
        base.mark_point(size=90, strokeWidth=2, opacity=1).encode(
            x=x, y=y, color=colour, fill=inside, description="label:N"
        ),
        crosses.encode(x=x, y=y, color=colour),
        *labels.drawn(base, "name", x, fill),
    ]
    return theme.layered(*layers, height=HEIGHT)
