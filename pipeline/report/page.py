"""The report as one HTML file: no network, no library, charts as SVG; the same summary gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.report import chart_divergence, chart_forest, chart_pareto, chart_speed, provenance, tables, theme

HERE = Path(__file__).parent
SPACES = {" ": "\u2423", "\t": "\u21e5", "\n": "\u21b5"}  # open box, tab arrow, return arrow


def render(summary: dict[str, Any]) -> str:
    """The whole page. Figures that were not measured are said to be so; texts in it are untrusted and escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(visible=visible, breaks=breaks)
    script, style = ((HERE / name).read_text() for name in ("page.js", "page.css"))
    return environment.get_template("page.html.j2").render(
        recipe=summary["recipe"],
        style=Markup(style),  # noqa: S704  # a file of this package
        colours=theme.css(),
        script=Markup(script),  # noqa: S704  # a file of this package
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_verdict(summary),
        **_figures(summary),
        **_evidence(summary),
        **_origin(summary),
    )


def _verdict(summary: dict[str, Any]) -> dict[str, Any]:
    comparison = summary.get("comparison") or {}
    sections = comparison.get("sections") or []
    return {
        "source": provenance.source(summary),
        "headline": tables.headline(summary),
        "verdicts": tables.verdicts(summary),
        "findings": tables.findings(summary),
        "recommendations": comparison.get("recommendations") or [],
        "comparisons": [
            {
                "title": section["title"],
                "note": section["note"],
                "table": tables.comparison(section),
                "reasons": tables.reasons(section),
            }
            for section in sections
        ],
    }


def _figures(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "pareto": chart_pareto.figures(summary),
        "forest": chart_forest.figures(summary["variants"]),
        "divergence": chart_divergence.figures(summary),
        "curves": [*chart_speed.curves(summary), *chart_speed.goodput(summary)],
        "resources": chart_speed.resources(summary),
        "costs": chart_speed.costs(summary),
        "http": tables.http(summary),
        "notices": tables.notices(summary),
        "missing_speed": tables.missing_speed(summary),
    }


def _evidence(summary: dict[str, Any]) -> dict[str, Any]:
    """What can be read of each variant: items whose answers changed, and tokens that it got most wrong."""
    read = [
        {"variant": name, "flipped": tables.flipped(row), "worst": tables.worst(row)} for name, row in summary["variants"].items()
    ]
    return {"quality": tables.quality(summary), "changed": tables.changed_tasks(summary), "read": read}


def _origin(summary: dict[str, Any]) -> dict[str, Any]:
    rows = summary["variants"].items()
    return {
        "limits": provenance.limits(summary),
        "machines": provenance.machines(summary),
        "versions": provenance.versions(summary),
        "made": [{"variant": name, "notes": provenance.notes(row), "tables": provenance.made(row)} for name, row in rows],
        "hashes": provenance.hashes(summary),
    }


def visible(text: str) -> Markup:
    """A token with its white space shown."""
    return Markup("").join(_sign(letter) if letter in SPACES else escape(letter) for letter in text) or Markup("<i>empty</i>")


def breaks(text: str) -> Markup:
    """A context with its line breaks shown, and kept."""
    return Markup("").join(_sign(letter) + "\n" if letter == "\n" else escape(letter) for letter in text)


def _sign(letter: str) -> Markup:
    return Markup('<span class="space">{}</span>').format(SPACES[letter])
