"""`quantgate plan`: what would run, where, and an estimate of disk, memory and time before anything
starts.

Time is that of this machine, measured once (pipeline/runtime/speed), were it idle otherwise. What a
stage took when it last ran stands beside its estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline import paths
from pipeline import recipe as recipes
from pipeline.engines import host
from pipeline.gate import limits
from pipeline.planning import estimate, power, shrinking
from pipeline.planning.estimate import Counted, Estimate, workload
from pipeline.recipe import Recipe, defaults
from pipeline.records import StageCost, read
from pipeline.records.base import Record
from pipeline.runtime import machine, speed

LONG_S = 2 * 3600.0  # a plan of so long says which settings to shrink


class PlannedStage(Record):
    """What a stage will take, None where the model's size is not known; `last_*`: what it took when
    it last ran here."""

    stage: str
    environment: str
    disk_bytes: float | None
    memory_bytes: float | None
    seconds: float | None
    last_seconds: float | None
    last_memory_bytes: int | None


class Decided(Record):
    """What the items of a task decide: by share of changed items the smallest drop of accuracy that
    is told from none."""

    task: str
    items: int | None
    smallest_drop: dict[str, float]
    limits: dict[str, float] = Field(description="by precision of the weights")


class Plan(Record):
    """What `--json` prints. `savings`: what would make a plan of hours shorter, and by how many
    seconds."""

    recipe: str
    left_out: list[str] = Field(description="sections of the recipe that have their defaults")
    defaults: str = Field(description="where those come from, in words")
    settings: dict[str, Any] = Field(
        description="what holds for the sections beside model, calibration and variants"
    )
    stages: list[PlannedStage]
    shortages: list[str] = Field(description="what this machine has too little of")
    savings: dict[str, float]
    decided: list[Decided]
    compared_windows: int
    unseen_share: float = Field(description="of damaged windows, which the compared ones can miss")
    rare: float | None = Field(description="gate.rare")
    lacking: dict[str, str] = Field(
        description="variants that this machine cannot measure, which will be INCONCLUSIVE, and why"
    )
    no_pass: str = Field(
        description=(
            "why gate.rare lets no PASS come with the windows that are compared, and what would;"
            " else empty"
        )
    )


def of(recipe: Recipe) -> Plan:
    items, load, shape = (
        power.count_items(recipe),
        workload.look(recipe),
        estimate.of(recipe),
    )
    if shape is None:
        known = Counted(estimate.UNKNOWN, load, items, estimate.USUAL)
        rows, shortages, savings = estimate.stages(recipe, known), [], {}
    else:
        known = Counted(shape, load, items, speed.here() or estimate.USUAL)
        rows = estimate.stages(recipe, known)
        shortages, savings = _shortages(rows), _savings(rows, recipe, known)
    compared = len(recipe.evaluate.divergence.chosen(min(workload.windows(recipe, load).values())))
    left_out = recipes.filled(recipe.name)[0]
    return Plan(
        recipe=recipe.name,
        left_out=left_out,
        defaults=defaults.sentence(recipe.model.parameters, left_out) if left_out else "",
        settings=recipe.model_dump(mode="json", include=set(defaults.SECTIONS)),
        stages=[_planned(recipe.name, row, known=shape is not None) for row in rows],
        shortages=shortages,
        savings=savings,
        decided=[_decided(row) for row in power.of(recipe, items)],
        compared_windows=compared,
        unseen_share=limits.unseen(compared, recipe.gate.confidence),
        rare=recipe.gate.rare,
        lacking=host.lacking(recipe),
        no_pass=no_pass(recipe, compared),
    )


def _planned(name: str, row: Estimate, known: bool) -> PlannedStage:
    kind, _, variant = row.stage.partition(" ")
    path = paths.cost(f"{kind}@{name}--{variant}" if variant else f"{kind}@{name}")
    took = read(path, StageCost) if path.is_file() else None
    return PlannedStage(
        stage=row.stage,
        environment=row.environment,
        disk_bytes=row.disk_bytes if known else None,
        memory_bytes=row.memory_bytes if known else None,
        seconds=row.seconds if known else None,
        last_seconds=took.wall_s if took else None,
        last_memory_bytes=took.peak_anonymous_bytes if took else None,
    )


def _shortages(rows: list[Estimate]) -> list[str]:
    """What this machine has too little of: at all, or just now."""
    shortages = []
    has, most = machine.memory(), max(rows, key=lambda row: row.memory_bytes)
    if most.memory_bytes > has.total:
        shortages.append(
            f"Does not fit: memory {_size(most.memory_bytes)} for {most.stage}, this machine has"
            f" {_size(has.total)}"
        )
    elif most.memory_bytes > has.available:
        shortages.append(
            f"Does not fit now: memory {_size(most.memory_bytes)} for {most.stage},"
            f" {_size(has.available)} of {_size(has.total)} are free: stop other programs first."
        )
    disk, free = sum(row.disk_bytes for row in rows), machine.free_bytes(Path.cwd())
    if disk > free:
        shortages.append(f"Does not fit: disk {_size(disk)}, this machine has {_size(free)}")
    return shortages


def _savings(rows: list[Estimate], recipe: Recipe, counted: Counted) -> dict[str, float]:
    """Of a plan of hours: what to shrink, and what that saves."""
    total = sum(row.seconds for row in rows)
    return dict(shrinking.savings(recipe, counted, total)) if total >= LONG_S else {}


def _decided(row: power.Power) -> Decided:
    drops = dict(
        zip((f"{rate:.0%}" for rate in power.FLIPS), row.detectable, strict=False)
    )  # none where items are unknown
    return Decided(task=row.task, items=row.items, smallest_drop=drops, limits=row.margins)


def no_pass(recipe: Recipe, compared: int) -> str:
    """Why no PASS can come from so many compared windows, and what would let one come; empty where
    it can."""
    rare, asked = recipe.gate.rare, recipe.evaluate.compared_at_most
    if rare is None or limits.unseen(compared, recipe.gate.confidence) <= rare:
        return ""
    needed = limits.windows_for(rare, recipe.gate.confidence)
    why = (
        f"No PASS can come: {compared} windows are compared, and gate.rare ({rare:.1%}) asks for"
        f" {needed}. "
    )
    if asked < needed:
        return (
            why + "Set evaluate.divergence.windows (and perplexity.max_windows, if it is there) to"
            f" {needed}."
        )
    window = recipe.evaluate.perplexity.window
    return (
        why + f"A text has no more of {window} tokens: shorter windows cost no more"
        f" (evaluate.perplexity.window of about {max(16, window * compared // needed)}), or take"
        " a longer text."
    )


def show(plan: Plan) -> None:
    from rich.console import Console

    console = Console()
    known = plan.stages[0].seconds is not None
    if not known:
        console.print("The checkpoint is not here and model.parameters is not given: no estimates.")
    console.print(_stages_table(plan, known))
    for shortage in plan.shortages:
        console.print(f"[red]{shortage}[/]", soft_wrap=True)
    if plan.left_out:
        console.print(
            f"{plan.defaults}. Their values: {paths.whole_recipe(plan.recipe)}",
            soft_wrap=True,
            highlight=False,
        )
    if plan.savings:
        console.print(
            f"{duration(sum(row.seconds or 0 for row in plan.stages))} in all. What would save"
            " most:",
            soft_wrap=True,
        )
    for how, saved in plan.savings.items():
        console.print(f"  {how}: {duration(saved)} less", soft_wrap=True)
    console.print(_power_table(plan))
    for line in _blindness(plan):
        console.print(line, soft_wrap=True)
    console.print(
        f"Everything:  dvc repro require@{plan.recipe}\nOne variant: dvc repro"
        f" gate@{plan.recipe}--VARIANT",
        soft_wrap=True,
    )


def _stages_table(plan: Plan, known: bool) -> Any:
    from rich.table import Table

    table = Table(title=f"plan {plan.recipe}", title_justify="left")
    for head in ("stage", "where", "disk", "memory", "time", "last run"):
        table.add_column(head, no_wrap=head != "where", min_width=8 if head == "where" else None)
    for row in plan.stages:
        last = (
            ""
            if row.last_seconds is None
            else f"{duration(row.last_seconds)}, {_size(row.last_memory_bytes)}"
        )
        table.add_row(
            row.stage,
            row.environment,
            _size(row.disk_bytes),
            _size(row.memory_bytes),
            duration(row.seconds),
            last,
        )
    if known:
        table.add_section()
        disk, memory = (
            sum(row.disk_bytes or 0 for row in plan.stages),
            max(row.memory_bytes or 0 for row in plan.stages),
        )
        table.add_row(
            "all",
            "",
            _size(disk),
            _size(memory),
            duration(sum(row.seconds or 0 for row in plan.stages)),
            "",
        )
    return table


def _power_table(plan: Plan) -> Any:
    """The smallest drop of accuracy that the items tell from none, beside the limits that they are
    to decide."""
    from rich.table import Table

    heads = [f"at {rate:.0%} changed" for rate in power.FLIPS]
    table = Table(
        "task",
        "items",
        *heads,
        "limits",
        title=f"smallest drop decided (power {power.POWER:.0%})",
        title_justify="left",
    )
    for row in plan.decided:
        least = min(row.smallest_drop.values(), default=0.0)
        marks = {
            weights: " undecidable" if margin < least else ""
            for weights, margin in row.limits.items()
        }
        margins = ", ".join(
            f"{weights} {margin:.2%}{marks[weights]}" for weights, margin in row.limits.items()
        )
        cells = [f"{drop:.2%}" for drop in row.smallest_drop.values()] or ["?"] * len(heads)
        table.add_row(row.task, "?" if row.items is None else f"{row.items:,}", *cells, margins)
    return table


def _blindness(plan: Plan) -> list[str]:
    """What a limit below the drop comes to; which share of damaged windows the compared ones can
    miss."""
    lines = [
        (
            "A limit below the drop that is decided mostly ends INCONCLUSIVE (undecidable: even"
            " where few answers change). Draw more items or widen the limit."
        ),
        (
            f"{plan.compared_windows} compared windows can miss damage that sits in"
            f" {plan.unseen_share:.1%} of a text's windows."
        ),
    ]
    lines += [
        f"[red]{variant}: INCONCLUSIVE here: {why}[/]" for variant, why in plan.lacking.items()
    ]
    if plan.no_pass:
        lines.append(f"[red]{plan.no_pass}[/]")
    return lines


def _size(count: float | None) -> str:
    return (
        "?"
        if count is None
        else f"{count / 1e9:.1f} GB"
        if count >= 1e8
        else f"{count / 1e6:.1f} MB"
    )


def duration(seconds: float | None) -> str:
    """For people; `?` where it is not known."""
    if seconds is None:
        return "?"
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )
