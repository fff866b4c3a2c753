"""What the Markdown pages are made of."""

from __future__ import annotations

from typing import Any

from pipeline.report.words import number


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def estimate(found: dict[str, Any], unit: str = "") -> str:
    """A median with its interval, which a single repeat does not have."""
    spread = "" if found["low"] is None else f" ({number(found['low'])} to {number(found['high'])})"
    return f"{number(found['median'])}{spread}{unit}"
