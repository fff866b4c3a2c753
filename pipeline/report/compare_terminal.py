"""`quantgate compare`: the variants of one report side by side, or two runs of one recipe; as tables, or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import paths
from pipeline.errors import ArtifactError
from pipeline.records import Benchmark, Performance, Verdict, read_text
from pipeline.report.changes import changes
from pipeline.report.comparison import compare
from pipeline.report.markdown_comparison import DIGITS, QUALITY, heading
from pipeline.report.words import number

TITLE_WIDTH, VARIANT_WIDTH = 34, 15  # columns of a terminal


def run(name: str, before: str | None, as_json: bool) -> None:
    """Raises ArtifactError if a report is missing or was written by another version."""
    paths.require_project()
    path = paths.report(name, "json")
    summary = load(path, f"Run: dvc repro report@{name}")
    found = compare(summary) if before is None else changes(_before(name, Path(before)), summary)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(name, found, moved_only=before is not None)


def _before(name: str, path: Path) -> dict[str, Any]:
    """The report of an earlier run, wherever it lies."""
    remedy = f"From git, if dvc.lock is committed: dvc get . {paths.report(name, 'json')} --rev HEAD~1 -o before.json"
    if not path.is_file():
        raise ArtifactError(f"{path}: missing: give the JSON report of an earlier run. {remedy}")
    earlier = load(path, f"Give the JSON report of an earlier run. {remedy}")
    if earlier["recipe"] != name:
        raise ArtifactError(f"{path}: the report of recipe {earlier['recipe']!r}, expected one of {name!r}. {remedy}")
    return earlier


def load(path: Path, remedy: str) -> dict[str, Any]:
    """A report's JSON, with the records in it checked."""
    text = read_text(path)
    try:
        summary: dict[str, Any] = json.loads(text)
        for row in summary["variants"].values():
            Benchmark.model_validate(row["benchmark"])
            Performance.model_validate(row["performance"])
            Verdict.model_validate(row["verdict"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        raise ArtifactError(f"{path}: not a report of this version of quantgate. {remedy}") from error
    return summary


def show(name: str, found: dict[str, Any], moved_only: bool = False) -> None:
    """`moved_only`: figures of which none is the best are named, not shown."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    for section in found["sections"]:
        metrics = [metric for metric in section["metrics"] if section["winners"][metric["key"]] or not moved_only]
        rows, room = section["rows"], _columns(console.width)
        for start in range(0, len(rows), room):
            console.print(_table(f"{name}: {section['title']}", {**section, "metrics": metrics}, rows[start : start + room]))
        console.print(section["note"], markup=False, highlight=False)
        for why, titles in _ties(section).items():
            console.print(f"  No winner ({why}): {', '.join(titles)}", markup=False, highlight=False)
        console.print()
    for advice in found["recommendations"]:
        told = f"{advice['variant'] or 'none'}. {advice['reason']}"
        console.print(f"[bold]{advice['goal']}[/]: {escape(told)}", highlight=False)


def _columns(width: int) -> int:
    """How many variants a table has room for; the rest follow in a table of their own."""
    return max(1, (width - TITLE_WIDTH) // VARIANT_WIDTH)


def _table(title: str, section: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    starred = any(section["winners"].values())
    legend = "* the best: its interval lies apart from every other's" if starred else None
    table = Table(title=title, title_justify="left", caption=legend, caption_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(escape(row["variant"]), justify="right", overflow="fold")
    for label, cells in _facts(rows):
        table.add_row(label, *map(escape, cells))
    for metric in section["metrics"]:
        best = section["winners"][metric["key"]]
        cells = [_cell(row["values"][metric["key"]], row["variant"] == best) for row in rows]
        table.add_row(escape(heading(metric)), *cells)
    return table


def _ties(section: dict[str, Any]) -> dict[str, list[str]]:
    """Why no variant is best -> in what; the figures behind it are in the JSON and on the report page."""
    found: dict[str, list[str]] = {}
    for metric in section["metrics"]:
        if why := section["ties"].get(metric["key"]):
            found.setdefault(why, []).append(metric["title"])
    return found


def _facts(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What is known of each row besides its figures."""
    named = [(key, [row[key] for row in rows]) for key in ("weights", "verdict", "performance")]
    return named + [(title, [number(row["quality"][key], DIGITS.get(key, 4)) for row in rows]) for key, title in QUALITY.items()]


def _cell(value: dict[str, Any] | None, best: bool) -> str:
    """The median; the winner is green and has a star, for those who see no colours."""
    if value is None:
        return "-"
    return f"[bold green]* {number(value['median'])}[/]" if best else number(value["median"])
