"""The report as one HTML file: no network, no library, charts as SVG; the same summary gives the
same bytes."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.records import Summary
from pipeline.report import theme
from pipeline.report.content import Block
from pipeline.report.document import document

HERE = Path(__file__).parent
SPACES = {" ": "\u2423", "\t": "\u21e5", "\n": "\u21b5"}  # open box, tab arrow, return arrow


def render(summary: Summary) -> str:
    """The whole page. Figures that were not measured are said to be so; texts in it are untrusted
    and escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, breaks=breaks, kind=kind)
    script, style = ((HERE / name).read_text() for name in ("page.js", "page.css"))
    return environment.get_template("page.html.j2").render(
        document=document(summary),
        style=Markup(style),  # a file of this package  # noqa: S704
        colours=theme.css(),
        script=Markup(script),  # a file of this package  # noqa: S704
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def kind(block: Block) -> str:
    """By which the template renders it."""
    return type(block).__name__


def visible(text: str) -> Markup:
    """A token with its white space shown."""
    return Markup("").join(
        _sign(letter) if letter in SPACES else escape(letter) for letter in text
    ) or Markup("<i>empty</i>")


def breaks(text: str) -> Markup:
    """A context with its line breaks shown, and kept."""
    return Markup("").join(
        _sign(letter) + "\n" if letter == "\n" else escape(letter) for letter in text
    )


def _sign(letter: str) -> Markup:
    return Markup('<span class="space">{}</span>').format(SPACES[letter])
