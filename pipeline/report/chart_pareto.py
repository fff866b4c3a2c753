"""Quality against throughput and against size: which variant is worth its price."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import altair as alt

from pipeline.records import Summary
from pipeline.report import theme
from pipeline.report.content import Chart
from pipeline.report.formatting import estimate, listed, number, size

LEAST_KL = 1e-6  # what a log axis can show of a divergence of nothing
HEIGHT, LETTER, LABEL, DOT = (
    320,
    7,
    12,
    6,
)  # of the plot, of a letter's width, of a label and of half a dot, in pixels
MARGIN = 70  # what the axis takes of the width
CROSS = "M-.55,-.55L.55,.55M-.55,.55L.55,-.55"
FASTER = "Lower is better, further right is faster."
SMALLER = "Lower is better, further left is smaller."
LINE_DRAWN = "The line joins the best trade-offs: no other variant that passed is better in both."
LEGEND = "Filled: passed. Crossed out: not passed."

Point = dict[str, Any]


class Box(NamedTuple):
    """What a label must not lie on, in pixels from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float

    def hits(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


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
    across = theme.Axis.over([end for point in points for end in _ends(point, "x") if end > 0])
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
    base = alt.Chart(theme.rows(_placed(points, across, up, width - MARGIN)))
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
        _names(base, "left", x, fill),
        _names(base, "right", x, fill),
    ]
    return theme.layered(*layers, height=HEIGHT)


def _ends(point: Point, axis: str) -> list[float]:
    """The point and, where it has them, its bounds."""
    return [
        value
        for key in (axis, f"{axis}_low", f"{axis}_high")
        if (value := point.get(key)) is not None
    ]


def _names(base: alt.Chart, side: str, x: alt.X, fill: alt.Fill) -> alt.Chart:
    there = base.transform_filter(f"datum.side == '{side}'")
    shift = DOT + 2 if side == "right" else -DOT - 2
    text = there.mark_text(
        align="left" if side == "right" else "right", dx=shift, baseline="middle", **theme.HALO
    )
    named: alt.Chart = text.encode(
        x=x, y=alt.Y("at:Q", scale=None, axis=None), text="name:N", fill=fill
    )
    return named


def _placed(points: list[Point], across: theme.Axis, up: theme.Axis, width: float) -> list[Point]:
    """Each label at the nearest place beside its point where it lies on no dot, no interval and no
    other label."""

    def x(value: float) -> float:
        return across.share(value) * width

    def y(value: float) -> float:
        return HEIGHT * (1 - up.share(value))

    taken = [box for point in points for box in _marks(point, x, y)]
    placed = []
    for point in sorted(points, key=lambda point: -float(point["y"])):
        best = None
        for at, side in (
            (y(point["y"]) + shift, side) for shift in SHIFTS for side in ("right", "left")
        ):
            box = _label(x(point["x"]), at, side, LETTER * len(point["name"]))
            if box.left < 0 or box.right > width or box.top < 0 or box.bottom > HEIGHT:
                continue
            best = best or (at, side, box)
            if not any(box.hits(other) for other in taken):
                best = (at, side, box)
                break
        at, side, box = best or (
            y(point["y"]),
            "right",
            _label(x(point["x"]), y(point["y"]), "right", 0),
        )
        taken.append(box)
        placed.append({**point, "side": side, "at": at})
    return placed


SHIFTS = [0.0] + [sign * step for step in range(11, 80, 4) for sign in (-1, 1)]


def _label(x: float, at: float, side: str, length: float) -> Box:
    left = x + DOT + 2 if side == "right" else x - DOT - 2 - length
    return Box(left, at - LABEL / 2, left + length, at + LABEL / 2)


def _marks(point: Point, x: Any, y: Any) -> list[Box]:
    """The dot and its two intervals."""
    middle, height = x(point["x"]), y(point["y"])
    across, up = [x(end) for end in _ends(point, "x")], [y(end) for end in _ends(point, "y")]
    dot = Box(middle - DOT, height - DOT, middle + DOT, height + DOT)
    return [
        dot,
        Box(min(across), height - 1, max(across), height + 1),
        Box(middle - 1, min(up), middle + 1, max(up)),
    ]
