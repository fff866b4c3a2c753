"""The report stage: one page a recipe."""

from __future__ import annotations

from pipeline import paths
from pipeline.evidence import opened


def run(name: str) -> None:
    from pipeline.report import write

    write(opened.recipe(name))
    print(f"report: {paths.report(name, 'html')}")
