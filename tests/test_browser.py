"""The app in a real browser: what does a visitor see after each thing they do?"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Locator, Page, expect, sync_playwright

import demos
from components.progress import unreported
from components.weights import sources
from demos import generation, image, masked, sentiment, speech, translation, zero_shot

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 60_000  # milliseconds; for a busy machine, nothing waits that long where all is well
BROWSER_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = os.environ.get("TOUR_SCREENSHOTS")
TASKS = {demo.title: demo.task for demo in demos.discover()}


def starter_of(tab: Any, offer: str = "OFFER") -> str:
    return getattr(tab, offer).starter.name


# What the first example of each tab must give, on the starters, and the starter's name.
FIRST = {
    "Sentiment": (r"POSITIVE 9\d\.\d %", starter_of(sentiment)),
    "Zero-shot": (r"education [67]\d\.\d %", starter_of(zero_shot)),
    "Text generation": (r"So today, I just feel like\s*\w+", starter_of(generation)),
    "Translation": (r"\bmaison\b", starter_of(translation)),
    "Speech recognition": (r"\b(30|thirty) seconds\b", starter_of(speech)),
    "Image classification": (r"\blion\b.* \d\d\.\d %", starter_of(image)),
    "Masked and causal": (r"the\s*1\d\.\d %", f"{starter_of(generation)} and {starter_of(masked, 'MASKED')}"),
    "Compare": (r"POSITIVE 9\d\.\d %", starter_of(sentiment)),
}
EVIL = "<img src=x onerror=alert(1)> and <b>bold</b>"
PHONE, DESK = 390, 1280
# Of each text on the page its contrast with the first opaque ground behind it, from 1 to 21 (WCAG 2.2).
CONTRASTS = """elements => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = numbers(color).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return (numbers(color)[3] ?? 1) < 1 ? ground(element.parentElement) : color;
  };
  return elements.filter((element) => element.checkVisibility()).map((element) => {
    const style = getComputedStyle(element);
    const text = luminance(element instanceof SVGElement ? style.fill : style.color);
    const behind = luminance(ground(element));
    const ratio = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    return [element.textContent || element.value, ratio];
  });
}"""
TEXTS = (
    ".masthead p, .task p, label span, textarea, .answer, .answer span, .bar .name, .bar .number, "
    ".chips span, .sequences section, .sequences .prompt, .timed td, .gtitle, .xtick text, .ytick text, "
    ".status .line, .status .remark, .gallery-item, button.run, button.stop, [role=tab]"
)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """What the server writes."""
    return tmp_path_factory.mktemp("app") / "log.txt"


@pytest.fixture(scope="module")
def app(context, starter_cache, log) -> Iterator[str]:
    """The address of the app, started as a visitor of the README would, on the starters."""
    offers = [demo.OFFER for demo in (generation, image, sentiment, speech, translation, zero_shot)]
    for offer in (*offers, masked.MASKED):
        assert offer.starter
        # Here and not in the first click: a download may take longer than a test waits.
        sources.fetch(offer.starter, starter_cache, unreported, lambda: 1 << 40, 4)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "TOUR_CACHE": str(starter_cache.parent),
        "TMPDIR": str(log.parent),  # uploads and downloads go with the test
    }
    command = [sys.executable, "app.py", "--port", str(port), "--checkpoints", "starter"]
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + TIMEOUT / 1000
        while not answers(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the app does not answer"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    """One browser for all tests; its cache spares each page the download of the scripts."""
    program = shutil.which("chromium")
    if program is None:
        reason = "there is no program named chromium (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=BROWSER_OPTIONS)
        context = browser.new_context(accept_downloads=True)
        context.set_default_timeout(TIMEOUT)
        expect.set_options(timeout=TIMEOUT)
        yield context
        browser.close()


def complaints_of(page: Page) -> list[str]:
    """What a page complains of from now on: errors in its console, of its scripts, and dialogs.

    A page that is left, for another address or for good, aborts what it still waits for, and Gradio's client
    first says AbortError and then, of the same stream, that the connection errored out: no complaint.
    """
    complaints: list[str] = []
    left = False

    def told(message: ConsoleMessage) -> None:
        nonlocal left
        if message.type != "error":
            return
        aborted = left and message.text.startswith("Unexpected error Connection errored out")
        left = aborted or "AbortError" in message.text
        # Gradio's player says the last of a file that is no sound, which a test uploads on purpose.
        if not (left or message.text.startswith("Waveform load error")):
            complaints.append(f"console: {message.text}")

    def asked_by_script(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", told)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", asked_by_script)
    return complaints


@contextmanager
def visit(context: BrowserContext, app: str, width: int = DESK, theme: str = "light") -> Iterator[Page]:
    """A page of the app. Afterwards it must not have complained or asked any other host for anything."""
    page = context.new_page()
    complaints = complaints_of(page)

    def asked(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            complaints.append(f"asked {url}")

    page.on("request", lambda request: asked(request.url))
    page.on("websocket", lambda websocket: asked(websocket.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{app}?__theme={theme}")
    page.locator("button.run:visible").wait_for()
    yield page
    page.close()
    assert complaints == []


@pytest.fixture
def page(context, app) -> Iterator[Page]:
    with visit(context, app) as page:
        yield page


def answers(port: int) -> bool:
    """Whether a server answers on this port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def open_tab(page: Page, title: str) -> Locator:
    """The panel of a tab, opened as a visitor would."""
    tab = page.get_by_role("tab", name=title, exact=True)
    if not tab.is_visible():  # on a phone the last ones are in a menu
        page.get_by_role("button", name="More tabs").click()
        tab = page.locator(".overflow-dropdown").get_by_role("button", name=title)
    tab.click()
    panel = page.locator("[role=tabpanel]:visible")
    expect(panel.locator(".task p")).to_have_text(TASKS[title])
    return panel


