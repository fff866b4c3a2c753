"""Records -> the report of a recipe: a page, the same as Markdown and JSON, figures for DVC, and a card per artifact."""

from __future__ import annotations

import json
from typing import Any

from pipeline import artifact, paths
from pipeline.recipe import Recipe
from pipeline.records import write_text


def write(name: str, recipe: Recipe) -> None:
    """Writes artifacts/reports/, plots/ and cards/. Raises ArtifactError if a record is missing or of another artifact."""
    from pipeline.report import card, markdown, page
    from pipeline.report.metrics import metrics, plots
    from pipeline.report.summary import summarize

    summary = summarize(name, recipe)
    write_text(paths.report(name, "json"), _json(summary))
    write_text(paths.report(name, "metrics.json"), _json(metrics(summary)))
    write_text(paths.report(name, "md"), markdown.render(summary))
    write_text(paths.report(name, "html"), page.render(summary))
    for plot, rows in plots(summary).items():
        write_text(paths.plots(name, plot), _json(rows))
    _write_cards(name, {variant: card.render(summary, variant) for variant in recipe.variants})


def _write_cards(name: str, cards: dict[str, str]) -> None:
    """As one folder, so that no card of a variant that left the recipe stays behind."""
    with artifact.stage_folder(f"cards@{name}") as folder:
        for variant, text in cards.items():
            write_text(folder / "out" / f"{variant}.md", text)
        artifact.install(folder / "out", paths.card(name, "x").parent)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
