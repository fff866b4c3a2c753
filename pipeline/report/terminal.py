"""The few lines that end a run."""

from __future__ import annotations

from pipeline import paths
from pipeline.benchmark import performance
from pipeline.benchmark.statistics import closed_levels
from pipeline.recipe import load
from pipeline.records import Benchmark, Performance, Verdict, read

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
SPEED_COLOURS = {"FASTER": "green", "NOT FASTER": "red", "FAILED": "red", "OFF TARGET": "yellow"}


def show(name: str, variants: list[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    recipe = load(name)
    table = Table("variant", "verdict", "tokens/s", "performance", "reason", title=name, title_justify="left")
    for variant in variants:
        verdict, speed = read(paths.verdict(name, variant), Verdict), performance.of(name, recipe, variant)
        table.add_row(
            variant,
            f"[{COLOURS[verdict.status]}]{verdict.status}[/]",
            _speed(read(paths.benchmark(name, variant), Benchmark)),
            f"[{SPEED_COLOURS.get(speed.status, 'default')}]{speed.status}[/]",
            escape(_reason(verdict, speed)),
        )
    Console().print(table)


def _reason(verdict: Verdict, speed: Performance) -> str:
    """What stands in the way of a PASS, and of the speed that was asked for; the report has every check."""
    lines = [f"{check.name}: {check.reason}" for check in verdict.checks if check.status != "PASS"]
    lines = lines or [f"all {len(verdict.checks)} checks passed"]
    if speed.status in SPEED_COLOURS:
        lines.append(f"speed: {speed.reason}")
    return "\n".join(lines)


def _speed(benchmark: Benchmark) -> str:
    """Failed requests are said with the figure: without them it is no figure."""
    if "deployed" not in benchmark.profiles:
        return "not benchmarked"
    told = []
    for level in closed_levels(benchmark.profiles["deployed"]):
        failed = f" ({level.failed} of {level.requests} failed)" if level.failed else ""
        told.append(f"{level.output_tokens_per_s.median:.0f} at {level.concurrency}{failed}")
    return ", ".join(told)
