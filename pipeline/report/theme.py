"""One look for page and charts: colours by name with their dark counterparts, and charts drawn to
inline SVG.

The charts carry the light colours as attributes, so that they are right wherever the SVG goes; the
page's style sheet maps each of them to a variable that changes in dark mode."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import altair as alt
import vl_convert
from markupsafe import Markup

WIDE, NARROW = 720, 340
TENFOLD = 10  # from this ratio on, a linear axis presses the smaller ones together
TENS_WITH_STEPS = 4


class Colour(NamedTuple):
    light: str
    dark: str


# Text colours have a contrast of at least 4.5 to 1 on `paper` and on `panel`, those of variants 3
# to 1.
COLOURS = {
    "paper": Colour("#ffffff", "#15181d"),
    "panel": Colour("#f5f7f9", "#1d2229"),
    "ink": Colour("#1b1f24", "#e7eaee"),
    "muted": Colour("#57606a", "#a2abb6"),
    "line": Colour("#c9d0d8", "#3c444e"),
    "grid": Colour("#e3e7ec", "#2b3139"),
    "link": Colour("#0b5cad", "#7db8f5"),
    "pass": Colour("#1a6e3c", "#63cf90"),
    "fail": Colour("#b42318", "#ff9086"),
    "open": Colour("#835400", "#eec05c"),
    "c1": Colour("#1f62b0", "#74aef2"),
    "c2": Colour("#b85410", "#f2a062"),
    "c3": Colour("#22795c", "#64cba3"),
    "c4": Colour("#7b4bab", "#c2a0ee"),
    "c5": Colour("#b03a6a", "#f293b6"),
    "c6": Colour("#6f6b12", "#cfca58"),
    "c7": Colour("#0e7281", "#5ccbd9"),
    "c8": Colour("#4b5563", "#b4bdca"),
}
PALETTE = [COLOURS[f"c{place}"].light for place in range(1, 9)]
SHAPES = [
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "triangle-right",
    "triangle-left",
]
INK, MUTED, PAPER, LINE, GRID, FAIL = (
    COLOURS[name].light for name in ("ink", "muted", "paper", "line", "grid", "fail")
)
# Text with a margin in the colour of the page can be read on lines; the style sheet draws the
# margin below the letters.
HALO: dict[str, Any] = {"stroke": PAPER, "strokeWidth": 3, "strokeOpacity": 1, "aria": False}


def css() -> Markup:
    """The colours as variables, for light and dark, and the charts' colours mapped to them."""
    light = "".join(f"--{name}:{colour.light};" for name, colour in COLOURS.items())
    dark = "".join(f"--{name}:{colour.dark};" for name, colour in COLOURS.items())
    mapped = "".join(
        f'svg [fill="{colour.light}"]{{fill:var(--{name})}}svg'
        f' [stroke="{colour.light}"]{{stroke:var(--{name})}}\n'
        for name, colour in COLOURS.items()
    )
    return Markup(  # made of the constants above  # noqa: S704
        f":root{{color-scheme:light dark;{light}}}\n@media screen and"
        f" (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{mapped}"
    )


def _config() -> dict[str, Any]:
    axis = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": GRID,
        "domainColor": LINE,
        "tickColor": LINE,
        "tickSize": 4,
        "labelPadding": 4,
        "titlePadding": 8,
    }
    legend = {
        "labelColor": INK,
        "labelFontSize": 12,
        "symbolSize": 70,
        "symbolStrokeWidth": 2,
        "rowPadding": 4,
        "columnPadding": 18,
    }
    return {
        "background": "transparent",
        "font": "sans-serif",
        "view": {"stroke": None},
        "axis": axis,
        "legend": {**legend, "orient": "top", "title": None, "offset": 12, "labelLimit": 300},
        "text": {"color": INK, "fontSize": 12},
        "range": {"category": PALETTE},
    }


def layered(*layers: alt.Chart, **properties: Any) -> alt.LayerChart:
    return alt.LayerChart(layer=list(layers), **properties)


