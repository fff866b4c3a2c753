"""Where the label of a point stands in a chart: beside its point, on no dot, interval or other
label."""

from __future__ import annotations

from typing import Any, NamedTuple

import altair as alt

from pipeline.report import theme

LETTER, LABEL, DOT = 7, 12, 6  # a letter's width, a label's height and half a dot, in pixels
MARGIN = 70  # what the axis takes of a chart's width
SHIFTS = [0.0] + [sign * step for step in range(11, 80, 4) for sign in (-1, 1)]

Point = dict[str, Any]  # x and y; where they are known x_low, x_high, y_low, y_high


class Plot(NamedTuple):
    """The axes of a chart, and its extent in pixels."""

    across: theme.Axis
    up: theme.Axis
    chart_width: int
    height: int

    @property
    def width(self) -> int:
        return self.chart_width - MARGIN

    def x(self, value: float) -> float:
        return self.across.share(value) * self.width

    def y(self, value: float) -> float:
        return self.height * (1 - self.up.share(value))


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

    def within(self, plot: Plot) -> bool:
        return (
            self.left >= 0
            and self.right <= plot.width
            and self.top >= 0
            and self.bottom <= plot.height
        )


def axis(points: list[Point], key: str) -> theme.Axis:
    """Over all points and their intervals, as far as these lie above zero, where an axis begins."""
    above = [end for point in points for end in ends(point, key) if end > 0]
    return theme.Axis.over(above or [0.0])


def ends(point: Point, key: str) -> list[float]:
    """The point and, where it has them, its bounds."""
    return [
        value
        for name in (key, f"{key}_low", f"{key}_high")
        if (value := point.get(name)) is not None
    ]


def placed(points: list[Point], text: str, plot: Plot) -> list[Point]:
    """The points with `side` and `label_y`: each label at the nearest free place beside its point,
    beside it where none is free. `text` is the key of what the label says."""
    taken = [box for point in points for box in _marks(point, plot)]
    done = []
    for point in sorted(points, key=lambda point: -float(point["y"])):
        x, y, length = plot.x(point["x"]), plot.y(point["y"]), LETTER * len(point[text])
        places = [
            (side, y + shift, box)
            for shift in SHIFTS
            for side in ("right", "left")
            if (box := _label(x, y + shift, side, length)).within(plot)
        ]
        free = (place for place in places if not any(place[2].hits(other) for other in taken))
        side, label_y, box = next(free, (places or [("right", y, _label(x, y, "right", 0))])[0])
        taken.append(box)
        done.append({**point, "side": side, "label_y": label_y})
    return done


def drawn(base: alt.Chart, text: str, x: alt.X, fill: alt.Fill) -> list[alt.Chart]:
    """The labels of points that `placed` returned."""
    return [_side(base, side, text, x, fill) for side in ("left", "right")]


def _side(base: alt.Chart, side: str, text: str, x: alt.X, fill: alt.Fill) -> alt.Chart:
    there = base.transform_filter(f"datum.side == '{side}'")
    mark = (
        there.mark_text(align="left", dx=DOT + 2, baseline="middle", **theme.HALO)
        if side == "right"
        else there.mark_text(align="right", dx=-DOT - 2, baseline="middle", **theme.HALO)
    )
    y = alt.Y("label_y:Q", scale=None, axis=None)
    labelled: alt.Chart = mark.encode(x=x, y=y, text=f"{text}:N", fill=fill)
    return labelled


def _label(x: float, y: float, side: str, length: float) -> Box:
    left = x + DOT + 2 if side == "right" else x - DOT - 2 - length
    return Box(left, y - LABEL / 2, left + length, y + LABEL / 2)


def _marks(point: Point, plot: Plot) -> list[Box]:
    """The dot and its two intervals."""
    x, y = plot.x(point["x"]), plot.y(point["y"])
    across, up = (
        [plot.x(end) for end in ends(point, "x")],
        [plot.y(end) for end in ends(point, "y")],
    )
    return [
        Box(x - DOT, y - DOT, x + DOT, y + DOT),
        Box(min(across), y - 1, max(across), y + 1),
        Box(x - 1, min(up), x + 1, max(up)),
    ]
