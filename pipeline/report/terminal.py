"""The few lines that end a run."""

from __future__ import annotations

from pipeline import paths
from pipeline.records import Benchmark, Verdict, read

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}


def show(name: str, variants: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("variant", "verdict", "tokens/s", "reason", title=name, title_justify="left")
    for variant in variants:
        verdict = read(paths.verdict(name, variant), Verdict)
        table.add_row(
            variant,
            f"[{COLOURS[verdict.status]}]{verdict.status}[/]",
            _speed(name, variant),
            _reason(verdict),
        )
    Console().print(table)


def _reason(verdict: Verdict) -> str:
    """What stands in the way of a PASS; the report has every check."""
    open_checks = [check for check in verdict.checks if check.status != "PASS"]
    return "\n".join(f"{check.name}: {check.reason}" for check in open_checks) or f"all {len(verdict.checks)} checks passed"


def _speed(name: str, variant: str) -> str:
    if not paths.benchmark(name, variant).is_file():
        return "not benchmarked"
    levels = read(paths.benchmark(name, variant), Benchmark).levels
    return ", ".join(f"{level.output_tokens_per_s.median:.0f} at {level.concurrency}" for level in levels) or "not benchmarked"
