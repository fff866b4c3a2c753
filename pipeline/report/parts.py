"""What the page is made of: tables and figures, ready for the template, which decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup

from pipeline.report.words import finite


class Cell(NamedTuple):
    """`sort` orders the column where the text would not. `kind` is a class of the style sheet; `note` stands below the text."""

    text: str
    sort: float | None = None
    kind: str = ""
    note: str = ""


class Column(NamedTuple):
    title: str
    numeric: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """The first cell of each row is its heading. A table of the kind "across" is read along its rows, and not sorted;
    of a "stacked" one, each row stands as a block of its own on a phone."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    kind: str = ""


class Figure(NamedTuple):
    """A chart drawn at two widths (`wide` is empty where the narrow one serves all), with its figures as a table."""

    key: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup
    table: Table


@dataclass(frozen=True)
class Group:
    """Figures under one heading."""

    title: str
    note: str
    figures: list[Figure] = field(default_factory=list)


def cell(text: str, value: Any = None, kind: str = "") -> Cell:
    return Cell(text, finite(value), kind)


def status(found: Any) -> Cell:
    """A verdict as a badge: its sign and word say it without the colour."""
    kinds = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "open"}
    return Cell(str(found or "not judged"), kind=f"badge {kinds.get(str(found), 'none')}")
