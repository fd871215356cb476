"""Everyone: with keys alone, with a screen reader, with weak eyes, on a small screen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Locator, Page, expect

import demos
from tests import test_browser
from tests.test_browser import expect_answer, expect_done, field, open_tab, resize, status, visit

app, context, log, page = test_browser.app, test_browser.context, test_browser.log, test_browser.page
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
TITLES = {demo.name: demo.title for demo in demos.discover()}
# Tabs whose first example takes seconds at most.
CHEAP = ("sentiment", "zero_shot", "translation", "image", "tokenizers", "masked", "compare")
SMALL = 360  # pixels
GRAVE = ("serious", "critical")
# Follows the focus: what it has been on, by what it is called, and where it cannot be seen.
MARK = """() => {
  const element = document.activeElement;
  if (!element || element === document.body || element.dataset.reached) return null;
  element.dataset.reached = "yes";
  const box = element.getBoundingClientRect(), style = getComputedStyle(element);
  const across = box.width > 0 && box.right > 0 && box.left < innerWidth;
  const inside = across && box.height > 0 && box.bottom > 0 && box.top < innerHeight;
  const name = element.getAttribute("aria-label") || element.labels?.[0]?.innerText || element.innerText;
  return {name: (name || "").trim().slice(0, 60), ring: style.outlineStyle !== "none", inside,
          visible: element.checkVisibility({visibilityProperty: true})};
}"""
MISSED = """() => [...document.querySelectorAll("button, input, textarea, select, a[href], [tabindex='0']")]
  .filter((one) => one.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !one.disabled
    && one.tabIndex >= 0 && !one.dataset.reached)
  .map((one) => one.outerHTML.slice(0, 200))"""


def violations(page: Page) -> list[str]:
    """What axe finds grave, each with the element and why, once nothing fades in any more."""
    page.wait_for_function(
        """() => !document.querySelector(".pending")
        && document.getAnimations().every((one) => one.playState === "finished")"""
    )
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


def opened(page: Page, name: str) -> Locator:
    """The panel of a tab with its options unfolded."""
    panel = open_tab(page, TITLES[name])
    options = panel.get_by_role("button", name="Options and checkpoint")
    if options.count():
        options.click()
        expect(panel.get_by_label(re.compile("heckpoint")).first).to_be_visible()
    if name == "transfer":  # what is below them moves when they are drawn
        expect(panel.locator(".js-plotly-plot")).to_have_count(2)
    return panel


def ran(panel: Locator, name: str) -> None:
    """Run the first example and open the drawers of what it gave."""
    if name == "tokenizers":
        panel.get_by_role("button", name="Compare", exact=True).click()
        expect(panel.locator(".token").first).to_be_visible()
        return
    panel.locator("button.run").click()
    expect_done(panel)
    for title in ("Inside", "Code"):
        drawer = panel.locator(".drawer > button", has_text=re.compile(f"^{title}"))
        if drawer.count():
            drawer.click()
    drawn = ".drawer .station, .drawer .facts, .drawer .tokens, .drawer .maps"
    expect(panel.locator(drawn).filter(visible=True).first).to_be_visible()


def sideways(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", TITLES)
def test_nothing_grave_on_any_tab(context, app, name, theme):
    with visit(context, app, theme=theme) as page:
        opened(page, name)
        assert violations(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", CHEAP)
def test_nothing_grave_after_a_run(context, app, name, theme):
    with visit(context, app, theme=theme) as page:
        ran(opened(page, name), name)
        assert violations(page) == []
        resize(page, SMALL)
        assert sideways(page) <= 0
        assert violations(page) == []


def test_nothing_grave_in_the_sidebar(page):
    page.get_by_role("button", name="Toggle Sidebar").click()
    expect(page.get_by_role("button", name="Unload")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("name", TITLES)
def test_nothing_scrolls_sideways_on_a_small_phone(context, app, name):
    with visit(context, app, width=SMALL) as page:
        opened(page, name)
        assert sideways(page) <= 0


@pytest.mark.parametrize("name", TITLES)
def test_the_keys_reach_everything_and_show_where_they_are(page, name):
    opened(page, name)
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    page.get_by_role("heading", level=1).click()  # where the keys begin
    stops = []
    for _ in range(200):
        page.keyboard.press("Tab")
        stop = page.evaluate(MARK)
        if stop is None:
            break
        stops.append(stop)
    assert page.evaluate(MISSED) == []
    assert [stop for stop in stops if not (stop["ring"] and stop["inside"] and stop["visible"])] == []
    assert len(stops) > len(TITLES)


def test_arrow_keys_go_through_the_tabs(page):
    titles = list(TITLES.values())
    page.get_by_role("tab", name=titles[0]).focus()
    selected = page.get_by_role("tab", selected=True)
    for key, title in (
        ("ArrowRight", titles[1]),
        ("ArrowLeft", titles[0]),
        ("ArrowLeft", titles[-1]),
        ("Home", titles[0]),
    ):
        page.keyboard.press(key)
        expect(selected).to_have_text(title)
        expect(selected).to_be_focused()


def test_a_phone_s_menu_of_tabs_opens_by_key(context, app):
    with visit(context, app, width=SMALL) as page:
        page.get_by_role("button", name="More tabs").focus()
        page.keyboard.press("Enter")
        item = page.locator(".overflow-dropdown").get_by_role("button", name="Compare")
        item.focus()
        page.keyboard.press("Enter")
        expect(page.locator("[role=tabpanel]:visible .task p")).to_have_text(test_browser.TASKS["Compare"])


def test_a_run_from_the_example_to_the_file_by_keys_alone(page):
    panel = open_tab(page, "Sentiment")
    panel.locator(".gallery-item").last.focus()
    page.keyboard.press("Enter")
    expect(field(panel, "Text")).to_have_value(re.compile(r"\n"))
    panel.get_by_role("button", name="Options and checkpoint").focus()
    page.keyboard.press("Enter")
    checkpoint = panel.get_by_role("combobox", name="Checkpoint")
    checkpoint.focus()
    page.get_by_role("option", name=re.compile("^Starter")).wait_for()
    while "Starter" not in page.locator("[role=option].active").inner_text():
        now = checkpoint.get_attribute("aria-activedescendant")
        assert now
        page.keyboard.press("ArrowDown")
        expect(checkpoint).not_to_have_attribute("aria-activedescendant", now)
    page.keyboard.press("Enter")
    expect(checkpoint).to_have_value(re.compile("^Starter"))
    panel.locator("button.run").focus()
    page.keyboard.press("Enter")
    expect_done(panel)
    panel.get_by_role("button", name="Download as CSV").focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "sentiment.csv"
    panel.locator(".drawer > button", has_text="Inside").focus()
    page.keyboard.press("Enter")
    expect(panel.locator(".drawer .station").first).to_be_visible()


def test_a_run_is_stopped_by_keys_alone(page):
    panel = open_tab(page, "Text generation")
    for label, value in (("New tokens", "512"), ("Sequences", "1")):
        test_browser.number(panel, label).fill(value)
        page.keyboard.press("Tab")
    panel.locator("button.run").focus()
    page.keyboard.press("Enter")
    expect(panel.locator("button.stop")).to_be_visible()
    page.keyboard.press("Tab")
    expect(panel.locator("button.stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel.locator("button.stop")).to_be_hidden()
    expect(status(panel)).to_have_text(re.compile("Stopped"))


def test_the_picture_s_examples_have_names(page):
    panel = open_tab(page, "Image classification")
    expect(panel.get_by_role("button", name=re.compile("^Example: ")).first).to_be_visible()
    panel.get_by_role("button", name=re.compile("^Example: ")).last.focus()
    page.keyboard.press("Enter")
    panel.locator("button.run").focus()
    page.keyboard.press("Enter")
    expect_answer(panel, r"\d\d\.\d %")


def test_a_result_is_told_in_words_and_numbers(page):
    """What is coloured says what its colour says, in its text or its title."""
    panel = open_tab(page, "Text generation")
    test_browser.number(panel, "New tokens").fill("5")
    page.keyboard.press("Tab")
    panel.locator("button.run").click()
    expect_done(panel)
    panel.locator(".drawer > button", has_text="Inside").click()
    pieces = panel.locator(".pieces .piece")
    expect(pieces.first).to_be_visible()
    written = [piece.get_attribute("title") or "" for piece in pieces.all()]
    assert [title for title in written if re.search(r"\d %", title)]
    panel = open_tab(page, "Sentiment")
    panel.locator("button.run").click()
    expect_done(panel)
    for bar in panel.locator(".bar").all():
        assert re.fullmatch(r"\d+\.\d %", bar.locator(".number").inner_text())
        assert bar.locator(".name").inner_text()
