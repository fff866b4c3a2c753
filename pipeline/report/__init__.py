"""Records -> the report of a recipe: a page, the same as Markdown and JSON, figures for DVC, and a card per artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import artifact, paths
from pipeline.recipe import Recipe
from pipeline.records import write_text


def write(name: str, recipe: Recipe) -> None:
    """Writes reports, metrics, plots and cards. Raises ArtifactError if a record is missing or of another artifact."""
    from pipeline.report import card, chart_pareto, chart_speed, markdown, page, theme
    from pipeline.report.metrics import metrics
    from pipeline.report.summary import summarize

    summary = summarize(name, recipe)
    write_text(paths.report(name, "json"), _json(summary))
    write_text(paths.report(name, "md"), markdown.render(summary))
    write_text(paths.report(name, "html"), page.render(summary))
    cards = {f"{variant}.md": card.render(summary, variant) for variant in recipe.variants}
    _write_folder(paths.card(name, "x").parent, cards)
    _write_folder(paths.metrics(name), {f"{variant}.json": _json(row) for variant, row in metrics(summary).items()})
    charts = [*chart_pareto.figures(summary), *chart_speed.curves(summary)]
    _write_folder(paths.plots(name), {f"{chart.key}.svg": theme.alone(chart.wide) for chart in charts})


def _write_folder(place: Path, files: dict[str, str]) -> None:
    """As a whole, so that nothing of a variant that left the recipe stays behind."""
    with artifact.stage_folder(f"{place.parent.name}@{place.name}") as folder:
        out = folder / "out"
        out.mkdir()
        for name, text in files.items():
            write_text(out / name, text)
        artifact.install(out, place)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
