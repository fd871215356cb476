"""Hostile checkpoints in a real browser: their labels, tokens and names make no element, start no script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from playwright.sync_api import Locator, expect

import app as application
from components.models.manager import ModelManager
from components.page import ui
from components.server.line import Line
from components.server.metrics import Metrics
from components.settings import Settings
from components.weights.hub import HubStatus
from tests import test_browser, tiny
from tests.serving import served
from tests.test_browser import expect_done, field, number, open_tab, run, visit
from tests.test_fuzz import two_sided
from tests.test_hostile import named, with_words

context = test_browser.context
LABEL = "<img src=x onerror=alert(1)><x-evil>bold</x-evil><script>alert(2)</script>"
Fill = Callable[[Locator], None]


@contextmanager
def whole_app(models: ModelManager) -> Iterator[str]:
    """The address of the page with these models."""
    settings, line = Settings(), Line()
    page = application.create_app(models, settings, HubStatus(), line)
    with served(
        page,
        enable_monitoring=False,
        css_paths=ui.STYLE,
        head_paths=[ui.SCRIPT, ui.LINKS],
        app_kwargs={"routes": application.routes(Metrics(), line, Event(), settings)},
    ) as address:
        yield address


def texts(**given: str) -> Fill:
    """Fill fields by their labels, in which _ is a space."""

    def fill(panel: Locator) -> None:
        for label, text in given.items():
            field(panel, label.replace("_", " ")).fill(text)

    return fill


def short(panel: Locator) -> None:
    field(panel, "Prompt").fill(LABEL)
    number(panel, "New tokens").fill("8")


def hostile(name: str, home: Path) -> ModelManager:
    """Models for a tab, of which names, labels and words are markup."""
    if name == "masked":
        return two_sided(
            with_words(tiny.masked_distilbert(), home / "a"), with_words(tiny.llama(), home / "b")
        )
    made = {
        "sentiment": lambda: with_words(tiny.distilbert((LABEL, f"={LABEL}")), home),
        "zero_shot": lambda: with_words(tiny.bart(tuple(f"{kind}{LABEL}" for kind in KINDS)), home),
        "generation": lambda: with_words(tiny.llama(), home),
        "translation": lambda: with_words(tiny.marian(pair=("<x-evil>", "</p>")), home),
        "image": lambda: named(tiny.vit(tuple(f"{LABEL}{i}" for i in range(6))), home),
    }
    return tiny.manager(made[name]())


KINDS = ("contradiction", "neutral", "entailment")
TABS: dict[str, tuple[str, Fill]] = {
    "sentiment": ("Sentiment", texts(Text=f"i love {LABEL}")),
    "zero_shot": ("Zero-shot", texts(Text=LABEL, Candidate_labels=f"{LABEL}, b")),
    "generation": ("Text generation", short),
    "translation": ("Translation", texts(Text=f"You like {LABEL}. My name.")),
    "image": ("Image classification", texts()),
    "masked": ("Masked and causal", texts(Text_with_a_gap=f"{LABEL} ___ {LABEL}")),
}


@pytest.mark.parametrize("name", TABS)
def test_what_a_checkpoint_brings_is_text_in_the_browser(context, tmp_path, name):
    title, fill = TABS[name]
    # A script that ran would open a dialog, which `visit` tells.
    with whole_app(hostile(name, tmp_path)) as address, visit(context, address) as page:
        panel = open_tab(page, title)
        fill(panel)
        run(panel)
        expect_done(panel)
        drawers = panel.locator(".drawer > button")
        for i in range(drawers.count()):
            drawers.nth(i).click()
            expect(drawers.nth(i)).to_have_class(re.compile("open"))
        expect(panel.locator(".pending")).to_have_count(0)
        assert page.locator("x-evil, img[src='x']").count() == 0
        words = panel.locator(":visible").filter(has_text="x-evil")
        expect(words.first).to_be_visible()
