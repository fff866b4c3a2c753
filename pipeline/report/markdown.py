"""The report, or a part of it, as Markdown. Charts are their figures; of what is folded on the
page, the first rows."""

from __future__ import annotations

from pipeline.records import Summary
from pipeline.report.content import Block, Cell, Charts, Fold, Note, Points, Section, Table
from pipeline.report.document import document

FOLDED_ROWS = 12  # of a table that the page folds; the page and the JSON report have all


def render(summary: Summary) -> str:
    found = document(summary)
    parts = [
        f"# {found.title}",
        f"**{escaped(found.headline)}**",
        points(found.facts),
        table(found.source),
    ]
    return (
        "\n\n".join([*parts, *(part for section in found.sections for part in block(section, 2))])
        + "\n"
    )


def block(found: Block, level: int = 3, folded: bool = False, under: str = "") -> list[str]:
    """Paragraphs. `under` is the title that they stand below, which no caption says again."""
    match found:
        case Note():
            return [f"> {escaped(found.text)}" if found.kind else escaped(found.text)]
        case Points():
            return [points(found.items)] if found.items else []
        case Charts():
            return block(found.table, level, folded, under) if found.table else []
        case Table():
            shown = found._replace(rows=found.rows[:FOLDED_ROWS]) if folded else found
            rest = len(found.rows) - len(shown.rows)
            more = [f"And {rest} more: the page and the JSON report have them."] if rest else []
            return [
                *([f"**{found.caption}**"] if found.caption not in ("", under) else []),
                table(shown),
                *more,
            ]
        case Section():
            return [
                f"{'#' * level} {found.title}",
                *_inside(found.blocks, level + 1, folded, found.title),
            ]
        case Fold():
            head = f"<details><summary>{escaped(found.title)}</summary>"
            return [head, *_inside(found.blocks, level, True, found.title), "</details>"]


def _inside(blocks: list[Block], level: int, folded: bool, title: str) -> list[str]:
    return [part for one in blocks for part in block(one, level, folded, title)]


def points(items: list[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def table(found: Table) -> str:
    heads = ["", ""] if found.kind == "pairs" else [column.title for column in found.columns]
    rule = ["---:" if column.numeric else "---" for column in found.columns]
    lines = [list(map(escaped, heads)), rule, *([cell(one) for one in row] for row in found.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(found: Cell) -> str:
    """What is code on the page is code here; what is emphasized, bold."""
    text = found.text
    if found.kind in ("token", "context"):
        text = f"`{text!r}`".replace("|", "\\|")
    elif found.kind == "hash":
        text = f"`{text}`"
    else:
        strong = found.kind == "best" or (
            found.kind.startswith("badge") and found.kind != "badge none"
        )
        text = f"**{escaped(text)}**" if strong and text else escaped(text)
    text += " (tie)" if found.kind == "tied" else ""
    text += f" ({escaped(found.note)})" if found.note else ""
    return text + (" (busy)" if found.busy else "")


def escaped(text: str) -> str:
    """Untrusted text: no markup of HTML, no end of a table's cell."""
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "\\|")
        .replace("\r", "")
        .replace("\n", " ")
    )
