"""The page in a real browser: drawn, sortable, readable at every width and colour scheme,
printable, and without a network."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import page
from tests import summaries
from tests.test_page import contrast

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
# Marks of visible charts that have no extent, and charts that have no mark.
DRAWN = """() => [...document.querySelectorAll('.chart svg')]
  .filter(svg => svg.checkVisibility()).map(svg => {
    const marks = [...svg.querySelectorAll('.role-mark [aria-label]')]
      .map(mark => mark.getBoundingClientRect());
    const empty = marks.filter(box => box.width + box.height === 0);
    return {id: svg.closest('figure').id, marks: marks.length, empty: empty.length};
  })"""
OUTSIDE = """() => [...document.querySelectorAll('.chart svg')]
  .filter(svg => svg.checkVisibility()).flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
    const most = document.documentElement.clientWidth + 1;
    return boxes.filter(box => box.width && (box.left < -1 || box.right > most))
      .map(() => svg.closest('figure').id);
  })"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLUMN = (
    "(table, column) => [...table.tBodies[0].rows].map(row => row.cells[column].textContent.trim())"
)


def browser_path() -> str | None:
    found = (shutil.which(name) for name in BROWSERS)
    return os.environ.get("CHROMIUM") or next((path for path in found if path), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = browser_path()
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(BROWSERS)} is on the PATH, and CHROMIUM names none"
        )
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "example.html"
    path.write_text(page.render(summaries.summary()))
    assert path.stat().st_size < 3e6
    return path


