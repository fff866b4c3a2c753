"""The gate's checks as a forest plot: how much of its margin each variant uses, with intervals.

Limits differ between precisions, so each figure is shown as a share of its own margin: 0 is the reference, 100 % the limit.
The figures themselves stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import altair as alt

from pipeline.records import Question
from pipeline.report import parts, theme
from pipeline.report.words import MISSING, finite, fixed, listed, number, percent

ROW, LEFT, RIGHT = 21, -1.0, 2.0


class Kind(NamedTuple):
    """`neutral` is the value without any change; `form` writes a value."""

    name: str
    title: str
    caption: str
    form: Callable[[Any], str]
    neutral: float = 0.0


PERCENT, POINTS, NATS = partial(percent, digits=1), partial(percent, digits=2, signed=True), partial(number, digits=2)
KINDS = (
    Kind("perplexity_ratio", "Perplexity", "Perplexity over the reference's, window by window.", partial(fixed, digits=4), 1.0),
    Kind("mean_kl", "Mean KL divergence", "KL(reference, artifact) in nats per token, over the full vocabulary.", NATS),
    Kind("p99_kl", "99th percentile of KL", "One position in a hundred lies further from the reference than this, in nats.", NATS),
    Kind("long_context_kl", "Mean KL by position", "Mean KL at positions up to the longest context served, as deployed.", NATS),
    Kind("top1_agreement", "Same most likely token", "Share of positions with the reference's most likely token.", PERCENT, 1.0),
    Kind("accuracy_drop", "Accuracy", "Drop over the items of all tasks, each paired with itself; below 0 is a gain.", POINTS),
    Kind("task_drop", "Accuracy, task by task", "The guard-rail: no single task may be shown to drop beyond its limit.", POINTS),
    Kind("length_ratio", "Length of answers", "Tokens of generated answers over the reference's.", partial(fixed, digits=3), 1.0),
)
SIGNS = {
    "PASS": ("circle", theme.COLOURS["pass"].light),
    "INCONCLUSIVE": ("diamond", theme.COLOURS["open"].light),
    "FAIL": ("M-1,-1L1,1M-1,1L1,-1", theme.COLOURS["fail"].light),
}


def figures(variants: dict[str, Any]) -> list[parts.Figure]:
    """One for each kind of check that was made."""
    return [_figure(kind, found) for kind in KINDS if (found := _found(kind, variants))]


def _found(kind: Kind, variants: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, variant in variants.items():
        for check in variant["verdict"]["checks"]:
            asked = Question.named(check["name"])
            if asked.kind == kind.name:
                rows.append({**check, "variant": name, "view": asked.view, "of": asked.of})
    places = {row["of"] for row in rows}
    for row in rows:
        row["row"] = " · ".join(part for part in (row["variant"], row["view"], row["of"] if len(places) > 1 else "") if part)
        row.update(_shares(kind, row))
    return rows


def _shares(kind: Kind, check: dict[str, Any]) -> dict[str, Any]:
    """The estimate and its bounds as shares of the margin, cut to what is drawn; None where there is none."""
    value, limit = finite(check["value"]), finite(check["limit"])
    if value is None or limit is None or limit == kind.neutral:
        return {"share": None}
    shares = [(bound - kind.neutral) / (limit - kind.neutral) for bound in (value, *_bounds(check, value))]
    low, high = sorted(shares[1:])
    cut = "over" if shares[0] > RIGHT else "under" if shares[0] < LEFT else ""
    return {"share": _cut(shares[0]), "from": _cut(low), "to": _cut(high), "cut": cut, "used": shares[0]}


def _bounds(check: dict[str, Any], value: float) -> list[float]:
    return [value if (bound := finite(check[key])) is None else bound for key in ("low", "high")]


def _cut(share: float) -> float:
    return min(max(share, LEFT), RIGHT)


def _figure(kind: Kind, found: list[dict[str, Any]]) -> parts.Figure:
    for row in found:
        row["said"] = _said(kind, row)
        row["label"] = f"{row['row']}: {row['said']}, {row['status']}"
    passed = sum(row["status"] == "PASS" for row in found)
    others = list(dict.fromkeys(row["variant"] for row in found if row["status"] != "PASS"))
    label = f"{kind.title}: share of the margin used by each variant. {passed} of {len(found)} checks passed"
    label += f"; not passed by {listed(others)}." if others else "."
    wide, narrow = theme.both(lambda width: _chart(found, width), f"forest-{kind.name}", label)
    return parts.Figure(f"forest-{kind.name}", kind.title, kind.caption, wide, narrow, _table(kind, found))


def _said(kind: Kind, row: dict[str, Any]) -> str:
    if finite(row["value"]) is None:
        return MISSING
    return f"{kind.form(row['value'])} ({_interval(kind, row)}), limit {kind.form(row['limit']).removeprefix('+')}"


def _interval(kind: Kind, row: dict[str, Any]) -> str:
    return MISSING if finite(row["low"]) is None else f"{kind.form(row['low'])} to {kind.form(row['high'])}"


def _chart(found: list[dict[str, Any]], width: int) -> alt.LayerChart:
    order = [row["row"] for row in found]
    drawn = [row for row in found if row["share"] is not None]
    lows, highs = [row["from"] for row in drawn], [row["to"] for row in drawn]
    domain = [min([-0.06, *lows]), max([1.25, *highs])]
    y = alt.Y("row:N", sort=order, axis=alt.Axis(title=None, labelLimit=230 if width > theme.NARROW else 150, ticks=False,
              domain=False, 
              labelColor=theme.INK, grid=True), scale=alt.Scale(domain=order))  # fmt: skip
    axis = alt.Axis(format=".0%", title="Share of the margin used", values=[-1, -0.5, 0, 0.5, 1, 1.5, 2], grid=False)
    x = alt.X("share:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=axis)
    base = alt.Chart(theme.rows(found)).transform_filter("isValid(datum.share)")
    layers = [
        _rule(0.0, theme.LINE, []),
        _rule(1.0, theme.FAIL, [5, 3]),
        base.mark_rule(strokeWidth=2, aria=False).encode(x=alt.X("from:Q"), x2="to:Q", y=y, color=_colour()),
        base.transform_filter("datum.cut == ''").mark_point(size=62, strokeWidth=2.2, opacity=1).encode(
            x=x, y=y, color=_colour(), fill=alt.condition("datum.status == 'PASS'", _fill(), alt.value(theme.PAPER)),
            shape=alt.Shape("status:N", scale=_scale(0), legend=None), description="label:N"),
        *(_arrow(base, side, shape, x, y) for side, shape in (("over", "triangle-right"), ("under", "triangle-left"))),
    ]  # fmt: skip
    if width > theme.NARROW:
        beside = alt.value(alt.expr("width + 10"))
        text = alt.Chart(theme.rows(found)).mark_text(align="left", color=theme.MUTED, fontSize=11, aria=False)
        layers.append(text.encode(x=beside, y=y, text="said:N"))
    beyond = 34 if width > theme.NARROW else 4  # where Arial and its like are missing, letters are a sixth wider than was measured
    padding = {"left": 0, "right": beyond, "top": 4, "bottom": 6}
    return theme.layered(*layers, height=ROW * len(found), padding=padding)


def _scale(place: int) -> alt.Scale:
    return alt.Scale(domain=list(SIGNS), range=[sign[place] for sign in SIGNS.values()])


def _colour() -> alt.Color:
    return alt.Color("status:N", scale=_scale(1), legend=None)


def _fill() -> alt.Fill:
    return alt.Fill("status:N", scale=_scale(1), legend=None)


def _rule(at: float, colour: str, dash: list[int]) -> alt.Chart:
    rule = alt.Chart(theme.rows([{"at": at}])).mark_rule(color=colour, strokeDash=dash, strokeWidth=1.5, aria=False)
    drawn: alt.Chart = rule.encode(x="at:Q")
    return drawn


def _arrow(base: alt.Chart, side: str, shape: str, x: alt.X, y: alt.Y) -> alt.Chart:
    """Beyond what is drawn: an arrow at the edge."""
    marks = base.transform_filter(f"datum.cut == '{side}'").mark_point(shape=shape, size=80, filled=True, opacity=1)
    drawn: alt.Chart = marks.encode(x=x, y=y, color=_colour(), description="label:N")
    return drawn


def _table(kind: Kind, found: list[dict[str, Any]]) -> parts.Table:
    columns = [parts.Column("Variant"), parts.Column("View or task"), parts.Column("Value", True), parts.Column("Interval", True),
               parts.Column("Limit", True), parts.Column("Margin used", True), parts.Column("Items or windows", True),
               parts.Column("Verdict")]  # fmt: skip
    rows = [
        [
            parts.cell(row["variant"]),
            parts.cell(Question("", row["view"], row["of"]).name or "all tasks"),
            parts.cell(kind.form(row["value"]), row["value"]),
            parts.cell(_interval(kind, row), row["low"]),
            parts.cell(kind.form(row["limit"]), row["limit"]),
            parts.cell(percent(row.get("used"), 0), row.get("used")),
            parts.cell(str(row["n"]), row["n"]),
            parts.status(row["status"]),
        ]
        for row in found
    ]
    return parts.Table(f"{kind.title}: each check of the gate", columns, rows)
