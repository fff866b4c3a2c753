"""The page from a summary alone: complete, safe, the same bytes each time, and honest about what
was not measured."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from pipeline.records import Summary, VariantSummary
from pipeline.report import chart_forest, markdown, page, quality_tables, tables, theme
from pipeline.report.distribution import kl_distribution
from pipeline.report.document import first_card
from pipeline.report.formatting import number, size
from tests import evaluations as make
from tests import summaries

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Elements with their attributes, ids and headings; raises if elements are not closed in
    order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summaries.summary()


@pytest.fixture(scope="module")
def html(summary: Summary) -> str:
    return page.render(summary)


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    return Outline(html)


def test_the_same_summary_gives_the_same_bytes(summary: Summary, html: str) -> None:
    assert page.render(Summary.model_validate_json(summary.dumps())) == html
    assert len(html.encode()) < 3e6


def test_nothing_is_fetched_and_no_text_is_markup(html: str, outline: Outline) -> None:
    assert summaries.HARM not in html
    assert "onerror" in html  # shown, as text
    assert len(outline.all("script")) == 1
    assert not outline.all("img", "iframe", "object", "embed", "base")
    links = [
        value
        for attributes in outline.all("a", "link", "use", "image")
        for name, value in attributes.items()
        if "href" in name
    ]
    assert links
    assert all(link and link.startswith(("#", "data:,")) for link in links)
    assert not re.search(r"@import|url\((?!#)", html)


def test_ids_are_unique_and_every_reference_has_its_target(html: str, outline: Outline) -> None:
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', html)
    assert wanted
    assert set(wanted) <= set(ids)


def test_headings_go_down_one_level_at_a_time(outline: Outline) -> None:
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_charts_and_tables_are_labelled(outline: Outline) -> None:
    charts = outline.all("svg")
    assert all(
        svg.get("role") == "img" and svg.get("aria-label") and svg.get("viewbox") for svg in charts
    )
    assert not any("width" in svg or "height" in svg for svg in charts)
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert len(outline.all("figcaption")) == len(outline.all("figure"))
    assert all(head.get("scope") in ("row", "col") for head in outline.all("th"))
    regions = [found for found in outline.all("div") if "scroll" in (found.get("class") or "")]
    assert all(
        found["role"] == "region" and found["tabindex"] == "0" and found["aria-label"]
        for found in regions
    )


def test_every_chart_is_there(outline: Outline) -> None:
    keys = {found["id"] for found in outline.all("figure")}
    latencies = {
        f"curve-{latency}-{profile}"
        for latency in ("tpot_ms", "ttft_ms")
        for profile in ("deployed", "matched")
    }
    checks = {
        "perplexity_ratio",
        "mean_kl",
        "p99_kl",
        "top1_agreement",
        "accuracy_drop",
        "task_drop",
    }
    expected = {
        "pareto-speed",
        "pareto-size",
        "divergence-0",
        "goodput",
        "bars-size",
        "bars-memory",
        "bars-load",
        "costs",
    }
    assert keys == expected | latencies | {f"forest-{check}" for check in checks}


def test_verdicts_are_said_in_words(summary: Summary, html: str) -> None:
    headline, facts, verdict = first_card(summary)
    assert (headline, verdict) == (
        "Ship ov-int4: 33% of the size, mean KL 0.00967, 377 tokens/s.",
        "pass",
    )
    assert "Not to be shipped: rtn-int2 (its verdict is FAIL)." in facts
    assert "accurate but not faster" in html
    assert "not benchmarked: the gate says FAIL" in html
    failed = tables.missed({"rtn-int2": summary.variants["rtn-int2"]})
    assert failed is not None
    assert any(
        row[1].text.startswith("mean_kl") and "beyond the limit" in row[3].text
        for row in failed.rows
    )
    assert (
        html.count("PASS, all 11 checks: ov-bf16, ov-int8, ov-int4, vllm-bf16 and gptq-int4.") == 1
    )


def test_white_space_in_tokens_is_visible() -> None:
    assert page.visible(" a<\n") == '<span class="space">␣</span>a&lt;<span class="space">↵</span>'
    assert "empty" in page.visible("")
    assert page.breaks("a b\nc") == 'a b<span class="space">↵</span>\nc'


def bare(rows: dict[str, Any]) -> dict[str, Any]:
    """Nothing was measured of any variant: each could not even be loaded."""
    for row in rows.values():
        check = {
            "name": "load",
            "status": "FAIL",
            "value": math.nan,
            "low": math.nan,
            "high": math.nan,
            "limit": math.nan,
            "n": 0,
            "method": "load check",
            "reason": "a weight is NaN",
        }
        row["verdict"].update(status="FAIL", checks=[check], tasks=[], tails=[])
        row["benchmark"].update(
            measured=False,
            reason="the gate says FAIL",
            profiles={},
            costs=[],
            machine={},
            notices=[],
        )
        row.update(
            perplexity={},
            bits_per_byte={},
            tasks={},
            kl_distribution={},
            worst_tokens=[],
            flipped=[],
            http=None,
            size_ratio=None,
        )
    return rows


def broken(value: Any) -> Any:
    """Every figure of a record gone, and its words kept."""
    if isinstance(value, dict):
        return {key: broken(found) for key, found in value.items()}
    if isinstance(value, list):
        return [broken(found) for found in value]
    return math.nan if isinstance(value, float) else value


@pytest.mark.parametrize("how", [bare, broken])
def test_what_was_not_measured_is_said_and_never_shown_as_a_number(
    how: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    html = page.render(summaries.summary(how(summaries.rows())))
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert "not measured" in text
    assert not re.search(r"\b(None|nan|NaN|inf)\b", text.replace("a weight is NaN", ""))
    assert not re.search(
        r"\b(?:NaN|undefined|Infinity)\b", " ".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    )
    Outline(html)


def test_items_without_a_text_are_named() -> None:
    row = summaries.rows()["ov-int4"]
    row["flipped"] = [{**item, "text": ""} for item in row["flipped"]]
    found = quality_tables.flipped(VariantSummary.model_validate(row))
    assert found is not None
    assert found.rows[0][0].text.startswith("sums/1")
    assert found.rows[0][2].text == "text not kept"


def test_shares_of_the_margin() -> None:
    check = {"status": "PASS", "n": 1, "method": "", "reason": ""}
    row = summaries.rows()["ov-int4"]
    row["verdict"]["checks"] = [
        {
            **check,
            "name": "mean_kl deployed x",
            "value": 0.01,
            "low": 0.008,
            "high": 0.012,
            "limit": 0.02,
        },
        {
            **check,
            "name": "mean_kl weights x",
            "value": 0.2,
            "low": 0.1,
            "high": 0.3,
            "limit": 0.02,
            "status": "FAIL",
        },
        {
            **check,
            "name": "top1_agreement deployed x",
            "value": 0.95,
            "low": 0.94,
            "high": 0.96,
            "limit": 0.9,
        },
    ]
    rows = {"v": VariantSummary.model_validate(row)}
    assert [cells[5].text for cells in tables.checks(rows).rows] == ["50%", "1000%", "50%"]
    assert "1 of 2 checks passed; not passed by v." in chart_forest.charts(rows)[0].wide


def test_a_busy_machine_is_said_beside_each_figure() -> None:
    rows = summaries.rows()
    rows["ov-int4"]["benchmark"]["profiles"]["deployed"]["levels"][2]["others_share"] = 0.3
    summary = summaries.summary(rows)
    assert summary.comparison.ship is not None and summary.comparison.ship.busy
    busy = [row[0].text for row in tables.verdicts(summary).rows if any(cell.busy for cell in row)]
    assert busy == ["ov-int4"]
    assert "377 (366 to 389) (busy)" in markdown.render(summary)
    assert '<span class="busy"' in page.render(summary)
    assert '<span class="busy"' not in page.render(summaries.summary())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    colours = {name: getattr(colour, scheme) for name, colour in theme.COLOURS.items()}
    texts = (
        "ink",
        "muted",
        "link",
        "pass",
        "fail",
        "open",
        *(f"c{place}" for place in range(1, 9)),
    )
    for name in texts:
        for ground in ("paper", "panel"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_of_a_chart_changes_in_dark_mode(html: str) -> None:
    charts = " ".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    used = set(re.findall(r'(?:fill|stroke)="(#\w+|[a-z]+|rgb[^"]*)"', charts))
    assert used <= {colour.light for colour in theme.COLOURS.values()} | {"none", "transparent"}


def test_a_number_is_written_as_what_it_rounds_to() -> None:
    assert {number(value) for value in (9.96e-5, 9.99996e-5, 1e-4, 1.0004e-4)} == {"0.0001"}
    assert [number(value) for value in (9.94e-5, 99.96, 999.6)] == ["9.9\u00d710⁻⁵", "100", "1,000"]


def test_numbers() -> None:
    assert [number(value) for value in (1234.5, 0.012345, -0.5, 6.4e-6, 0, None, math.nan)] == [
        "1,230", "0.0123", "\u22120.5", "6.4\u00d710⁻⁶", "0", "not measured", "not measured",
    ]  # fmt: skip
    assert [size(value) for value in (12, 834_000, 1.61e6, 16e9, None)] == [
        "12 B",
        "834 kB",
        "1.61 MB",
        "16 GB",
        "not measured",
    ]


def test_distribution_keeps_the_quantiles_that_the_positions_support() -> None:
    nll, tasks = summaries.NLL, [make.draws(summaries.SCORES)]
    kl = (summaries.RANDOM.permutation(512).reshape(make.SHAPE) + 1) / 1000
    found = kl_distribution(make.candidate(nll, tasks, kl))["x"]
    assert found.positions == 512
    assert found.largest == 0.512
    assert found.quantiles["0.5"] == pytest.approx(0.2565)
    assert "0.998" in found.quantiles
    assert "0.999" not in found.quantiles
    assert len(found.quantiles) <= 40
    failed = make.candidate(nll, tasks).model_copy(update={"views": {}})
    assert kl_distribution(failed) == {}
