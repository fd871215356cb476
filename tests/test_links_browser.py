"""Addresses in a real browser: tabs, links to a tab as it is filled in, and the history of runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

import demos
from components.page.links import LONGEST
from tests import test_browser
from tests.test_browser import (
    BROWSER_OPTIONS,
    DESK,
    EVIL,
    PHONE,
    complaints_of,
    expect_answer,
    expect_done,
    expect_harmless,
    field,
    open_tab,
    run,
    status,
    upload,
)

app, context, log = test_browser.app, test_browser.context, test_browser.log
TITLES = {demo.name: demo.title for demo in demos.discover()}
# What each tab takes from a link, in the order in which it gives it. The names are for good.
FILLED: dict[str, dict[str, str | list[str]]] = {
    "sentiment": {"text": "I like tea.\nNot coffee.", "checkpoint": "starter"},
    "zero_shot": {
        "text": "Tea & cake, 100 %",
        "candidate_labels": "food, sport",
        "multi_label": "true",
        "hypothesis_template": "About {}.",
        "checkpoint": "course",
    },
    "generation": {
        "prompt": "“Tea”, she said",
        "max_new_tokens": "7",
        "num_return_sequences": "3",
        "temperature": "0.35",
        "top_k": "11",
        "top_p": "0.5",
        "repetition_penalty": "1.2",
        "seed": "12",
        "mode": "chat",
        "checkpoint": "owner/name@v2",
    },
    "translation": {"text": "Où est le thé ? 茶", "checkpoint": "starter"},
    "speech": {"timestamps": "word", "language": "fr", "task": "translate", "checkpoint": "starter"},
    "image": {"top_k": "9", "checkpoint": "starter"},
    "transfer": {"minutes": "3", "across": "texts seen", "starter": "MiniLM fine-tuned on SST-2"},
    "tokenizers": {
        "corpus": "tea 3\nteas 2",
        "algorithm": "WordPiece",
        "stop_at": "merges",
        "limit": "2",
        "words": "teas",
        "text": "Tea time",
        "starters": ["all-MiniLM-L6-v2", "Whisper tiny.en"],
        "checkpoints": "owner/name",
    },
    "masked": {"text": "Tea is ___.", "masked_checkpoint": "starter", "checkpoint": "course"},
    "compare": {
        "task": "zero_shot",
        "text": "Tea is ready",
        "extra": "food, sport",
        "first_checkpoint": "course",
        "second_checkpoint": "owner/name",
    },
}


@contextmanager
def arrive(context: BrowserContext, address: str, width: int = DESK) -> Iterator[Page]:
    """A page opened at an address. It must not have complained."""
    page = context.new_page()
    complaints = complaints_of(page)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture
def page(context, app) -> Iterator[Page]:
    with arrive(context, f"{app}?__theme=light") as page:
        panel_of(page, "sentiment")
        yield page


def selected(page: Page) -> Locator:
    return page.get_by_role("tab", selected=True)


def panel_of(page: Page, name: str) -> Locator:
    """The panel of a tab, once that is open."""
    panel = page.locator("[role=tabpanel]:visible")
    expect(panel.locator(".task p")).to_have_text(next(d.task for d in demos.discover() if d.name == name))
    return panel


def query_of(url: str) -> list[tuple[str, str]]:
    return [pair for pair in parse_qsl(urlsplit(url).query, keep_blank_values=True) if pair[0] != "__theme"]


def copied(panel: Locator) -> str:
    """The link that the button of a tab copies."""
    panel.page.evaluate("navigator.clipboard.writeText('')")
    panel.get_by_role("button", name="Copy link").click()
    expect(panel.locator(".link .block.said").get_by_role("status")).to_have_text(re.compile("^Link copied"))
    return panel.page.evaluate("navigator.clipboard.readText()")


@pytest.fixture(autouse=True)
def clipboard(context, app) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=app)


def test_the_address_names_the_tab_that_is_chosen(page):
    page.evaluate("window.stays = true")
    open_tab(page, "Translation")
    assert query_of(page.url) == [("tab", "translation")]
    open_tab(page, "Speech recognition")
    assert query_of(page.url) == [("tab", "speech")]
    page.go_back()
    panel_of(page, "translation")
    expect(selected(page)).to_have_text("Translation")
    page.go_back()
    panel_of(page, "sentiment")
    assert query_of(page.url) == []
    page.go_forward()
    page.go_forward()
    panel_of(page, "speech")
    assert query_of(page.url) == [("tab", "speech")]
    assert "__theme=light" in page.url
    assert page.evaluate("window.stays"), "nothing was loaded anew"


@pytest.mark.parametrize("name", TITLES)
def test_an_address_opens_its_tab(context, app, name):
    with arrive(context, f"{app}?tab={name}") as page:
        panel_of(page, name)
        expect(selected(page)).to_have_text(TITLES[name])


@pytest.mark.parametrize("query", ["?tab=nonsense", "?tab=", "?tab=%3Cscript%3E", "?text=x&tab=Sentiment"])
def test_an_unknown_tab_is_ignored(context, app, query):
    with arrive(context, app + query) as page:
        panel_of(page, "sentiment")
        open_tab(page, "Zero-shot")
        assert query_of(page.url) == [("tab", "zero_shot")]


def test_addresses_on_a_phone(context, app):
    with arrive(context, f"{app}?tab=compare", PHONE) as page:
        panel_of(page, "compare")
        expect(selected(page)).to_have_text("Compare")
        open_tab(page, "Masked and causal")
        assert query_of(page.url) == [("tab", "masked")]
        page.go_back()
        panel_of(page, "compare")


@pytest.mark.parametrize("name", TITLES)
def test_a_link_opens_the_tab_as_it_was(context, app, name):
    query = urlencode({"tab": name, **FILLED[name]}, doseq=True)
    with arrive(context, f"{app}?{query}") as page:
        panel = panel_of(page, name)
        expect(panel.locator(".link .block.said")).to_have_text("Filled in from a link. Nothing has run yet.")
        assert query_of(copied(panel)) == parse_qsl(query)
        expect(panel.get_by_role("alert")).to_have_count(0)
        expect(panel.locator(".block.status .line")).to_have_count(0)


def test_every_tab_that_has_inputs_is_in_the_list():
    assert set(TITLES) <= set(FILLED)


def test_a_link_keeps_what_was_typed(page):
    panel = open_tab(page, "Zero-shot")
    field(panel, "Text").fill("A match & a <goal>")
    panel.get_by_role("checkbox").check()
    link = copied(panel)
    assert dict(query_of(link))["text"] == "A match & a <goal>"
    page.goto(link)
    panel = panel_of(page, "zero_shot")
    expect(field(panel, "Text")).to_have_value("A match & a <goal>")
    expect(panel.get_by_role("checkbox")).to_be_checked()


def test_a_link_shows_the_fields_of_the_task_that_it_compares(context, app):
    with arrive(context, f"{app}?" + urlencode({"tab": "compare", **FILLED["compare"]})) as page:
        panel = panel_of(page, "compare")
        expect(field(panel, "Candidate labels")).to_have_value("food, sport")
        expect(field(panel, "Text")).to_have_value("Tea is ready")
        page.goto(f"{app}?tab=compare&task=image")
        panel = panel_of(page, "compare")
        expect(panel.get_by_test_id("image")).to_be_visible()
        expect(field(panel, "Text")).to_be_hidden()
        copied(panel)
        expect(panel.locator(".link .block.said")).to_have_text("Link copied. Not in it: Picture.")


def test_what_a_link_brings_is_text_and_checked(context, app):
    asked = {"tab": "generation", "prompt": EVIL, "max_new_tokens": "9999", "top_k": EVIL, "mode": "none"}
    with arrive(context, f"{app}?" + urlencode({**asked, EVIL: "1", "audio": "/etc/passwd"})) as page:
        panel = panel_of(page, "generation")
        expect(field(panel, "Prompt")).to_have_value(EVIL)
        taken = dict(query_of(copied(panel)))
        assert taken["max_new_tokens"] == "512"
        assert (taken["top_k"], taken["mode"]) == ("50", "completion")
        expect_harmless(page)


def test_long_texts_and_media_are_not_in_a_link(page, tmp_path):
    panel = open_tab(page, "Sentiment")
    field(panel, "Text").fill("a" * (LONGEST + 1))
    assert query_of(copied(panel)) == [("tab", "sentiment"), ("checkpoint", "auto")]
    expect(panel.locator(".link .block.said")).to_have_text("Link copied. Not in it: Text.")
    panel = open_tab(page, "Image classification")
    assert "image" not in dict(query_of(copied(panel)))
    expect(panel.locator(".link .block.said")).to_have_text("Link copied. Not in it: Picture.")
    upload(panel, damaged(tmp_path), "Remove Image")
    copied(panel)


def damaged(folder) -> object:
    path = folder / "broken.png"
    path.write_bytes(b"\x89PNG no")
    return path


@pytest.fixture
def distant(context, app) -> Iterator[Page]:
    """A page of the same app under a name that is not this machine's, without HTTPS."""
    port = urlsplit(app).port
    browser = context.browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=[*BROWSER_OPTIONS, "--host-resolver-rules=MAP tour.test 127.0.0.1"],
    )
    distant = browser.new_page(base_url=f"http://tour.test:{port}/")
    distant.goto("/?tab=speech")
    yield distant
    browser.close()


