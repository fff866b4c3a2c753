"""What a report is made of: sections of notes, tables and charts, built once. The page, Markdown
and the terminal render them and decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup

from pipeline.report.formatting import finite


class Cell(NamedTuple):
    """`sort` orders the column where the text would not. `kind` says how it looks: badge pass,
    badge fail, badge open, badge none, best, tied, muted, hash, text, token or context. `note` is
    said more softly; `busy` marks what a busy machine spoiled."""

    text: str
    sort: float | None = None
    kind: str = ""
    note: str = ""
    busy: bool = False


class Column(NamedTuple):
    title: str
    numeric: bool = False
    note: str = ""


class Table(NamedTuple):
    """The first cell of each row is its heading. A table of the kind "across" is read along its
    rows, and not sorted."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    kind: str = ""


class Chart(NamedTuple):
    """Drawn at two widths; `wide` is empty where the narrow one serves all."""

    key: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


class Charts(NamedTuple):
    """With their figures as a table, unless a table beside them has them all. Only the page draws
    them, which takes seconds."""

    draw: Callable[[], list[Chart]]
    table: Table | None = None


class Note(NamedTuple):
    """A paragraph. `kind`: empty, or "warning" for what must be known before figures are
    believed."""

    text: str
    kind: str = ""


class Points(NamedTuple):
    """A list of short sentences."""

    items: list[str]


class Fold(NamedTuple):
    """Evidence that is long, and only opened by those who look for it."""

    title: str
    blocks: list[Block]


class Section(NamedTuple):
    title: str
    blocks: list[Block]
    key: str = ""


class Document(NamedTuple):
    """`headline` and `facts` are the first card; `verdict` is how it looks: pass, open or fail."""

    title: str
    headline: str
    facts: list[str]
    verdict: str
    source: Table
    sections: list[Section]


Block = Note | Points | Table | Charts | Fold | Section
STATUS = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "open"}


def cell(text: str, value: float | None = None, kind: str = "", busy: bool = False) -> Cell:
    return Cell(text, finite(value), kind, busy=busy)


def status(word: str) -> Cell:
    """A verdict as a badge: its sign and word say it without the colour."""
    return Cell(word, kind=f"badge {STATUS.get(word, 'none')}")


def table(caption: str, columns: list[str], rows: list[list[Cell]], kind: str = "") -> Table:
    """A column whose title ends in # holds numbers."""
    heads = [Column(title.removesuffix("#"), title.endswith("#")) for title in columns]
    return Table(caption, heads, rows, kind)


def pairs(caption: str, facts: dict[str, str], kind: str = "") -> Table:
    return table(
        caption,
        ["Name", "Value"],
        [[cell(name), Cell(value, kind=kind)] for name, value in facts.items()],
        "pairs",
    )
