"""The report's parts on a terminal, and the few lines that end a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import paths
from pipeline.benchmark import performance
from pipeline.benchmark.speed_statistics import closed_levels
from pipeline.recipe import load
from pipeline.records import Benchmark, Performance, Verdict, read
from pipeline.report.content import Cell, Column, Table, status
from pipeline.report.formatting import number
from pipeline.report.tables import PERFORMANCE

if TYPE_CHECKING:
    from rich.console import Console

TITLE_WIDTH, VARIANT_WIDTH = 34, 15  # columns of a terminal
STYLES = {
    "badge pass": "green",
    "badge fail": "red",
    "badge open": "yellow",
    "best": "bold green",
    "muted": "dim",
}
SIGNS = {"best": "* ", "tied": "= "}  # for those who see no colours
COLUMNS = ("variant", "verdict", "tokens/s", "performance", "not passed")
LEGEND = {
    "best": "* the best: its interval lies apart from every other's",
    "tied": "= a tie: these cannot be told apart",
}


class Unmet(NamedTuple):
    """A check, or a speed, that a variant did not pass."""

    status: str
    reason: str
    variant: str
    check: str


def draw(table: Table, console: Console) -> None:
    """Wider than the terminal where its numbers are."""
    for drawn in tables(table, console.width):
        console.print(drawn, width=max(console.width, console.measure(drawn).minimum), crop=False)


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
    rows = [[_cell(one) for one in row] for row in table.rows]
    for place, column in enumerate(table.columns):
        drawn.add_column(
            column.title,
            justify="right" if column.numeric else "left",
            overflow="fold",
            # half a number would be read as another one
            min_width=_longest_word(row[place] for row in rows) if column.numeric else None,
        )
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _longest_word(cells: Iterable[Any]) -> int:
    return max((len(word) for one in cells for word in one.plain.split()), default=0)


def _cell(cell: Cell) -> Any:
    from rich.text import Text

    busy = " (busy)" if cell.busy else ""
    return Text(f"{SIGNS.get(cell.kind, '')}{cell.text}{busy}", style=STYLES.get(cell.kind, ""))


def show(name: str, variants: list[str]) -> None:
    """How each variant fared, from its records: a row of words, and below the table, each once,
    the reasons. Raises ArtifactError if a record is missing."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    recipe = load(name)
    verdicts = {variant: read(paths.verdict(name, variant), Verdict) for variant in variants}
    speeds = {variant: performance.of(recipe, variant) for variant in variants}
    rows = []
    for variant, verdict in verdicts.items():
        speed = speeds[variant]
        judged = Cell(speed.status, kind=f"badge {PERFORMANCE[speed.status][1]}")
        timed = _speed(read(paths.benchmark(name, variant), Benchmark))
        rows.append(
            [Cell(variant), status(verdict.status), timed, judged, Cell(_not_passed(verdict))]
        )
    heads = [Column(title) for title in COLUMNS]
    console = Console()
    draw(Table(name, heads, rows), console)
    for word, folded in _folded(_unmet(verdicts, speeds)).items():
        console.print(word, style="bold")
        for reason, unmet in folded.items():
            console.print(Padding(Text(f"{_askers(unmet)}: {reason}"), (0, 0, 0, 2)))


def _not_passed(verdict: Verdict) -> str:
    """The kinds of the checks that did not pass, and how many of each; the reasons have their
    names."""
    kinds = Counter(check.kind or check.name for check in verdict.checks if check.status != "PASS")
    if not kinds:
        return f"none of {len(verdict.checks)}"
    return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in kinds.items())


def _unmet(verdicts: dict[str, Verdict], speeds: dict[str, Performance]) -> Iterator[Unmet]:
    """What stands in the way of a PASS, failures first, and of the speeds that were asked for."""
    for word in ("FAIL", "INCONCLUSIVE"):
        for variant, verdict in verdicts.items():
            for check in verdict.checks:
                if check.status == word:
                    yield Unmet(word, check.reason, variant, check.name)
    for variant, speed in speeds.items():
        if PERFORMANCE[speed.status][1] != "none":
            yield Unmet(speed.status, speed.reason, variant, "speed")


def _folded(unmet: Iterable[Unmet]) -> dict[str, dict[str, list[Unmet]]]:
    """By status, then by reason: an equal one is said once."""
    by_status: dict[str, dict[str, list[Unmet]]] = {}
    for one in unmet:
        by_status.setdefault(one.status, {}).setdefault(one.reason, []).append(one)
    return by_status


def _askers(unmet: list[Unmet]) -> str:
    """Variants with their checks; variants of the same checks together."""
    checks: dict[str, list[str]] = {}
    for one in unmet:
        checks.setdefault(one.variant, []).append(one.check)
    variants: dict[str, list[str]] = {}
    for variant, names in checks.items():
        variants.setdefault(", ".join(names), []).append(variant)
    return "; ".join(f"{', '.join(names)}: {asked}" for asked, names in variants.items())


def _speed(benchmark: Benchmark) -> Cell:
    """Failed requests are said with the figure: without them it is no figure."""
    if "deployed" not in benchmark.profiles:
        return Cell("not benchmarked")
    loads = []
    for level in closed_levels(benchmark.profiles["deployed"]):
        failed = f" ({level.failed} of {level.requests} failed)" if level.failed else ""
        loads.append(f"{number(level.output_tokens_per_s.median)} at {level.concurrency}{failed}")
    return Cell(", ".join(loads))