class Opened:
    """The page at one width, with everything that it asked for and said."""

    def __init__(self, browser: Any, file: Path, width: int, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(file.as_uri())


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    pages: list[Opened] = []

    def start(width: int = 1280, **context: Any) -> Any:
        pages.append(Opened(browser, file, width, **context))
        return pages[-1].page

    yield start
    for one in pages:
        assert one.requests == [file.as_uri()]
        assert one.said == []
        one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_chart_is_drawn_and_nothing_runs_over(opened: Any, width: int, scheme: str) -> None:
    found = opened(width, color_scheme=scheme)
    charts = found.evaluate(DRAWN)
    assert len(charts) == found.locator("figure").count()
    assert all(chart["marks"] > 0 and chart["empty"] == 0 for chart in charts), charts
    assert found.evaluate(OUTSIDE) == []
    assert found.evaluate(OVERFLOW) <= 0
    found.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert found.evaluate(OVERFLOW) <= 0


def test_tables_sort_by_click_and_by_keyboard(opened: Any) -> None:
    found = opened()
    table = found.locator("#verdicts table").first
    size = table.locator("thead th").nth(2)
    size.get_by_role("button").click()
    assert size.get_attribute("aria-sort") == "ascending"
    assert table.evaluate(COLUMN, 2) == ["300 MB", "520 MB", "540 MB", "850 MB", "1.6 GB", "1.6 GB"]
    size.get_by_role("button").focus()
    found.keyboard.press("Enter")
    assert size.get_attribute("aria-sort") == "descending"
    assert table.evaluate(COLUMN, 0)[-1] == "rtn-int2"
    speed = table.locator("thead th").nth(5)
    for _ in range(2):  # what was not measured is last in both directions
        speed.get_by_role("button").press("Space")
        assert table.evaluate(COLUMN, 5)[-1] == "not measured"
    assert size.get_attribute("aria-sort") is None
    name = table.locator("thead th").nth(0)
    name.get_by_role("button").click()
    assert table.evaluate(COLUMN, 0)[:2] == ["gptq-int4", "ov-bf16"]


def test_marks_are_named_under_the_pointer_and_by_the_arrow_keys(opened: Any) -> None:
    found = opened()
    tip = found.locator("#tip")
    assert tip.is_hidden()
    chart = found.locator("#pareto-speed .wide svg")
    chart.scroll_into_view_if_needed()
    chart.locator(".role-mark [aria-label]").first.hover()
    assert "mean KL" in tip.inner_text()
    chart.focus()
    found.keyboard.press("ArrowRight")
    first = tip.inner_text()
    found.keyboard.press("ArrowRight")
    assert tip.is_visible()
    assert tip.inner_text() != first
    found.keyboard.press("Escape")
    assert tip.is_hidden()


def test_the_page_is_whole_without_script(opened: Any) -> None:
    found = opened(java_script_enabled=False)
    assert found.locator("thead button").count() == 0
    assert found.locator("#verdicts tbody tr").first.is_visible()
    found.locator("#margins summary").first.click()
    assert found.locator("#margins table").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(opened: Any, scheme: str) -> None:
    """Of every text that is shown, charts included, as the browser computes its colour."""
    found = opened(color_scheme=scheme)
    colours = found.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(one => one.checkVisibility()
      && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(one => {
        const style = getComputedStyle(one);
        return one.closest('svg') ? style.fill : style.color;
      })"""
    )
    ground = hexadecimal(found.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) > 300
    assert all(contrast(hexadecimal(colour), ground) >= 4.5 for colour in set(colours))
    assert (ground == "#ffffff") == (scheme == "light")


def hexadecimal(colour: str) -> str:
    numbers = colour.removeprefix("rgb(").removesuffix(")").split(",")
    return "#" + "".join(f"{int(number):02x}" for number in numbers)


def test_names_and_landmarks(opened: Any) -> None:
    """What axe would ask first: one main, a named navigation, a skip link, names for images,
    buttons and regions."""
    found = opened()
    assert [found.locator(tag).count() for tag in ("h1", "main", "nav[aria-label]", "header")] == [
        1,
        1,
        1,
        1,
    ]
    found.keyboard.press("Tab")
    assert found.evaluate("document.activeElement.textContent") == "Skip to content"
    found.keyboard.press("Enter")
    assert found.evaluate("document.activeElement.id") == "main"
    assert found.locator("svg:not([aria-label])").count() == 0
    assert found.evaluate(
        "[...document.querySelectorAll('button, summary')].every(one => one.textContent.trim())"
    )
    assert found.evaluate("document.documentElement.lang") == "en"


def test_on_a_phone_the_table_of_verdicts_scrolls_and_says_so(opened: Any) -> None:
    found = opened(390)
    frame = found.locator("#verdicts .scroll").first
    assert frame.evaluate(
        "frame => frame.scrollWidth > frame.clientWidth && getComputedStyle(frame).overflowX ==="
        " 'auto'"
    )
    said = frame.locator("caption").evaluate(
        "caption => getComputedStyle(caption, '::after').content"
    )
    assert "more to the right" in said
    frame.evaluate("frame => frame.scrollLeft = 9999")
    first = frame.locator("tbody th").first.bounding_box()
    assert first["x"] >= 0  # the variant's name stays
    assert "none" in opened(1280).locator("#verdicts caption").first.evaluate(
        "one => getComputedStyle(one, '::after').content"
    )


STRUCK = """() => {
  const kinds = ['pareto', 'curve', 'goodput'].map(kind => `[id^=${kind}] .wide svg`);
  const charts = document.querySelectorAll(kinds.join());
  return [...charts].flatMap(svg => {
    const boxes = (marks) =>
      [...svg.querySelectorAll(marks)].map(one => one.getBoundingClientRect());
    const names = boxes('.mark-text.role-mark text').filter(box => box.width);
    const lines = boxes('.mark-rule.role-mark line');
    const across = (name, line) => line.left < name.right - 1 && name.left + 1 < line.right
      && line.top < name.bottom - 3 && name.top + 3 < line.bottom;
    return names.filter(name => lines.some(line => across(name, line)))
      .map(() => svg.closest('figure').id);
  });
}"""


def test_no_label_is_struck_by_an_interval(opened: Any) -> None:
    assert opened().evaluate(STRUCK) == []


def test_it_prints_on_a4_on_few_pages(opened: Any) -> None:
    found = opened(color_scheme="dark")
    document = found.pdf(format="A4", prefer_css_page_size=True)
    assert document.startswith(b"%PDF")
    assert len(document) > 50_000
    assert len(re.findall(rb"/Type\s*/Page\b", document)) <= 8
    found.emulate_media(media="print")
    assert found.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not found.locator("nav").is_visible()
    assert found.locator("#pareto-speed .narrow").is_visible()
    assert not found.locator("#pareto-speed .wide").is_visible()  # several charts a row
    assert found.locator("#verdicts table").first.is_visible()
    assert not found.locator(
        "#margins details table"
    ).is_visible()  # what is drawn is not printed twice
