"""Quality against throughput and against size: which variant is worth its price."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from pipeline.report import parts, theme
from pipeline.report.found import highest_concurrency, mean_kl, throughput
from pipeline.report.words import MISSING, dig, estimate, finite, listed, number, size

LEAST_KL = 1e-6  # what a log axis can show of a divergence of nothing
HEIGHT, LABEL = 320, 15  # of the plot, and between labels, in pixels
CROSS = "M-.55,-.55L.55,.55M-.55,.55L.55,-.55"
FASTER = "Lower is better, further right is faster."
SMALLER = "Lower is better, further left is smaller."
LINE_DRAWN = "The line joins the best trade-offs: no other variant that passed is better in both."
LEGEND = "Filled: passed. Crossed out: not passed."

Point = dict[str, Any]


def figures(summary: dict[str, Any]) -> list[parts.Figure]:
    """A figure without any point is left out."""
    concurrency, names = highest_concurrency(summary), list(summary["variants"])
    speeds, sizes = [], []
    for name, row in summary["variants"].items():
        point = {"variant": name, "status": row["verdict"]["status"], **mean_kl(row)}
        speed, weight = throughput(row, concurrency), finite(row.get("size_bytes"))
        low = finite(dig(speed, "low"))
        bounds = {"x": finite(dig(speed, "median")), "x_low": low and max(low, 0.0), "x_high": finite(dig(speed, "high"))}
        speeds.append({**point, **bounds, "written": estimate(speed)})
        sizes.append({**point, "x": weight and weight / 1e6, "written": size(weight)})
    found = [
        _figure("speed", "Quality against throughput", f"Output tokens/s at concurrency {concurrency}", FASTER, -1, speeds, names),
        _figure("size", "Quality against size", "Size on disk, MB", SMALLER, 1, sizes, names),
    ]
    return [figure for figure in found if figure]


def _figure(key: str, title: str, axis: str, note: str, sign: int, points: list[Point], names: list[str]) -> parts.Figure | None:
    """`sign` is -1 where more is better."""
    drawn = [point for point in points if point["x"] is not None and point["kl"] is not None]
    if not drawn:
        return None
    for point in drawn:
        passed = point["status"] == "PASS"
        point.update(passed=passed, name=point["variant"] if passed else f"{point['variant']} ({point['status']})")
        point.update({f"y{end}": max(point[f"kl{end}"] or 0.0, LEAST_KL) for end in ("", "_low", "_high")})
        point["label"] = f"{point['name']}: {axis} {point['written']}, mean KL {number(point['kl'], 3)} nats"
    front = _front(drawn, sign)
    missing = [point["variant"] for point in points if point not in drawn]
    drawn_line = f" {LINE_DRAWN}" if len(front) > 1 else ""
    caption = f"{note}{drawn_line} {LEGEND}" + (f" Not measured: {listed(missing)}." if missing else "")
    best = listed([point["variant"] for point in front]) or "none"
    label = f"{title}: {len(drawn)} variants. Best trade-offs among those that passed: {best}."
    wide, narrow = theme.both(lambda width: _chart(drawn, front, axis, names, width), f"pareto-{key}", label)
    return parts.Figure(f"pareto-{key}", title, caption, wide, narrow, _table(title, axis, points))


def _front(points: list[Point], sign: int) -> list[Point]:
    """The passed ones that none beats in both, from the best quality on."""
    front: list[Point] = []
    for point in sorted((point for point in points if point["passed"]), key=lambda point: (point["y"], sign * point["x"])):
        if not front or sign * point["x"] < sign * front[-1]["x"]:
            front.append(point)
    return front


def _chart(points: list[Point], front: list[Point], axis: str, names: list[str], width: int) -> alt.LayerChart:
    lowest, highest = min(point["y_low"] for point in points), max(point["y_high"] for point in points)
    domain = [10 ** (math.log10(lowest) - 0.3), 10 ** (math.log10(highest) + 0.3)]
    furthest = 1.06 * max(point.get("x_high") or point["x"] for point in points)
    x_scale, y_scale = alt.Scale(domain=[0, furthest], nice=False), alt.Scale(type="log", domain=domain, nice=False)
    x = alt.X("x:Q", scale=x_scale, axis=alt.Axis(title=axis, tickCount=theme.ticks(width), format=",.6~g"))
    tens = [10.0**power for power in range(math.ceil(math.log10(domain[0])), math.floor(math.log10(domain[1])) + 1)]
    y = alt.Y("y:Q", scale=y_scale, axis=alt.Axis(title="Mean KL, nats per token (log scale)", format="~g", values=tens))
    colour = alt.Color("variant:N", scale=theme.colours(names), legend=None)
    fill = alt.Fill("variant:N", scale=theme.colours(names), legend=None)
    inside = alt.condition("datum.passed", fill, alt.value(theme.PAPER))
    line = alt.Chart(theme.rows(front)).mark_line(color=theme.LINE, strokeWidth=1.5, aria=False)
    base = alt.Chart(theme.rows(_placed(points, domain, furthest, width)))
    bars = base.mark_rule(strokeWidth=1.5, aria=False)
    crosses = base.transform_filter("!datum.passed").mark_point(shape=CROSS, size=70, strokeWidth=2, opacity=1, aria=False)
    layers = [
        line.encode(x=x, y=y, order=alt.Order("y:Q")),
        bars.transform_filter("isValid(datum.x_low)").encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour),
        bars.encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour),
        base.mark_point(size=90, strokeWidth=2, opacity=1).encode(x=x, y=y, color=colour, fill=inside, description="label:N"),
        crosses.encode(x=x, y=y, color=colour),
        _names(base, "left", x, fill),
        _names(base, "right", x, fill),
    ]
    return theme.layered(*layers, height=HEIGHT)


def _names(base: alt.Chart, side: str, x: alt.X, fill: alt.Fill) -> alt.Chart:
    there = base.transform_filter(f"datum.side == '{side}'")
    text = there.mark_text(align="right", dx=-10, baseline="middle", **theme.HALO)
    if side == "right":
        text = there.mark_text(align="left", dx=10, baseline="middle", **theme.HALO)
    named: alt.Chart = text.encode(x=x, y=alt.Y("at:Q", scale=None, axis=None), text="name:N", fill=fill)
    return named


def _placed(points: list[Point], domain: list[float], furthest: float, width: int) -> list[Point]:
    """Each label beside its point, on the side with room, and below the label before it where both would touch.

    `at` is in pixels from the top, for which the log scale is worked out here.
    """
    lowest, highest = (math.log10(bound) for bound in domain)
    before, placed = {"left": -math.inf, "right": -math.inf}, []
    for point in sorted(points, key=lambda point: -float(point["y"])):
        height = HEIGHT * (highest - math.log10(point["y"])) / (highest - lowest)
        room = (1 - point["x"] / furthest) * (width - 60)
        side = "right" if room > 7 * len(point["name"]) + 10 else "left"
        before[side] = max(height, before[side] + LABEL)
        placed.append({**point, "side": side, "at": before[side]})
    return placed


def _table(title: str, axis: str, points: list[Point]) -> parts.Table:
    columns = [
        parts.Column("Variant"),
        parts.Column(axis, True),
        parts.Column("Mean KL, nats", True),
        parts.Column("Accuracy verdict"),
    ]
    rows = []
    for point in points:
        bounds = f"{number(point['kl'], 3)} ({number(point['kl_low'], 3)} to {number(point['kl_high'], 3)})"
        kl = parts.cell(MISSING if point["kl"] is None else bounds, point["kl"])
        rows.append([parts.cell(point["variant"]), parts.cell(point["written"], point["x"]), kl, parts.status(point["status"])])
    return parts.Table(title, columns, rows)