def test_without_https_the_link_is_shown_and_the_microphone_explained(distant):
    panel = panel_of(distant, "speech")
    expect(panel.get_by_text("Browsers give the microphone to pages with https:// only.")).to_be_visible()
    panel.get_by_role("button", name="Copy link").click()
    link = panel.get_by_role("textbox", name="Link to this tab as it is filled in")
    expect(link).to_have_value(re.compile(r"^http://tour\.test:\d+/\?tab=speech&timestamps=segment"))
    link.focus()
    assert link.evaluate("field => field.selectionEnd - field.selectionStart == field.value.length")
    expect(panel.locator(".link").get_by_role("status")).to_have_text("Copy this link. Not in it: Recording.")


def test_at_home_there_is_no_word_of_the_microphone(context, app):
    with arrive(context, f"{app}?tab=speech") as page:
        expect(panel_of(page, "speech").get_by_text("Browsers give the microphone")).to_be_hidden()


def test_the_history_keeps_runs_and_brings_them_back(context, app):
    with arrive(context, f"{app}?tab=sentiment&text=old") as page:
        panel = panel_of(page, "sentiment")
        expect(field(panel, "Text")).to_have_value("old")
        field(panel, "Text").fill("I love this <b>tea</b>")
        run(panel)
        expect_done(panel)
        expect_answer(panel, "POSITIVE")
        page.get_by_role("link", name="Runs").click()
        expect(page.get_by_role("heading", name="Run history (1)")).to_be_visible()
        expect(page.get_by_text("/run_sentiment")).to_be_visible()
        expect(page.get_by_text("I love this <b>tea</b>")).to_be_visible()
        expect(page.locator(".answer")).to_have_text(re.compile(r"POSITIVE \d\d\.\d %"))
        assert page.get_by_text("__type__").count() == 0
        page.get_by_role("button", name="Load run").click()
        panel = panel_of(page, "sentiment")
        expect(field(panel, "Text")).to_have_value("I love this <b>tea</b>")
        expect(panel.locator(".answer")).to_have_count(0)
        expect(status(panel)).to_have_text("")
        expect(panel.locator("button.stop")).to_be_hidden()
        run(panel)
        expect_done(panel)
        expect_answer(panel, "POSITIVE")


