"""The report's parts on a terminal, and the few lines that end a run."""

from __future__ import annotations

from typing import Any

from pipeline import paths
from pipeline.benchmark import performance
from pipeline.benchmark.speed_statistics import closed_levels
from pipeline.recipe import load
from pipeline.records import Benchmark, Performance, Verdict, read
from pipeline.report.content import Cell, Column, Table, status
from pipeline.report.formatting import number
from pipeline.report.tables import PERFORMANCE

TITLE_WIDTH, VARIANT_WIDTH = 34, 15  # columns of a terminal
STYLES = {
    "badge pass": "green",
    "badge fail": "red",
    "badge open": "yellow",
    "best": "bold green",
    "muted": "dim",
}
SIGNS = {"best": "* ", "tied": "= "}  # for those who see no colours
LEGEND = {
    "best": "* the best: its interval lies apart from every other's",
    "tied": "= a tie: these cannot be told apart",
}


def tables(table: Table, width: int) -> list[Any]:
    """rich's; one that is read across is split into as many as a terminal of that width needs.
    Notes of cells are left out."""
    if table.kind != "across":
        return [_table(table)]
    columns = [place for place, column in enumerate(table.columns) if place and column.numeric]
    room = max(1, (width - TITLE_WIDTH) // VARIANT_WIDTH)
    chunks = [[0, *columns[start : start + room]] for start in range(0, len(columns), room)]
    return [_table(_only(table, chunk)) for chunk in chunks]


def _only(table: Table, places: list[int]) -> Table:
    rows = [[row[place] for place in places] for row in table.rows]
    return table._replace(columns=[table.columns[place] for place in places], rows=rows)


def _table(table: Table) -> Any:
    from rich.table import Table as Drawn

    kinds = {one.kind for row in table.rows for one in row}
    legend = "\n".join(line for kind, line in LEGEND.items() if kind in kinds)
    drawn = Drawn(
        title=table.caption, title_justify="left", caption=legend or None, caption_justify="left"
    )
    for column in table.columns:
        drawn.add_column(
            column.title, justify="right" if column.numeric else "left", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(_cell, row))
    return drawn


def _cell(cell: Cell) -> Any:
    from rich.text import Text

    busy = " (busy)" if cell.busy else ""
    return Text(f"{SIGNS.get(cell.kind, '')}{cell.text}{busy}", style=STYLES.get(cell.kind, ""))


def show(name: str, variants: list[str]) -> None:
    """Verdict and speed of each variant, from their records. Raises ArtifactError if one is
    missing."""
    from rich.console import Console

    recipe, rows = load(name), []
    for variant in variants:
        verdict, speed = (
            read(paths.verdict(name, variant), Verdict),
            performance.of(recipe, variant),
        )
        judged = Cell(speed.status, kind=f"badge {PERFORMANCE[speed.status][1]}")
        timed = _speed(read(paths.benchmark(name, variant), Benchmark))
        rows.append(
            [Cell(variant), status(verdict.status), timed, judged, Cell(_reason(verdict, speed))]
        )
    heads = [Column(title) for title in ("variant", "verdict", "tokens/s", "performance", "reason")]
    console = Console()
    for table in tables(Table(name, heads, rows), console.width):
        console.print(table)


def _reason(verdict: Verdict, speed: Performance) -> str:
    """What stands in the way of a PASS, and of the speed that was asked for; the report has every
    check."""
    lines = [f"{check.name}: {check.reason}" for check in verdict.checks if check.status != "PASS"]
    lines = lines or [f"all {len(verdict.checks)} checks passed"]
    if PERFORMANCE[speed.status][1] != "none":
        lines.append(f"speed: {speed.reason}")
    return "\n".join(lines)


def _speed(benchmark: Benchmark) -> Cell:
    """Failed requests are said with the figure: without them it is no figure."""
    if "deployed" not in benchmark.profiles:
        return Cell("not benchmarked")
    loads = []
    for level in closed_levels(benchmark.profiles["deployed"]):
        failed = f" ({level.failed} of {level.requests} failed)" if level.failed else ""
        loads.append(f"{number(level.output_tokens_per_s.median)} at {level.concurrency}{failed}")
    return Cell(", ".join(loads))
