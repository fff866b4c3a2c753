"""`quantgate plan`: what would run, where, and an estimate of disk, memory and time before anything starts.

Time is that of this machine, measured once (pipeline/runtime/speed), were it idle otherwise. What a stage took when it last ran
stands beside its estimate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.gate import limits
from pipeline.planning import estimate, power, shrinking
from pipeline.planning.estimate import Counted, Estimate, workload
from pipeline.recipe import Recipe
from pipeline.records import StageCost, Workload, read
from pipeline.runtime import machine, speed

LONG_S = 2 * 3600.0  # a plan of so long says which settings to shrink


def show(name: str, recipe: Recipe) -> None:
    from rich.console import Console

    console = Console()
    items, load, shape = power.count_items(name, recipe), workload.look(name, recipe), estimate.of(name, recipe)
    if shape is None:
        console.print("The checkpoint is not here and model.parameters is not given: no estimates.")
        shown = Counted(estimate.UNKNOWN, load, items, estimate.USUAL)
        _show_stages(console, name, estimate.stages(recipe, shown), known=False)
    else:
        counted = Counted(shape, load, items, speed.here() or estimate.USUAL)
        rows = estimate.stages(recipe, counted)
        _show_stages(console, name, rows, known=True)
        for line in (*_shortages(rows), *_long(rows, recipe, counted)):
            console.print(line, soft_wrap=True)
    _show_power(console, name, recipe, items, load)
    console.print(f"Everything:  dvc repro require@{name}\nOne variant: dvc repro gate@{name}--VARIANT", soft_wrap=True)


def _show_stages(console: Any, name: str, rows: list[Estimate], known: bool) -> None:
    from rich.table import Table

    table = Table(title=f"plan {name}", title_justify="left")
    for head in ("stage", "where", "disk", "memory", "time", "last run"):
        table.add_column(head, no_wrap=head != "where", min_width=8 if head == "where" else None)
    for row in rows:
        figures = (_size(row.disk_bytes), _size(row.memory_bytes), _duration(row.seconds)) if known else ("?",) * 3
        table.add_row(row.stage, row.environment, *figures, _last_run(name, row.stage))
    if known:
        table.add_section()
        peak = max(row.memory_bytes for row in rows)
        table.add_row("all", "", _size(sum(r.disk_bytes for r in rows)), _size(peak),
                      _duration(sum(r.seconds for r in rows)), "")  # fmt: skip
    console.print(table)


def _last_run(name: str, stage: str) -> str:
    kind, _, variant = stage.partition(" ")
    path = paths.cost(f"{kind}@{name}--{variant}" if variant else f"{kind}@{name}")
    if not path.is_file():
        return ""
    took = read(path, StageCost)
    return f"{_duration(took.wall_s)}, {_size(took.peak_anonymous_bytes)}"


def _shortages(rows: list[Estimate]) -> list[str]:
    """What this machine has too little of: at all, or just now."""
    found = []
    has, most = machine.memory(), max(rows, key=lambda row: row.memory_bytes)
    if most.memory_bytes > has.total:
        found.append(
            f"[red]Does not fit: memory {_size(most.memory_bytes)} for {most.stage}, this machine has {_size(has.total)}[/]"
        )
    elif most.memory_bytes > has.available:
        found.append(
            f"[red]Does not fit now: memory {_size(most.memory_bytes)} for {most.stage}, {_size(has.available)} of "
            f"{_size(has.total)} are free: stop other programs first.[/]"
        )
    disk, free = sum(row.disk_bytes for row in rows), machine.free_bytes(Path.cwd())
    if disk > free:
        found.append(f"[red]Does not fit: disk {_size(disk)}, this machine has {_size(free)}[/]")
    return found


def _long(rows: list[Estimate], recipe: Recipe, counted: Counted) -> list[str]:
    """Of a plan of hours: what to shrink, and what that saves."""
    total = sum(row.seconds for row in rows)
    if total < LONG_S:
        return []
    found = shrinking.savings(recipe, counted, total)
    return [f"{_duration(total)} in all. What would save most:", *(f"  {how}: {_duration(saved)} less" for how, saved in found)]


def _show_power(console: Any, name: str, recipe: Recipe, items: dict[str, int | None], load: Workload) -> None:
    """The smallest drop of accuracy that the items tell from none, beside the limits that they are to decide."""
    from rich.table import Table

    heads = [f"at {rate:.0%} changed" for rate in power.FLIPS]
    table = Table("task", "items", *heads, "limits", title=f"smallest drop decided (power {power.POWER:.0%})", title_justify="left")
    for row in power.of(recipe, items):
        margins = ", ".join(f"{weights} {margin:.2%}" for weights, margin in row.margins.items())
        cells = [f"{drop:.2%}" for drop in row.detectable] or ["?"] * len(heads)
        table.add_row(row.task, "?" if row.items is None else f"{row.items:,}", *cells, margins)
    console.print(table)
    console.print(
        "A limit below the drop that is decided mostly ends INCONCLUSIVE: draw more items or widen the limit.", soft_wrap=True
    )
    _show_blindness(console, recipe, load)


def _show_blindness(console: Any, recipe: Recipe, load: Workload) -> None:
    """Which share of damaged windows the compared ones can miss, and whether gate.rare allows that."""
    rare, confidence = recipe.gate.rare, recipe.gate.confidence
    compared = len(recipe.evaluate.divergence.chosen(min(workload.windows(recipe, load).values())))
    blind = limits.unseen(compared, confidence)
    console.print(f"{compared} compared windows can miss damage that sits in {blind:.1%} of a text's windows.", soft_wrap=True)
    if rare is not None and blind > rare:
        wanted = limits.windows_for(rare, confidence)
        console.print(
            f"[red]No PASS can come: gate.rare asks for {rare:.1%}. Set evaluate.divergence.windows to {wanted}, and take texts "
            "with as many windows.[/]",
            soft_wrap=True,
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