def test_a_run_of_compare_comes_back_with_the_fields_of_its_task(context, app):
    query = {**FILLED["compare"], "first_checkpoint": "starter", "second_checkpoint": "starter"}
    with arrive(context, f"{app}?" + urlencode({"tab": "compare", **query})) as page:
        panel = panel_of(page, "compare")
        expect(field(panel, "Candidate labels")).to_have_value("food, sport")
        run(panel)
        expect_done(panel)
        page.get_by_role("link", name="Runs").click()
        page.get_by_role("button", name="Load run").first.click()
        panel = panel_of(page, "compare")
        expect(field(panel, "Candidate labels")).to_have_value("food, sport")
        assert dict(query_of(copied(panel)))["second_checkpoint"] == "starter"


def test_the_page_alone_may_call_what_the_history_keeps(app):
    info = httpx.get(f"{app}gradio_api/info").json()
    assert not [name for name in info["named_endpoints"] if name.startswith("/run_")]
    config = httpx.get(f"{app}config").json()
    kept = [event for event in config["dependencies"] if event["api_name"].startswith("run_")]
    # Transfer learning draws what was measured; it runs nothing.
    assert {event["api_name"] for event in kept} == {f"run_{name}" for name in TITLES if name != "transfer"}
    assert {event["api_visibility"] for event in kept} == {"private"}