def field(panel: Locator, label: str) -> Locator:
    """A text box by its label."""
    name = panel.page.get_by_test_id("block-info").get_by_text(label, exact=True)
    return panel.locator("label", has=name).locator("textarea, input")


def number(panel: Locator, label: str) -> Locator:
    """The number beside a slider."""
    return panel.get_by_label(f"number input for {label}")


def run(panel: Locator) -> None:
    """Press Run, once what ran before has ended: until then Gradio takes no other click."""
    expect_ended(panel)
    panel.locator("button.run").click()


def expect_ended(panel: Locator) -> None:
    """Gradio has closed the connection of the last run, if there was one."""
    status(panel).locator("[data-testid=status-tracker].hide").wait_for(state="attached")


def status(panel: Locator) -> Locator:
    """The status block, remarks included."""
    return panel.locator(".block.status")


def expect_done(panel: Locator) -> None:
    """The status line of a run that has ended is there. An error that nobody foresaw ends the wait."""
    surprise = panel.get_by_role("alert").filter(has_text="Something went wrong")
    status(panel).locator(".line", has_text="ran in").or_(surprise).wait_for()
    assert not surprise.all_inner_texts()
    expect_ended(panel)


def expect_answer(panel: Locator, pattern: str) -> None:
    """The answer, large or in its text box, matches."""
    answer = panel.locator(".answer, .sequences section, textarea:disabled").first
    if answer.evaluate("element => element.tagName") == "TEXTAREA":
        expect(answer).to_have_value(re.compile(pattern))
    else:
        expect(answer).to_have_text(re.compile(pattern))


def expect_no_answer(panel: Locator) -> None:
    """Nothing of an earlier answer is left: no text, figure, table, file or times."""
    expect(panel.locator(".answer, .bars, .sequences, .js-plotly-plot, .timed")).to_have_count(0)
    for box in panel.locator("textarea:disabled").all():
        expect(box).to_have_value("")
    for file in ("Download as CSV", "SRT", "VTT", "Text"):
        expect(panel.get_by_role("button", name=file, exact=True)).to_be_hidden()
    expect(panel.get_by_text("All texts", exact=True)).to_be_hidden()
    expect(status(panel)).to_have_text("")


def expect_problem(panel: Locator, sentence: str) -> None:
    """One alert, in its place above the button, and nothing else."""
    expect(panel.locator(".block.problem").get_by_role("alert")).to_have_text(re.compile(sentence))
    expect(panel.get_by_role("alert")).to_have_count(1)
    assert below(panel.locator("button.run"), panel.get_by_role("alert"))
    expect_no_answer(panel)


def expect_no_problem(panel: Locator) -> None:
    expect(panel.get_by_role("alert")).to_have_count(0)
    expect(panel.locator(".block.problem")).to_be_hidden()


def expect_harmless(page: Page) -> None:
    """EVIL made no element; what it would have started is told by the page when it closes."""
    assert page.locator("img[src='x']").count() == 0
    assert page.locator("b", has_text="bold").count() == 0


