"""Records -> the report of a recipe or an audit: a page, the same as Markdown and JSON, and a card
per artifact.

summary       the records of every variant, joined: what the JSON report holds; distribution is its
              quantiles of KL
comparison    variants side by side: what each has (figures), who is like for like
              (like_for_like), recommendation who is best in what, ship the first card;
              changes sets two runs beside each other
document      the report's content, built once of sections, notes, tables and charts (content):
              tables, speed_tables, provenance, chart_pareto, chart_forest, chart_divergence,
              chart_speed, over labels (where they stand), theme and formatting
page, markdown, terminal   the three that render it; card (with snippets) and compare_terminal take
                           parts of it
metrics       a few numbers for DVC
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.recipe import Recipe
from pipeline.records import Summary, artifact, write_text

if TYPE_CHECKING:
    from pipeline.report.summary import Judged


def write(recipe: Recipe) -> None:
    """Writes reports, metrics, plots and cards. Raises ArtifactError if a record is missing or of
    another artifact."""
    from pipeline.report import card, chart_pareto, chart_speed, theme
    from pipeline.report.metrics import metrics
    from pipeline.report.summary import summarize

    summary = summarize(recipe)
    for suffix, text in _pages(summary).items():
        write_text(paths.report(recipe.name, suffix), text)
    cards = {f"{variant}.md": card.render(summary, variant) for variant in recipe.variants}
    _write_folder(paths.card(recipe.name, "x").parent, cards)
    flat = {
        f"{variant}.json": json.dumps(row, indent=1) + "\n"
        for variant, row in metrics(summary).items()
    }
    _write_folder(paths.metrics(recipe.name), flat)
    charts = [*chart_pareto.charts(summary), *chart_speed.curves(summary)]
    _write_folder(
        paths.plots(recipe.name), {f"{chart.key}.svg": theme.alone(chart.wide) for chart in charts}
    )


def write_audit(recipe: Recipe, variant: str, judged: Judged, folder: Path) -> None:
    """Writes the report and the card of one artifact, which is none of the recipe's own, into its
    folder."""
    from pipeline.report import card
    from pipeline.report.summary import of

    summary = of(recipe, {variant: judged})
    for suffix, text in _pages(summary).items():
        write_text(folder / f"report.{suffix}", text)
    write_text(folder / "card.md", card.render(summary, variant))


def _pages(summary: Summary) -> dict[str, str]:
    """The report in each of its forms, by suffix."""
    from pipeline.report import markdown, page

    return {"json": summary.dumps(), "md": markdown.render(summary), "html": page.render(summary)}


def _write_folder(place: Path, files: dict[str, str]) -> None:
    """As a whole, so that nothing of a variant that left the recipe stays behind."""
    with artifact.stage_folder(f"{place.parent.name}@{place.name}") as folder:
        (folder / "out").mkdir()  # also where there is nothing to draw
        for name, text in files.items():
            write_text(folder / "out" / name, text)
        artifact.install(folder / "out", place)