def draw(chart: alt.LayerChart, key: str, width: int, label: str) -> Markup:
    """The chart as SVG that takes the width it is given, up to `width`. `label` says what it shows;
    `key` makes its ids unique."""
    sized = chart.properties(
        width=width, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    text: str = vl_convert.vegalite_to_svg(
        {**sized.to_dict(), "config": _config()}, vl_version=version
    )
    return Markup(_inline(text, f"{key}-{width}", label))  # Vega escapes the texts in it  # noqa: S704


def _inline(svg: str, prefix: str, label: str) -> str:
    """Ids of its own (Vega numbers them through all charts of a process), no size but its
    proportions, and a name."""
    ids: dict[str, str] = {}
    for name in re.findall(r'\bid="([^"]+)"', svg):
        ids.setdefault(name, f"{prefix}-{len(ids)}")
    for old, new in ids.items():
        svg = svg.replace(f'id="{old}"', f'id="{new}"').replace(f"url(#{old})", f"url(#{new})")
    head, body = svg.split(">", 1)
    width, height = re.findall(r'\b(?:width|height)="([\d.]+)"', head)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' style="max-width:{width}px" role="img" aria-label="{escape(label)}">{body}'
    )


def alone(svg: str) -> str:
    """A chart as a file of its own, which needs a size."""
    return (
        re.sub(r'viewBox="0 0 (\S+) (\S+)"', r'width="\1" height="\2" \g<0>', svg, count=1) + "\n"
    )


class Axis(NamedTuple):
    """Of numbers: from zero, or logarithmic where the largest is at least ten times the
    smallest."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: list[float]) -> Axis:
        """With room for a label beyond the last point."""
        low, high = min(values), max(values)
        return (
            cls(low / 1.3, high * 1.3, True)
            if 0 < TENFOLD * low <= high
            else cls(0.0, 1.08 * high or 1.0, False)
        )

    def share(self, value: float) -> float:
        """How far along the axis a value lies, from 0 to 1."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def scale(self) -> alt.Scale:
        return alt.Scale(
            domain=[self.low, self.high], type="log" if self.log else "linear", nice=False
        )

    def drawn(self, title: str, count: int) -> alt.Axis:
        """With about so many ticks: in each power of ten at 1, 2 and 5, or at 1 where they are
        many."""
        if not self.log:
            return alt.Axis(title=title, tickCount=count, format=",.6~g")
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(powers) <= TENS_WITH_STEPS else (1,)
        values = [
            value
            for power in powers
            for step in steps
            if self.low <= (value := step * 10.0**power) <= self.high
        ]
        return alt.Axis(title=f"{title} (log scale)", values=values, format=",.6~g")


def both(build: Callable[[int], alt.LayerChart], key: str, label: str) -> tuple[Markup, Markup]:
    """A chart for wide pages and for phones."""
    wide, narrow = (draw(build(width), key, width, label) for width in (WIDE, NARROW))
    return wide, narrow


def ticks(width: int) -> int:
    return 6 if width > NARROW else 4


def colours(names: list[str]) -> alt.Scale:
    """A variant has the same colour in every chart that is given all names."""
    return alt.Scale(
        domain=names, range=[PALETTE[place % len(PALETTE)] for place in range(len(names))]
    )


def shapes(names: list[str]) -> alt.Scale:
    """As `colours`; beyond eight variants, colour and shape together tell them apart."""
    turned = [SHAPES[(place + place // len(SHAPES)) % len(SHAPES)] for place in range(len(names))]
    return alt.Scale(domain=names, range=turned)


def legend(shown: list[str], width: int) -> alt.Legend:
    """As many columns as fit: a letter is about 7 pixels wide."""
    longest = max(len(name) for name in shown)
    return alt.Legend(
        values=shown, columns=max(1, min(len(shown), (width - 40) // (7 * longest + 40)))
    )


def rows(values: list[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=values)  # type: ignore[no-untyped-call]