def resize(page: Page, width: int) -> None:
    """Make the window that wide and wait until the layout and the figures have followed."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_function(
        """() => [...document.querySelectorAll(".js-plotly-plot")].filter((plot) => plot.checkVisibility())
        .every((plot) => Math.abs(plot.querySelector(".main-svg").clientWidth - plot.clientWidth) < 2)"""
    )


def below(lower: Locator, upper: Locator) -> bool:
    """Whether one element begins where the other has ended, or further down."""
    low, high = lower.bounding_box(), upper.bounding_box()
    assert low
    assert high
    return low["y"] >= high["y"] + high["height"]


def overflow(inner: Locator, outer: Locator) -> float:
    """Pixels by which one element reaches beyond the left or right side of another."""
    small, large = inner.bounding_box(), outer.bounding_box()
    assert small
    assert large
    return max(large["x"] - small["x"], small["x"] + small["width"] - large["x"] - large["width"])


def downloaded(panel: Locator, button: str) -> tuple[str, str]:
    """Name and content of what a button downloads."""
    with panel.page.expect_download() as download:
        panel.get_by_role("button", name=button, exact=True).click()
    return download.value.suggested_filename, download.value.path().read_bytes().decode("utf-8-sig")


def upload(panel: Locator, path: Path, clear: str) -> None:
    """Put a file in the place of the one that is there; `clear` is the button that takes that away."""
    button = panel.get_by_role("button", name=clear, exact=True)
    if button.is_visible():
        button.click()
    if clear == "Clear":  # the microphone comes first
        panel.get_by_role("button", name="Upload file", exact=True).click()
    with panel.page.expect_response("**/upload*"):
        panel.locator("input[type=file]").set_input_files(path)
    expect(button).to_be_visible()


def test_header_and_tabs(page):
    header = page.locator(".masthead")
    expect(page).to_have_title("Transformer Tour")
    expect(header.get_by_role("heading", level=1)).to_have_text("Transformer Tour")
    expect(header).to_contain_text("See how Transformers solve tasks")
    expect(header.get_by_role("status")).to_have_text(re.compile("Models run on .+, starters only"))
    expect(page.get_by_role("tab")).to_have_text(list(TASKS))
    expect(page.get_by_role("tab", selected=True)).to_have_text("Sentiment")


@pytest.mark.parametrize("title", FIRST)
def test_one_click_answers_the_first_example(page, title):
    pattern, starter = FIRST[title]
    panel = open_tab(page, title)
    run(panel)
    expect_done(panel)
    expect_answer(panel, pattern)
    expect_no_problem(panel)
    line = status(panel).get_by_role("status").inner_text()
    time_taken = r"(under 0\.001|\d+(\.\d+)?) s"
    assert re.fullmatch(
        rf"{re.escape(starter)} · starter · \S.*, (float32|bfloat16|float16) · "
        rf"loaded in {time_taken} · ran in {time_taken}",
        " ".join(line.split()),
    ), line


def test_sentiment_shows_a_bar_for_each_label(page):
    panel = open_tab(page, "Sentiment")
    panel.get_by_role("button", name="I hate this so much!", exact=True).click()
    expect(field(panel, "Text")).to_have_value("I hate this so much!")
    run(panel)
    expect_answer(panel, r"^NEGATIVE 9\d\.\d %$")
    expect(panel.locator(".bar .name")).to_have_text(["NEGATIVE", "POSITIVE"])
    shares = [float(text.rstrip(" %")) for text in panel.locator(".bar .number").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.11)
    widths = [bar.bounding_box()["width"] for bar in panel.locator(".bar .track > span").all()]
    assert widths[0] / sum(widths) == pytest.approx(shares[0] / 100, abs=0.02)


def test_sentiment_of_several_lines_is_a_table_and_a_csv_file(page):
    panel = open_tab(page, "Sentiment")
    field(panel, "Text").fill(f"What a joy, {EVIL}\n\nI hate this so much!\n=1+1, awful")
    run(panel)
    expect_answer(panel, "3 texts")
    expect(panel.locator(".bar .name")).to_have_text(["NEGATIVE (2)", "POSITIVE (1)"])
    cells = panel.get_by_role("gridcell")
    expect(cells).to_have_count(9)
    expect(cells.nth(0)).to_have_text(f"What a joy, {EVIL}")
    expect(cells.nth(1)).to_have_text("POSITIVE")
    expect(cells.nth(4)).to_have_text("NEGATIVE")
    expect(cells.nth(5)).to_have_text(re.compile(r"^\s*9\d\.\d %\s*$"))
    expect_harmless(page)
    name, content = downloaded(panel, "Download as CSV")
    assert name == "sentiment.csv"
    head, joy, hate, formula = content.splitlines()
    assert head == "row,text,label,NEGATIVE,POSITIVE"
    assert joy.startswith(f'1,"What a joy, {EVIL}",POSITIVE,0.')
    assert re.fullmatch(r"3,I hate this so much!,NEGATIVE,0\.9\d{5},0\.0\d{5}", hate)
    assert formula.startswith('4,"\'=1+1, awful",NEGATIVE,')

    field(panel, "Text").fill("I hate this so much!")
    run(panel)
    expect_answer(panel, "NEGATIVE")
    expect(panel.get_by_role("button", name="Download as CSV")).to_be_hidden()
    expect(panel.get_by_text("All texts", exact=True)).to_be_hidden()


def test_sentiment_of_a_file(page, tmp_path):
    (tmp_path / "reviews.csv").write_text('id,review\n1,"Good, very good"\n2,Bad\n', encoding="utf-8")
    panel = open_tab(page, "Sentiment")
    panel.get_by_role("button", name="Many texts from a file").click()
    panel.locator("input[type=file]").set_input_files(tmp_path / "reviews.csv")
    expect(panel.get_by_label("File upload")).to_have_count(0)
    run(panel)
    expect_answer(panel, "2 texts")
    table = panel.get_by_role("grid", name="All texts")
    expect(table.get_by_role("gridcell").nth(0)).to_have_text("Good, very good")
    expect(table.get_by_role("gridcell").nth(4)).to_have_text("NEGATIVE")


def test_zero_shot_shows_chips_while_typing(page):
    panel = open_tab(page, "Zero-shot")
    chips = panel.locator(".chips span")
    expect(chips).to_have_text(["education", "politics", "business"])
    labels = field(panel, "Candidate labels")
    labels.press("End")
    labels.press_sequentially(", Education,  space   travel,,")
    expect(chips).to_have_text(["education", "politics", "business", "space travel"])
    run(panel)
    expect_answer(panel, "^education")
    shares = [float(text.rstrip(" %")) for text in panel.locator(".bar .number").all_inner_texts()]
    assert len(shares) == 4
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.21)


def test_zero_shot_with_several_right_labels(page):
    panel = open_tab(page, "Zero-shot")
    panel.get_by_text("The striker scored twice").click()
    expect(panel.get_by_label("Several labels may be right")).to_be_checked()
    run(panel)
    expect_answer(panel, "^sport")
    expect(status(panel)).to_contain_text("They are not probabilities.")


def test_zero_shot_labels_are_shown_as_text(page):
    panel = open_tab(page, "Zero-shot")
    field(panel, "Text").fill(EVIL)
    field(panel, "Candidate labels").fill(f"{EVIL}, politics")
    expect(panel.locator(".chips span")).to_have_text([EVIL, "politics"])
    run(panel)
    expect_answer(panel, re.escape(EVIL))
    expect(panel.locator(".bar .name").first).to_have_text(EVIL)
    expect_harmless(page)


def test_zero_shot_template_needs_a_place_for_the_label(page):
    panel = open_tab(page, "Zero-shot")
    panel.get_by_role("button", name="Options and checkpoint").click()
    field(panel, "Hypothesis template").fill("no place")
    run(panel)
    expect_problem(panel, r"exactly one \{\}")
    field(panel, "Hypothesis template").fill("It is about {}.")
    run(panel)
    expect_answer(panel, "education")
    expect_no_problem(panel)


def test_generation_streams_and_stops(page):
    panel = open_tab(page, "Text generation")
    number(panel, "New tokens").fill("512")
    run(panel)
    sections = panel.locator(".sequences section")
    expect(sections).to_have_count(2)
    expect(sections.first.locator(".prompt")).to_have_text("So today, I just feel like")
    length = len(sections.first.inner_text())
    grown = "length => document.querySelector('.sequences section').innerText.length > length"
    page.wait_for_function(grown, arg=length)
    page.wait_for_function(grown, arg=len(sections.first.inner_text()))
    expect(status(panel)).to_have_text("Running …")
    panel.get_by_role("button", name="Stop", exact=True).click()
    expect(status(panel)).to_contain_text("Stopped.")
    (tokens,) = re.findall(r"(\d+) tokens, \d+\.\d tokens/s", status(panel).inner_text())
    assert 2 < int(tokens) < 1024
    for text in sections.all_inner_texts():
        assert re.search(r"So today, I just feel like\s*\S+", text)


def test_generation_offers_chat_where_the_checkpoint_does(page):
    panel = open_tab(page, "Text generation")
    chat = panel.get_by_role("radio", name="chat", exact=True)
    expect(chat).to_be_hidden()
    field(panel, "Prompt").fill(EVIL)
    number(panel, "New tokens").fill("6")
    number(panel, "Sequences").fill("1")
    run(panel)
    expect_done(panel)
    expect(panel.locator(".sequences section")).to_have_count(1)
    expect(panel.locator(".prompt")).to_have_text(EVIL)
    expect_harmless(page)
    chat.check()
    run(panel)
    expect(panel.locator(".prompt")).to_have_text("")
    expect_done(panel)
    expect(panel.locator(".sequences section")).to_contain_text(re.compile(r"Sequence 1\s*\S+"))
    expect(chat).to_be_checked()


def test_translation_draws_the_attention_that_is_asked_for(page):
    panel = open_tab(page, "Translation")
    run(panel)
    expect_done(panel)
    expect_answer(panel, r"\bmaison\b")
    expect(panel).to_contain_text("Translation, English to French")
    title, across, down = (panel.locator(name) for name in (".gtitle", ".xtick text", ".ytick text"))
    expect(title).to_have_text(re.compile(r"^Encoder self-attention,\s*layer 3\D+3"))
    words = across.all_text_contents()
    assert "".join(words).replace("␣", " ").strip() == "You like this house"
    assert down.all_text_contents() == words
    cells = panel.locator(".heatmap-label text").all_text_contents()
    assert len(cells) == len(words) ** 2
    assert all(re.fullmatch(r"[01]\.\d\d", cell) for cell in cells)

    panel.get_by_role("button", name="Inside").click()
    expect(panel.locator(".station")).to_have_count(4)
    panel.get_by_role("button", name="Attention explorer").click()
    explored = panel.locator("#explored")
    title, across, down = (explored.locator(name) for name in (".gtitle", ".xtick text", ".ytick text"))
    expect(title).to_have_text(re.compile(r"^Cross-attention,\s*layer 3\D+3"))
    expect(across).to_have_text(["You", "like", "this", "house"])
    assert "maison" in "".join(down.all_text_contents())
    panel.get_by_label("Subwords merged into words").uncheck()
    expect(across).to_have_text(words)
    pick(panel, "Layer", "1")
    expect(title).to_have_text(re.compile(r"^Cross-attention,\s*layer 1\D+3"))
    pick(panel, "Head", "4")
    expect(title).to_have_text(re.compile(r"^Cross-attention,\s*layer 1\D+3.*head 4$"))
    pick(panel, "Special tokens", "shown")
    expect(across).to_have_text([*words, "</s>"])
    rows = len(down.all_text_contents())
    cells = explored.locator(".heatmap-label text").all_text_contents()
    assert len(cells) == rows * (len(words) + 1)
    assert sum(map(float, cells)) == pytest.approx(rows, abs=0.005 * len(cells))

    pick(panel, "Kind", "Decoder self-attention")
    expect(title).to_have_text(re.compile("^Decoder self-attention"))
    # The blank triangle has no numbers.
    expect(explored.locator(".heatmap-label text", has_text=".")).to_have_count(rows * (rows + 1) // 2)
    pick(panel, "Head", "all heads")
    expect(explored.locator(".annotation-text")).to_have_text([f"head {i}" for i in (1, 2, 3, 4)])
    pick(panel, "Layer", "all layers")
    expect(explored.locator(".annotation-text")).to_have_count(12)
    pick(panel, "Kind", "Cross-attention")
    expect(title).to_have_text(re.compile(r"^Cross-attention,\s*all layers, all heads$"))


def test_translation_words_tell_where_they_looked(page):
    panel = open_tab(page, "Translation")
    run(panel)
    expect_done(panel)
    panel.get_by_role("button", name="Inside").click()
    panel.get_by_role("button", name="Attention explorer").click()
    words, told = panel.locator(".looks button"), panel.locator(".looks [role=status]")
    expect(words.first).to_have_attribute("aria-pressed", "true")
    expect(told).to_have_text(re.compile("^“Tu” looked most at “.+” 0"))
    word = panel.get_by_role("group", name="queries").get_by_role("button", name="maison")
    word.click()
    expect(word).to_have_attribute("aria-pressed", "true")
    expect(told).to_have_text(re.compile("^“maison” looked most at “"))
    keys = panel.get_by_role("group", name="keys").get_by_role("button")
    expect(keys.locator("small")).to_have_count(4)
    # By the keyboard alone: the one that was pressed keeps the focus.
    keys.nth(3).focus()
    page.keyboard.press("Enter")
    expect(told).to_have_text(re.compile("^“house” was looked at most by “"))
    expect(keys.nth(3)).to_be_focused()
    expect(keys.locator("small")).to_have_count(0)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    expect(told).to_have_text(re.compile("^“this” was looked at most by “"))


def test_translation_map_is_downloaded(context, page):
    panel = open_tab(page, "Translation")
    run(panel)
    expect_done(panel)
    panel.get_by_role("button", name="Inside").click()
    panel.get_by_role("button", name="Attention explorer").click()
    expect(panel.locator("#explored .xtick text")).to_have_count(4)
    name, table = downloaded(panel, "Map as CSV")
    assert name == "attention.csv"
    head, *rows = table.splitlines()
    assert head == "layer,head,query,You,like,this,house"
    assert len(rows) == panel.locator("#explored .ytick text").count()
    with page.expect_download() as download:
        panel.get_by_role("button", name="Map as PNG").click()
    assert download.value.suggested_filename == "attention.png"
    with Image.open(download.value.path()) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    with page.expect_download() as download:
        panel.get_by_role("button", name="Map as HTML").click()
    assert download.value.suggested_filename == "attention.html"
    alone = context.new_page()
    try:
        asked: list[str] = []
        alone.on("request", lambda request: asked.append(request.url))
        alone.set_content(download.value.path().read_text("utf-8"))
        expect(alone.locator(".xtick text")).to_have_text(["You", "like", "this", "house"])
        assert not [url for url in asked if not url.startswith(("data:", "blob:"))], "it needs no network"
    finally:
        alone.close()


def test_translation_of_two_sentences_lets_one_be_chosen(page):
    panel = open_tab(page, "Translation")
    chooser = panel.get_by_role("combobox", name="Sentence")
    expect(chooser).to_be_hidden()
    field(panel, "Text").fill(f"The weather is nice today. You like this house {EVIL}.")
    run(panel)
    expect_done(panel)
    expect_answer(panel, re.escape("<img src=x onerror=alert(1)>"))
    expect(chooser).to_have_value("1: The weather is nice today.")
    across = panel.locator(".xtick text")
    expect(across.filter(has_text="weather")).to_have_count(1)
    pick(panel, "Sentence", "2: You like this house")
    expect(across.filter(has_text="house")).to_have_count(1)
    expect(across.filter(has_text="weather")).to_have_count(0)
    expect_harmless(page)

    panel.get_by_role("button", name="Inside").click()
    panel.get_by_role("button", name="Attention explorer").click()
    keys = panel.get_by_role("group", name="keys").get_by_role("button")
    expect(keys.filter(has_text="house")).to_have_count(1)
    expect(panel.locator(".block.said", has_text="Sentence 2 of 4")).to_have_count(1)
    assert page.locator("img[src='x'], b b").count() == 0
    pick(panel, "Sentence", "1: The weather")
    expect(keys.locator("b")).to_have_text(["The", "weather", "is", "nice", "today."])
    expect(panel.locator(".block.said", has_text="Sentence 1 of 4")).to_have_count(1)
    expect(panel.locator(".token").first).to_contain_text("The")

    field(panel, "Text").fill("")
    run(panel)
    expect_problem(panel, "There is no text yet")
    expect(chooser).to_be_hidden()
    field(panel, "Text").fill("You like this house")
    run(panel)
    expect_done(panel)
    expect(chooser).to_be_hidden()
    expect_answer(panel, r"\bmaison\b")


def pick(panel: Locator, label: str, option: str) -> None:
    """Choose from a dropdown."""
    panel.get_by_role("combobox", name=label, exact=True).click()
    panel.page.get_by_role("option", name=option).click()


def said_in(subtitles: str) -> list[str]:
    """The words of all cues, each of two lines at most."""
    cues = [re.split(r".* --> .*\n", cue)[-1] for cue in subtitles.strip().split("\n\n")]
    assert all(cue.count("\n") <= 1 for cue in cues)
    return " ".join(cues).split()


def test_speech_gives_times_and_files(page):
    panel = open_tab(page, "Speech recognition")
    run(panel)
    expect_done(panel)
    transcript = field(panel, "Transcript").input_value()
    rows = panel.locator(".timed tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.locator("td")).to_have_text(
        [re.compile(r"^0:0\d\.\d$"), re.compile(r"^0:0[67]\.\d$"), transcript]
    )
    name, srt = downloaded(panel, "SRT")
    assert name == "transcript.srt"
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", srt)
    assert said_in(srt) == transcript.split()
    name, vtt = downloaded(panel, "VTT")
    assert name == "transcript.vtt"
    assert re.match(r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\n", vtt)
    assert said_in(vtt.removeprefix("WEBVTT")) == transcript.split()
    assert downloaded(panel, "Text") == ("transcript.txt", transcript + "\n")

    panel.get_by_role("radio", name="word").check()
    run(panel)
    expect(rows).to_have_count(len(transcript.split()))
    assert " ".join(panel.locator(".timed td:last-child").all_inner_texts()) == transcript
    panel.get_by_role("radio", name="none").check()
    run(panel)
    expect(rows).to_have_count(0)
    expect(panel.get_by_role("button", name="SRT")).to_be_hidden()
    assert downloaded(panel, "Text") == ("transcript.txt", transcript + "\n")


def test_speech_hears_nothing_in_silence(page, tmp_path):
    with wave.open(str(tmp_path / "silence.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(2 * 32_000))
    panel = open_tab(page, "Speech recognition")
    upload(panel, tmp_path / "silence.wav", "Clear")
    run(panel)
    expect_done(panel)
    expect(status(panel)).to_contain_text("2.0 s of sound")
    expect(status(panel)).to_contain_text("No speech from 0:00.0 to 0:02.0: silence.")
    expect(field(panel, "Transcript")).to_have_value("")
    expect(panel.locator(".timed")).to_have_count(0)
    expect(panel.get_by_role("button", name="SRT")).to_be_hidden()
    expect_no_problem(panel)


def test_speech_says_what_is_wrong_with_a_recording(page, tmp_path):
    (tmp_path / "letter.wav").write_bytes(b"Dear reader, this is not a sound. " * 100)
    panel = open_tab(page, "Speech recognition")
    run(panel)
    expect_done(panel)
    panel.get_by_role("button", name="Clear", exact=True).click()
    run(panel)
    expect_problem(panel, "There is no recording yet")
    upload(panel, tmp_path / "letter.wav", "Clear")
    run(panel)
    expect_problem(panel, "This file is not a sound recording")
    upload(panel, speech.CLIP, "Clear")
    run(panel)
    expect_done(panel)
    expect_answer(panel, FIRST["Speech recognition"][0])
    expect_no_problem(panel)


def test_image_shows_as_many_labels_as_asked_for(page):
    panel = open_tab(page, "Image classification")
    panel.locator(".gallery-item").nth(1).click()
    expect(panel.locator(".image-frame img")).to_have_attribute("src", re.compile("cheetah"))
    run(panel)
    expect_answer(panel, r"^cheetah")
    expect(panel.locator(".bar")).to_have_count(5)
    panel.get_by_role("button", name="Options and checkpoint").click()
    number(panel, "Top-k").fill("12")
    run(panel)
    expect(panel.locator(".bar")).to_have_count(12)
    shares = [float(text.rstrip(" %")) for text in panel.locator(".bar .number").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.5


def test_image_says_what_is_wrong_with_a_picture(page, tmp_path):
    (tmp_path / "letter.png").write_bytes(b"Dear reader, this is not a picture. " * 100)
    whole = Path(gr.media.get_image("tower.jpg")).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 20])
    Image.new("1", (8000, 8000)).save(tmp_path / "large.png")
    panel = open_tab(page, "Image classification")
    run(panel)
    expect_done(panel)
    panel.get_by_role("button", name="Remove Image").click()
    run(panel)
    expect_problem(panel, "There is no picture yet")
    for name, sentence in [
        ("letter.png", "This file is not a picture that can be read"),
        ("cut.jpg", "The picture is damaged"),
        ("large.png", "The picture has 64.0 megapixels; at most 50 megapixels are taken"),
    ]:
        upload(panel, tmp_path / name, "Remove Image")
        run(panel)
        expect_problem(panel, sentence)
    upload(panel, Path(gr.media.get_image("lion.jpg")), "Remove Image")
    run(panel)
    expect_done(panel)
    expect_answer(panel, FIRST["Image classification"][0])
    expect_no_problem(panel)
    upload(panel, tmp_path / "half.jpg", "Remove Image")
    run(panel)
    expect_done(panel)
    expect(status(panel)).to_contain_text("rows")
    expect_no_problem(panel)


@pytest.mark.parametrize(
    ("title", "label", "sentence", "good", "pattern"),
    [
        ("Sentiment", "Text", "There is no text yet", "I hate this so much!", "NEGATIVE"),
        ("Zero-shot", "Text", "There is no text yet", "The parliament votes", "politics"),
        ("Zero-shot", "Candidate labels", "There are no labels yet", "school, war", "school"),
        ("Text generation", "Prompt", "There is no prompt yet", "Once upon a", r"Once upon a\s*\w+"),
        ("Translation", "Text", "There is no text yet", "You like this house", r"\bmaison\b"),
    ],
)
def test_a_blank_field_gets_a_sentence_and_the_tab_goes_on(page, title, label, sentence, good, pattern):
    panel = open_tab(page, title)
    if title == "Sentiment":  # a table and a file must go as well
        field(panel, label).fill("good\nbad")
    if title == "Text generation":
        number(panel, "New tokens").fill("4")
    run(panel)
    expect_done(panel)
    field(panel, label).fill(" \n ")
    run(panel)
    expect_problem(panel, sentence)
    field(panel, label).fill(good)
    run(panel)
    expect_done(panel)
    expect_answer(panel, pattern)
    expect_no_problem(panel)


@pytest.mark.parametrize(
    ("title", "label", "keys", "text", "pattern"),
    [
        ("Sentiment", "Text", "Control+Enter", "I hate this so much!", "NEGATIVE"),
        ("Zero-shot", "Candidate labels", "Meta+Enter", "school, cooking", "school"),
    ],
)
def test_keys_run_what_was_just_typed(page, title, label, keys, text, pattern):
    panel = open_tab(page, title)
    field(panel, label).fill("")
    field(panel, label).press_sequentially(text)
    page.keyboard.press(keys)
    expect_done(panel)
    expect_answer(panel, pattern)
    expect(field(panel, label)).to_have_value(text)


def test_a_checkpoint_that_was_typed_in(page):
    panel = open_tab(page, "Sentiment")
    panel.get_by_role("button", name="Options and checkpoint").click()
    box = panel.get_by_role("combobox", name="Checkpoint")
    expect(box).to_have_value(re.compile("^Automatic"))
    box.fill("nobody/nothing")
    box.press("Enter")
    run(panel)
    expect_problem(panel, "^This app runs on its starters only")
    expect(box).to_have_value("nobody/nothing")
    pick(panel, "Checkpoint", "Starter: ")
    run(panel)
    expect_answer(panel, "POSITIVE")
    expect_no_problem(panel)


@pytest.mark.parametrize(("theme", "widths"), [("light", (DESK, PHONE)), ("dark", (PHONE, DESK))])
def test_layout(context, app, theme, widths):
    with visit(context, app, widths[0], theme) as page:
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
        for title, (pattern, _) in FIRST.items():
            panel = open_tab(page, title)
            if title == "Text generation" and not SCREENSHOTS:
                number(panel, "New tokens").fill("4")
            run(panel)
            expect_done(panel)
            expect_answer(panel, pattern)
            if title == "Translation":
                panel.locator(".xtick text").first.wait_for()
            for width in widths:
                resize(page, width)
                where = f"{title}, {theme}, {width} px wide"
                excess = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert excess <= 0, f"{where}: scrolls sideways by {excess} px"
                answer = panel.locator(".answer, .sequences, textarea:disabled").first
                assert below(answer, panel.locator("button.run")) == (width == PHONE), where
                for plot in panel.locator(".js-plotly-plot").all():
                    for text in plot.locator(".gtitle, .xtick text, .ytick text").all():
                        outside = overflow(text, plot)
                        assert outside <= 0, f"{where}: {outside:.0f} px of {text.text_content()!r} cut off"
                contrasts = page.locator(TEXTS).evaluate_all(CONTRASTS)
                assert len(contrasts) > 8
                assert not [(text, ratio) for text, ratio in contrasts if ratio < 4.5], where
                if SCREENSHOTS:
                    Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
                    name = f"{theme}-{title.split()[0].lower()}{'-phone' if width == PHONE else ''}.png"
                    page.screenshot(path=Path(SCREENSHOTS) / name, full_page=True, animations="disabled")
            resize(page, widths[0])


def test_inside_a_text_a_token_is_pressed_and_another_one_continued_with(page):
    panel = open_tab(page, "Text generation")
    number(panel, "New tokens").fill("8")
    run(panel)
    expect_done(panel)
    panel.locator(".drawer button.label-wrap", has_text="Inside").first.click()
    tokens = panel.locator(".pieces button")
    tokens.first.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(panel.locator(".numbers .taken")).to_have_count(1)
    expect(tokens.nth(2)).to_have_attribute("aria-pressed", "true")
    other = panel.locator(".numbers button.piece").first
    word = other.inner_text().removeprefix("␣")
    other.click()
    expect(panel.locator(".branches mark")).to_have_text(re.compile(re.escape(word)))
    panel.locator(".drawer .line", has_text="ran in").wait_for()
    panel.get_by_label("Text", exact=True).click()
    page.get_by_role("option", name=re.compile("branch of 1")).click()
    expect(panel.locator(".pieces .fork")).to_have_text(re.compile(re.escape(word)))
    panel.locator(".drawer button.label-wrap", has_text="causal mask").click()
    expect(panel.locator(".drawer .drawer .js-plotly-plot")).to_have_count(1)
    expect(panel.get_by_role("alert")).to_have_count(0)


def test_speech_plays_the_recording_from_a_word(page):
    panel = open_tab(page, "Speech recognition")
    run(panel)
    expect_done(panel)
    drawer = panel.locator(".drawer").filter(has_text="Inside")
    drawer.get_by_role("button", name="Inside").click()
    words = drawer.locator("button.word")
    expect(words.first).to_be_visible()
    expect(drawer.locator(".token.decoded b").last).to_have_text("<|endoftext|>")
    expect(drawer.locator(".js-plotly-plot")).to_have_count(3)
    drawer.locator("audio").evaluate(
        "p => (window.player = p).addEventListener('seeking', () => { window.sought = p.currentTime; })"
    )
    for word, key in ((words.nth(5), None), (words.nth(9), "Enter")):
        word.press(key) if key else word.click()
        page.wait_for_function(
            "begins => Math.abs(window.sought - begins) < 0.01 && !window.player.paused",
            arg=float(word.get_attribute("data-from") or 0),
        )
        expect(drawer.locator(".word.now")).to_have_count(1)


def test_a_model_card_has_the_headings_that_it_was_given(page):
    panel = open_tab(page, "Transfer learning")
    pick(panel, "Starter", "MiniLM fine-tuned on SST-2")
    tables = panel.locator(".card table")
    expect(tables).to_have_count(2)
    about, runs = tables.all()
    expect(runs.get_by_role("columnheader")).to_have_text(["run", "right", "log loss"])
    expect(runs.locator("thead")).to_be_visible()
    expect(about.locator("thead")).to_be_hidden()


# What the drawers of a tab hold after its first example: stations, what opens in them, what is there then.
DRAWERS = {
    "Sentiment": (4, "Attribution", ".shaded"),
    "Zero-shot": (4, "Attribution", ".shaded"),
    "Text generation": (4, "causal mask", ".js-plotly-plot"),
    "Translation": (4, "Attention explorer", ".js-plotly-plot"),
    "Speech recognition": (7, None, ".js-plotly-plot"),
    "Image classification": (5, None, ".saliency svg"),
    "Masked and causal": (8, None, ".token"),
    "Compare": (8, None, ".token"),
}


def unfold(panel: Locator, title: str) -> Locator:
    """Open a drawer, which is closed; the innermost one of that title."""
    panel.locator(".drawer button.label-wrap", has_text=title).click()
    return panel.locator(".drawer").filter(has=panel.page.locator("button.label-wrap", has_text=title)).last


@pytest.mark.parametrize(("width", "theme"), [(DESK, "light"), (PHONE, "dark")])
@pytest.mark.parametrize("title", DRAWERS)
def test_drawers_follow_the_runs(context, app, title, width, theme):
    stations, within, content = DRAWERS[title]
    with visit(context, app, width, theme) as page:
        panel = open_tab(page, title)
        inside = unfold(panel, "Inside")
        expect(inside.get_by_text("Nothing has run on this tab yet.").first).to_be_visible()
        run(panel)
        expect_done(panel)
        expect(inside.locator(".station")).to_have_count(stations)
        expect(inside.get_by_text("Nothing has run on this tab yet.")).to_have_count(0)
        if within:
            inside = unfold(panel, within)
        expect(inside.locator(content).first).to_be_visible()
        if title not in ("Masked and causal", "Compare"):
            program = unfold(panel, "Code").locator(".cm-content")
            expect(program).to_contain_text("from transformers import")
        expect(panel.get_by_role("alert")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_log_of_all_this_holds_no_error(app, log):
    assert not re.findall(r"Traceback.*|.*\berror [0-9a-f]{6} in\b.*", log.read_text())
