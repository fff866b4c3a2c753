"""The part of the Markdown report that sets the variants side by side."""

from __future__ import annotations

from typing import Any

from pipeline.report.markdown_parts import estimate, table
from pipeline.report.words import number

INTRODUCTION = (
    "Bold is the best in its row, and only where the 95 % intervals separate from those of every other variant; on size, which is "
    "exact, by any amount; on peak memory, which has no interval, by more than 5 %. Latency is compared at the lowest concurrency."
)
QUALITY = {"perplexity_ratio": "perplexity ratio", "mean_kl": "mean KL", "accuracy_drop": "accuracy drop"}
DIGITS = {"perplexity_ratio": 6}  # ratios near 1 need more of them to be told apart


def render(comparison: dict[str, Any]) -> list[str]:
    """The paragraphs of the section."""
    parts = ["## Which to serve", recommendations(comparison["recommendations"]), "## Side by side", INTRODUCTION]
    for section in comparison["sections"]:
        parts += [f"### {section['title']}", section["note"], _table(section)]
        reasons = [
            f"- {metric['title']}: {section['reasons'][metric['key']]}"
            for metric in section["metrics"]
            if section["winners"][metric["key"]] is None
        ]
        if reasons:
            parts.append("\n".join(["No winner:", "", *reasons]))
    return parts


def recommendations(found: list[dict[str, Any]]) -> str:
    rows = [[advice["goal"], f"**{advice['variant']}**" if advice["variant"] else "none", advice["reason"]] for advice in found]
    return table(["for", "serve", "because"], rows)


def _table(section: dict[str, Any]) -> str:
    rows = section["rows"]
    lines = [[title, *(str(row[title]) for row in rows)] for title in ("engine", "weights", "verdict", "performance")]
    lines += [[title, *(number(row["quality"][key], DIGITS.get(key, 4)) for row in rows)] for key, title in QUALITY.items()]
    for metric in section["metrics"]:
        key, best = metric["key"], section["winners"][metric["key"]]
        cells = [_cell(row["values"][key], row["variant"] == best) for row in rows]
        lines.append([heading(metric), *cells])
    return table(["", *(row["variant"] for row in rows)], lines)


def heading(metric: dict[str, Any]) -> str:
    """With its unit, unless the title says it."""
    return str(metric["title"]) if metric["unit"] in metric["title"] else f"{metric['title']} ({metric['unit']})"


def _cell(value: dict[str, Any] | None, best: bool) -> str:
    if value is None:
        return "not measured"
    return f"**{estimate(value)}**" if best else estimate(value)
