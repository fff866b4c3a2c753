"""The gate's checks as a forest plot: how much of its margin each variant uses, with intervals.

Limits differ between precisions, so each figure is shown as a share of its own margin: 0 is the
reference, 100 % the limit. The figures themselves stand beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import altair as alt

from pipeline.records import Check, VariantSummary
from pipeline.report import theme
from pipeline.report.content import Chart
from pipeline.report.formatting import MISSING, finite, fixed, listed, number, percent

ROW, LEFT, RIGHT = 21, -1.0, 2.0


class Kind(NamedTuple):
    """`neutral` is the value without any change; `form` writes a value."""

    name: str
    title: str
    caption: str
    form: Callable[[Any], str]
    neutral: float = 0.0


PERCENT, POINTS, NATS = (
    partial(percent, digits=1),
    partial(percent, digits=2, signed=True),
    partial(number, digits=2),
)
KINDS = (
    Kind(
        "perplexity_ratio",
        "Perplexity",
        "Perplexity over the reference's, window by window.",
        partial(fixed, digits=4),
        1.0,
    ),
    Kind(
        "mean_kl",
        "Mean KL divergence",
        "KL(reference, artifact) in nats per token, over the full vocabulary.",
        NATS,
    ),
    Kind(
        "p99_kl",
        "99th percentile of KL",
        "One position in a hundred lies further from the reference than this, in nats.",
        NATS,
    ),
    Kind(
        "long_context_kl",
        "Mean KL by position",
        "Mean KL at positions up to the longest context served, as deployed.",
        NATS,
    ),
    Kind(
        "top1_agreement",
        "Same most likely token",
        "Share of positions with the reference's most likely token.",
        PERCENT,
        1.0,
    ),
    Kind(
        "accuracy_drop",
        "Accuracy",
        "Drop over the items of all tasks, each paired with itself; below 0 is a gain.",
        POINTS,
    ),
    Kind(
        "task_drop",
        "Accuracy, task by task",
        "The guard-rail: no single task may be shown to drop beyond its limit.",
        POINTS,
    ),
    Kind(
        "length_ratio",
        "Length of answers",
        "Tokens of generated answers over the reference's.",
        partial(fixed, digits=3),
        1.0,
    ),
)
SIGNS = {
    "PASS": ("circle", theme.COLOURS["pass"].light),
    "INCONCLUSIVE": ("diamond", theme.COLOURS["open"].light),
    "FAIL": ("M-1,-1L1,1M-1,1L1,-1", theme.COLOURS["fail"].light),
}


def charts(variants: dict[str, VariantSummary]) -> list[Chart]:
    """One for each kind of check that was made."""
    return [_drawn(kind, points) for kind in KINDS if (points := _points(kind, variants))]


def _points(kind: Kind, variants: dict[str, VariantSummary]) -> list[dict[str, Any]]:
    checks = [
        (name, check)
        for name, row in variants.items()
        for check in row.verdict.checks
        if check.kind == kind.name
    ]
    places = {check.of for _, check in checks}
    points = []
    for name, check in checks:
        row = " · ".join(
            part for part in (name, check.view, check.of if len(places) > 1 else "") if part
        )
        text = _text(kind, check)
        point = {
            "variant": name,
            "row": row,
            "status": check.status,
            "said": text,
            "label": f"{row}: {text}, {check.status}",
        }
        points.append({**point, **_shares(kind, check)})
    return points


def share(kind: Kind, check: Check, value: float) -> float | None:
    """A value as a share of the margin; None where either is not known."""
    if finite(value) is None or finite(check.limit) is None or check.limit == kind.neutral:
        return None
    return (value - kind.neutral) / (check.limit - kind.neutral)


def _shares(kind: Kind, check: Check) -> dict[str, Any]:
    """The estimate and its bounds as shares of the margin, cut to what is drawn."""
    used = share(kind, check, check.value)
    if used is None:
        return {"share": None}
    ends = [
        used if (end := share(kind, check, bound)) is None else end
        for bound in (check.low, check.high)
    ]
    cut = "over" if used > RIGHT else "under" if used < LEFT else ""
    return {"share": _cut(used), "from": _cut(min(ends)), "to": _cut(max(ends)), "cut": cut}


def _cut(value: float) -> float:
    return min(max(value, LEFT), RIGHT)


def _drawn(kind: Kind, points: list[dict[str, Any]]) -> Chart:
    passed = sum(point["status"] == "PASS" for point in points)
    others = list(dict.fromkeys(point["variant"] for point in points if point["status"] != "PASS"))
    label = (
        f"{kind.title}: share of the margin used by each variant. {passed} of {len(points)} checks"
        " passed"
    )
    label += f"; not passed by {listed(others)}." if others else "."
    wide, narrow = theme.both(lambda width: _chart(points, width), f"forest-{kind.name}", label)
    return Chart(f"forest-{kind.name}", kind.title, kind.caption, wide, narrow)


def _text(kind: Kind, check: Check) -> str:
    if finite(check.value) is None:
        return MISSING
    return (
        f"{kind.form(check.value)} ({interval(kind.form, check)}), limit"
        f" {kind.form(check.limit).removeprefix('+')}"
    )


def interval(form: Callable[[float], str], check: Check) -> str:
    return MISSING if finite(check.low) is None else f"{form(check.low)} to {form(check.high)}"


def _chart(points: list[dict[str, Any]], width: int) -> alt.LayerChart:
    order = [row["row"] for row in points]
    drawn = [row for row in points if row["share"] is not None]
    lows, highs = [row["from"] for row in drawn], [row["to"] for row in drawn]
    domain = [min([-0.06, *lows]), max([1.25, *highs])]
    y = alt.Y(
        "row:N",
        sort=order,
        axis=alt.Axis(
            title=None,
            labelLimit=230 if width > theme.NARROW else 150,
            ticks=False,
            domain=False,
            labelColor=theme.INK,
            grid=True,
        ),
        scale=alt.Scale(domain=order),
    )
    axis = alt.Axis(
        format=".0%",
        title="Share of the margin used",
        values=[-1, -0.5, 0, 0.5, 1, 1.5, 2],
        grid=False,
    )
    x = alt.X("share:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=axis)
    base = alt.Chart(theme.rows(points)).transform_filter("isValid(datum.share)")
    layers = [
        _rule(0.0, theme.LINE, []),
        _rule(1.0, theme.FAIL, [5, 3]),
        base.mark_rule(strokeWidth=2, aria=False).encode(
            x=alt.X("from:Q"), x2="to:Q", y=y, color=_colour()
        ),
        base.transform_filter("datum.cut == ''")
        .mark_point(size=62, strokeWidth=2.2, opacity=1)
        .encode(
            x=x,
            y=y,
            color=_colour(),
            fill=alt.condition("datum.status == 'PASS'", _fill(), alt.value(theme.PAPER)),
            shape=alt.Shape("status:N", scale=_scale(0), legend=None),
            description="label:N",
        ),
        *(
            _arrow(base, side, shape, x, y)
            for side, shape in (("over", "triangle-right"), ("under", "triangle-left"))
        ),
    ]
    if width > theme.NARROW:
        beside = alt.value(alt.expr("width + 10"))
        text = alt.Chart(theme.rows(points)).mark_text(
            align="left", color=theme.MUTED, fontSize=11, aria=False
        )
        layers.append(text.encode(x=beside, y=y, text="said:N"))
    beyond = (
        34 if width > theme.NARROW else 4
    )  # where Arial and its like are missing, letters are a sixth wider than was measured
    padding = {"left": 0, "right": beyond, "top": 4, "bottom": 6}
    return theme.layered(*layers, height=ROW * len(points), padding=padding)


def _scale(place: int) -> alt.Scale:
    return alt.Scale(domain=list(SIGNS), range=[sign[place] for sign in SIGNS.values()])


def _colour() -> alt.Color:
    return alt.Color("status:N", scale=_scale(1), legend=None)


def _fill() -> alt.Fill:
    return alt.Fill("status:N", scale=_scale(1), legend=None)


def _rule(at: float, colour: str, dash: list[int]) -> alt.Chart:
    rule = alt.Chart(theme.rows([{"at": at}])).mark_rule(
        color=colour, strokeDash=dash, strokeWidth=1.5, aria=False
    )
    drawn: alt.Chart = rule.encode(x="at:Q")
    return drawn


def _arrow(base: alt.Chart, side: str, shape: str, x: alt.X, y: alt.Y) -> alt.Chart:
    """Beyond what is drawn: an arrow at the edge."""
    marks = base.transform_filter(f"datum.cut == '{side}'").mark_point(
        shape=shape, size=80, filled=True, opacity=1
    )
    drawn: alt.Chart = marks.encode(x=x, y=y, color=_colour(), description="label:N")
    return drawn
