"""How far single positions lie from the reference: a mean can hide a few that ruin an answer."""

from __future__ import annotations

from typing import Any

import altair as alt

from pipeline.records import Distribution, Summary
from pipeline.report import theme
from pipeline.report.content import Chart
from pipeline.report.formatting import listed, number

LEAST_KL, LEAST_LEVEL = (
    1e-7,
    0.1,
)  # nearer to the reference than this is of no interest, and would fill the chart
MARKED = {"0.5": "half of the", "0.9": "90% of the", "0.99": "99% of the", "0.999": "99.9% of the"}
CAPTION = (
    "Each line falls from all positions to the few that differ most; further left is closer to the"
    " reference. Below the "
)
CAPTION += "points lie 50, 90, 99 and 99.9% of the positions."


def charts(summary: Summary) -> list[Chart]:
    """One per text: the share of positions that lie further from the reference than a given KL."""
    texts: dict[str, dict[str, Distribution]] = {}
    for name, row in summary.variants.items():
        for text, distribution in row.kl_distribution.items():
            if _curve(name, distribution.quantiles):
                texts.setdefault(text, {})[name] = distribution
    names = list(summary.variants)
    return [
        _drawn(f"divergence-{place}", text, by_variant, names)
        for place, (text, by_variant) in enumerate(texts.items())
    ]


def _drawn(key: str, text: str, by_variant: dict[str, Distribution], names: list[str]) -> Chart:
    curves = [point for name, one in by_variant.items() for point in _curve(name, one.quantiles)]
    label = (
        f"Share of the positions of {text} whose KL from the reference is larger than a given one,"
        f" for {listed(list(by_variant))}."
    )
    wide, narrow = theme.both(
        lambda width: _chart(curves, names, list(by_variant), width), key, label
    )
    return Chart(key, f"Divergence over the positions of {text}", CAPTION, wide, narrow)


def _curve(name: str, quantiles: dict[str, float]) -> list[dict[str, Any]]:
    curve = []
    for level, kl in quantiles.items():
        if kl >= LEAST_KL and float(level) >= LEAST_LEVEL:
            label = (
                f"{name}: at {MARKED[level]} positions KL is at most {number(kl)} nats"
                if level in MARKED
                else ""
            )
            curve.append({"variant": name, "beyond": 1 - float(level), "kl": kl, "label": label})
    return curve


def _chart(
    curves: list[dict[str, Any]], names: list[str], shown: list[str], width: int
) -> alt.LayerChart:
    log = alt.Scale(type="log", nice=False)
    x = alt.X(
        "kl:Q",
        scale=log,
        axis=alt.Axis(title="KL, nats (log scale)", format="~g", tickCount=theme.ticks(width)),
    )
    shares = alt.Axis(
        format="~p",
        values=[1, 0.1, 0.01, 0.001, 0.0001],
        title="Positions with a larger KL (log scale)",
    )
    y = alt.Y("beyond:Q", scale=alt.Scale(type="log", nice=False, domainMax=1), axis=shares)
    colour = alt.Color("variant:N", scale=theme.colours(names), legend=theme.legend(shown, width))
    shape = alt.Shape("variant:N", scale=theme.shapes(names), legend=theme.legend(shown, width))
    base = alt.Chart(theme.rows(curves))
    line = base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour)
    dots = base.transform_filter("datum.label != ''").mark_point(size=50, filled=True, opacity=1)
    return theme.layered(
        line, dots.encode(x=x, y=y, color=colour, shape=shape, description="label:N"), height=320
    )
