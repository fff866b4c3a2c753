"""The report, or a part of it, as Markdown. Charts are their figures; of what is folded on the
page, the first rows."""

from __future__ import annotations

from pipeline.records import Summary
from pipeline.report.content import Block, Cell, Charts, Fold, Note, Points, Section, Table
from pipeline.report.document import document

FOLDED_ROWS = 12  # of a table that the page folds; the page and the JSON report have all


def render(summary: Summary) -> str:
    content = document(summary)
    paragraphs = [
        f"# {content.title}",
        f"**{escaped(content.headline)}**",
        points(content.facts),
        table(content.source),
    ]
    return (
        "\n\n".join(
            [
                *paragraphs,
                *(paragraph for section in content.sections for paragraph in block(section, 2)),
            ]
        )
        + "\n"
    )


def block(element: Block, level: int = 3, folded: bool = False, under: str = "") -> list[str]:
    """Paragraphs. `under` is the title that they stand below, which no caption says again."""
    match element:
        case Note():
            return [f"> {escaped(element.text)}" if element.kind else escaped(element.text)]
        case Points():
            return [points(element.items)] if element.items else []
        case Charts():
            return block(element.table, level, folded, under) if element.table else []
        case Table():
            shown = element._replace(rows=element.rows[:FOLDED_ROWS]) if folded else element
            rest = len(element.rows) - len(shown.rows)
            more = [f"And {rest} more: the page and the JSON report have them."] if rest else []
            return [
                *([f"**{element.caption}**"] if element.caption not in ("", under) else []),
                table(shown),
                *more,
            ]
        case Section():
            return [
                f"{'#' * level} {element.title}",
                *_inside(element.blocks, level + 1, folded, element.title),
            ]
        case Fold():
            head = f"<details><summary>{escaped(element.title)}</summary>"
            return [head, *_inside(element.blocks, level, True, element.title), "</details>"]


def _inside(blocks: list[Block], level: int, folded: bool, title: str) -> list[str]:
    return [paragraph for one in blocks for paragraph in block(one, level, folded, title)]


def points(items: list[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def table(table: Table) -> str:
    heads = ["", ""] if table.kind == "pairs" else [column.title for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [list(map(escaped, heads)), rule, *([cell(one) for one in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(cell: Cell) -> str:
    """What is code on the page is code here; what is emphasized, bold."""
    text = cell.text
    if cell.kind in ("token", "context"):
        text = f"`{text!r}`".replace("|", "\\|")
    elif cell.kind == "hash":
        text = f"`{text}`"
    else:
        strong = cell.kind == "best" or (
            cell.kind.startswith("badge") and cell.kind != "badge none"
        )
        text = f"**{escaped(text)}**" if strong and text else escaped(text)
    text += " (tie)" if cell.kind == "tied" else ""
    text += f" ({escaped(cell.note)})" if cell.note else ""
    return text + (" (busy)" if cell.busy else "")


def escaped(text: str) -> str:
    """Untrusted text: no markup of HTML, no end of a table's cell."""
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "\\|")
        .replace("\r", "")
        .replace("\n", " ")
    )
