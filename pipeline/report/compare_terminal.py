"""`quantgate compare`: the variants of one report side by side, or two runs of one recipe; as
tables, or as JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pipeline import paths
from pipeline.errors import ArtifactError
from pipeline.records import Comparison, SideBySide, Summary, read_text
from pipeline.report import tables, terminal
from pipeline.report.changes import changes
from pipeline.report.comparison import compare
from pipeline.report.document import first_card


def run(name: str, before: str | None, as_json: bool) -> None:
    """Raises ArtifactError if a report is missing or was written by another version."""
    paths.require_project()
    summary = load(paths.report(name, "json"), f"Run: dvc repro report@{name}")
    if before is None:
        summary = summary.model_copy(update={"comparison": compare(summary.goal, summary.variants)})
    comparison = (
        summary.comparison if before is None else changes(_before(name, Path(before)), summary)
    )
    if as_json:
        print(comparison.dumps(), end="")
    elif before is None:
        show(name, comparison, first_card(summary))
    else:
        show(name, comparison, moved_only=True)


def _before(name: str, path: Path) -> Summary:
    """The report of an earlier run, wherever it lies."""
    remedy = (
        f"From git, if dvc.lock is committed: dvc get . {paths.report(name, 'json')} --rev HEAD~1"
        " -o before.json"
    )
    if not path.is_file():
        raise ArtifactError(f"{path}: missing: give the JSON report of an earlier run. {remedy}")
    earlier = load(path, f"Give the JSON report of an earlier run. {remedy}")
    if earlier.recipe != name:
        raise ArtifactError(
            f"{path}: the report of recipe {earlier.recipe!r}, expected one of {name!r}. {remedy}"
        )
    return earlier


def load(path: Path, remedy: str) -> Summary:
    """A report's JSON."""
    try:
        return Summary.model_validate_json(read_text(path))
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: not a report of this version of quantgate. {remedy}"
        ) from error


def show(
    name: str,
    comparison: Comparison,
    card: tuple[str, list[str], str] | None = None,
    moved_only: bool = False,
) -> None:
    """`moved_only`: figures of which none is the best are named, not shown."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if card is not None:
        headline, facts, verdict = card
        console.print(Text(headline, style=f"bold {terminal.STYLES[f'badge {verdict}']}"))
        for fact in facts:
            console.print(Text(f"- {fact}"))
        console.print()
    for section in comparison.sections:
        shown = [
            metric for metric in section.metrics if section.winners[metric.key] or not moved_only
        ]
        content = tables.comparison(section, shown)
        terminal.draw(content._replace(caption=f"{name}: {section.title}"), console)
        console.print(section.note, markup=False, highlight=False)
        for why, titles in _ties(section).items():
            console.print(
                f"  No winner ({why}): {', '.join(titles)}", markup=False, highlight=False
            )
        console.print()
    for advice in (*comparison.recommendations, *comparison.baselines):
        console.print(
            Text.assemble((advice.goal, "bold"), f": {advice.variant or 'none'}. {advice.reason}")
        )


def _ties(section: SideBySide) -> dict[str, list[str]]:
    """Why no variant is best -> in what; the figures behind it are in the JSON and on the report
    page."""
    by_reason: dict[str, list[str]] = {}
    for metric in section.metrics:
        if why := section.ties.get(metric.key):
            by_reason.setdefault(why, []).append(metric.title)
    return by_reason
