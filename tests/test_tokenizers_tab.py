"""The tab Tokenizers: training shown step by step, and texts through the tokenizers of checkpoints."""

from __future__ import annotations

import html
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.errors import Cancelled, CheckpointError, InputError
from components.explain.subwords import Method, state
from components.progress import Progress
from components.show.subwords_markup import MOST_PAIRS, draw_state, draw_words
from demos import tokenizers as tab
from tests import tiny
from tests.hub_server import HubServer
from tests.serving import served
from tests.test_browser import BROWSER_OPTIONS, CONTRASTS, TIMEOUT, complaints_of, field
from tests.test_hub_app import tell

EVIL = "<img src=x onerror=alert(1)>"
STARTERS = list(tab.STARTERS)
TEXTS = [tab.TEXT, "I love this house.", "  two  spaces\nand a line\t", "naïve <s> [UNK] </s>", "x" * 600]


def words_in(drawn: str) -> str:
    """What a visitor reads: the text of the HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", drawn)).split())


def learnt(method: Method = Method.BPE, merges: int = 3):
    return tab.learn(tab.CORPUS, method, "merges", merges)


# Training


def test_training_stops_at_merges_or_a_size():
    assert len(learnt(merges=3).merges) == 3
    sized = tab.learn(tab.CORPUS, "BPE", "vocabulary size", 10)
    assert len(sized.vocabulary(99)) == 10
    assert sized.merges[:2] == learnt(merges=2).merges


@pytest.mark.parametrize(
    ("stop", "limit", "says"),
    [
        ("merges", None, "How far to go is missing"),
        ("merges", 2.5, "whole number"),
        ("merges", 0, "between 1 and 100 merges"),
        ("merges", 101, "between 1 and 100 merges"),
        ("vocabulary size", 8, "There are 8 tokens before the first merge. .* between 9 and 108"),
        ("vocabulary size", 109, "between 9 and 108"),
    ],
)
def test_a_limit_that_cannot_be_is_said(stop, limit, says):
    with pytest.raises(InputError, match=says):
        tab.learn(tab.CORPUS, "BPE", stop, limit)


def test_a_step_shows_splits_pairs_and_vocabulary():
    drawn = draw_state(learnt(), 1)
    assert drawn.count('class="token chosen"') == 4  # u n of pun and of bun
    text = words_in(drawn)
    assert text.startswith("u + n → un merge 2 of 3 1 Words as they are split 10 × h ug 5 × p ug 12 × p u n")
    assert "pair occurs would make u n 16 un h ug 15 hug" in text
    assert text.endswith("[UNK] 0 b 1 g 2 h 3 n 4 p 5 s 6 u 7 ug 8")


def test_scores_are_shown_with_what_they_are_made_of():
    text = words_in(draw_state(learnt(Method.WORDPIECE), 0))
    assert text.startswith("##g + ##s → ##gs merge 1 of 3")
    assert "pair occurs its first its second score would make ##g ##s 5 20 5 0.05 ##gs" in text
    assert "6 pairs share the highest score." in words_in(draw_state(learnt(Method.WORDPIECE), 1))


@pytest.mark.parametrize("method", list(Method))
def test_the_end_of_training_says_why(method):
    assert words_in(draw_state(learnt(method), 3)).startswith("3 merges as far as was asked for")
    whole = learnt(method, 100)
    end = words_in(draw_state(whole, len(whole.merges)))
    assert "every word is one token" in end and "nothing left to merge" in end


def test_how_the_library_differs_is_said():
    assert "the tokenizers library" in words_in(draw_state(learnt(Method.BPE), 0))
    assert "knows no score: it trains BPE" in words_in(draw_state(learnt(Method.WORDPIECE_BY_COUNT), 0))


def test_many_pairs_are_counted_and_not_all_shown():
    many = tab.learn("abcdefghijklmnopqrst 1", "BPE", "merges", 1)
    pairs = len(state(many, 0).candidates)
    assert f"and {pairs - MOST_PAIRS} more" in words_in(draw_state(many, 0))


def test_a_word_is_split_by_each_method_in_its_own_way():
    bpe = words_in(draw_words(["bug", "mug"], learnt(), 3))
    assert bpe.startswith("bug b 1 ug 8 letters b u g merge 1: u g b ug mug [UNK] 0 ug 8 letters [UNK] u g")
    piece = words_in(draw_words(["bugs", "mug"], learnt(Method.WORDPIECE), 1))
    assert piece.startswith(
        "bugs b 1 ##u 7 ##gs 8 bugs b ##ugs ##u ##gs ##gs mug [UNK] 0 mug no token begins"
    )


def test_words_are_shown_as_text():
    evil = EVIL.replace(" ", "")
    drawn = tab.learn(f"{evil} 3\n{evil}s 2", "BPE", "merges", 100)
    for merges in (0, 5, len(drawn.merges)):
        assert "<img" not in draw_state(drawn, merges) + draw_words([evil, EVIL], drawn, merges)
    assert evil in words_in(draw_state(drawn, len(drawn.merges)))
    assert "U+200D" in draw_state(tab.learn("👩‍👧 1", "BPE", "merges", 1), 0)


@pytest.mark.parametrize(
    ("text", "says"), [(None, "no word"), ("  ", "no word"), ("a " * 101, "101 letters")]
)
def test_words_that_cannot_be_split_are_said(text, says):
    with pytest.raises(InputError, match=says):
        tab.words_of(text)


# Through the tokenizers of checkpoints


def expect_as_called_directly(seen: tab.Compared, text: str, tokenizer: Any) -> None:
    """Every number shown is what the tokenizer says when it is asked."""
    ids = tokenizer(text)["input_ids"]
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [token.id for token in seen.tokens.tokens] == ids
    assert [token.text for token in seen.tokens.tokens] == tokenizer.convert_ids_to_tokens(ids)
    assert seen.added == len(ids) - len(plain) and seen.vocabulary == len(tokenizer)
    assert seen.characters_per_token == pytest.approx(len(text) / len(plain))
    assert seen.decoded == tokenizer.decode(plain)
    assert seen.same == (tokenizer.decode(plain) == text)


@pytest.fixture(scope="module")
def shelf(models) -> tab.Shelf:
    return tab.Shelf(models)


@pytest.mark.parametrize("text", TEXTS)
def test_the_starters_tokenizers_say_what_is_shown(shelf, models, text):
    from transformers import AutoTokenizer

    found = tab.compare(text, STARTERS, shelf)
    assert [one.name for one in found] == STARTERS
    for one in found:
        assert isinstance(one, tab.Compared)
        _, folder = models.fetched(tab.STARTERS[one.name], "starter")
        expect_as_called_directly(one, text, AutoTokenizer.from_pretrained(folder, model_max_length=10**6))
    drawn = words_in(tab.draw_compared(text, found))
    for one in found:
        assert isinstance(one, tab.Compared)
        own = len(one.tokens.tokens) - one.added
        numbers = f"{one.vocabulary:,} {own:,} + {one.added} {one.characters_per_token:.2f} {one.unknown}"
        assert f"{one.name} {one.algorithm} {numbers} {'yes' if one.same else 'no'}" in drawn


def test_each_starter_splits_in_its_own_way(shelf):
    found = tab.compare(tab.TEXT, STARTERS, shelf)
    minilm, smollm, marian, whisper = [one for one in found if isinstance(one, tab.Compared)]
    kinds = [one.algorithm for one in (minilm, smollm, marian, whisper)]
    assert kinds == ["WordPiece", "byte-level BPE", "SentencePiece Unigram", "byte-level BPE"]
    assert [one.added for one in (minilm, smollm, marian, whisper)] == [2, 0, 1, 3]
    assert not minilm.same and smollm.same and marian.same and whisper.same
    assert minilm.unknown == 1 and "[UNK]" in minilm.decoded  # the emoji
    assert "The ids give another text back: “tokenization splits" in words_in(tab.draw_compared("x", found))


@pytest.mark.parametrize(
    ("folder", "algorithm"),
    [
        (tiny.distilbert, "WordPiece"),
        (tiny.bart, "byte-level BPE"),
        (tiny.llama, "byte-level BPE"),
        (lambda: tiny.llama(sentencepiece=True), "SentencePiece BPE"),
        (tiny.marian, "SentencePiece Unigram"),
    ],
)
def test_tiny_tokenizers_of_each_kind(folder, algorithm):
    from transformers import AutoTokenizer

    models = tiny.manager(folder())
    for text in ("You like this house", "a", "Ça va? é 😀"):
        (seen,) = tab.compare(text, [STARTERS[0]], tab.Shelf(models))
        assert isinstance(seen, tab.Compared)
        assert seen.algorithm == algorithm
        expect_as_called_directly(seen, text, AutoTokenizer.from_pretrained(folder()))
    assert models.snapshot() == []  # no weights were read


def test_a_sentencepiece_file_says_how_it_was_trained(tmp_path):
    from types import SimpleNamespace

    import sentencepiece

    for kind, name in (("bpe", "BPE"), ("unigram", "Unigram")):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(tiny.ENGLISH * 20),
            model_prefix=str(tmp_path / kind),
            vocab_size=60,
            model_type=kind,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / f"{kind}.model"))
        assert tab.inside.algorithm(SimpleNamespace(spm_source=pieces)) == f"SentencePiece {name}"


def test_unknown_tokens_are_those_of_the_text():
    (seen,) = tab.compare("house ☃ house", [STARTERS[0]], tab.Shelf(tiny.manager(tiny.distilbert())))
    assert isinstance(seen, tab.Compared)
    assert seen.unknown == 1
    assert [token.text for token in seen.tokens.tokens] == ["[CLS]", "house", "[UNK]", "house", "[SEP]"]


def test_what_cannot_be_had_is_said_beside_what_can(shelf):
    found = tab.compare("a text", ["all-MiniLM-L6-v2", "nobody/nothing", "no name/at all"], shelf)
    assert isinstance(found[0], tab.Compared)
    assert found[1] == tab.Lacking("nobody/nothing", "This app runs on its starters only. Choose a starter.")
    assert isinstance(found[2], tab.Lacking)
    drawn = words_in(tab.draw_compared("a text", found))
    assert "nobody/nothing: This app runs on its starters only." in drawn
    assert "6 characters in 2 tokens all-MiniLM-L6-v2" in drawn
    only = tab.draw_compared("a", [tab.Lacking(EVIL, "Gone.")])
    assert "<img" not in only and words_in(only) == f"{EVIL}: Gone."


def test_a_checkpoint_without_a_tokenizer_is_said(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for folder in (tiny.vit(), tmp_path):
        (seen,) = tab.compare("a", [STARTERS[0]], tab.Shelf(tiny.manager(folder)))
        assert isinstance(seen, tab.Lacking)
        assert "Choose a checkpoint that reads text." in seen.reason


def test_a_tokenizer_is_read_once_and_few_are_kept(monkeypatch):
    reads: list[str] = []
    real = tab.read
    monkeypatch.setattr(
        tab, "read", lambda checkpoint, folder: (reads.append("read"), real(checkpoint, folder))[1]
    )
    monkeypatch.setattr(tab, "without_weights", lambda checkpoint, report: tiny.distilbert())
    monkeypatch.setattr(tab, "KEPT", 2)
    shelf = tab.Shelf(tiny.manager(tiny.distilbert()))
    told: list[Progress] = []
    for name in ("o/a", "o/a", "o/b", "o/a", "o/c", "o/a", "o/b"):
        shelf.take(name, told.append)
    assert len(reads) == 4  # a, b, c, and b again, which was used least recently
    assert str(told[0]) == "looking for o/a" and str(told[1]) == "reading the tokenizer of o/a"


def test_many_visitors_at_once_get_the_same_answer():
    shelf = tab.Shelf(tiny.manager(tiny.distilbert()))
    start = threading.Barrier(8)

    def visit(i: int):
        start.wait(20)
        return tab.compare("You like this house", [STARTERS[0]], shelf)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(visit, range(8)))
    assert all(answer == answers[0] for answer in answers) and isinstance(answers[0][0], tab.Compared)


def test_a_visitor_who_stops_is_told_nothing_more(monkeypatch):
    shelf = tab.Shelf(tiny.manager(tiny.distilbert()))

    def on_its_way(checkpoint, report):
        report(Progress("downloading"))
        return Path()

    monkeypatch.setattr(tab, "without_weights", on_its_way)
    with pytest.raises(Cancelled):
        tab.compare("a", ["owner/name"], shelf, stopped=lambda: True)


@pytest.mark.parametrize(
    ("text", "starters", "typed", "says"),
    [
        (" \n", STARTERS, "", "no text yet"),
        (None, STARTERS, None, "no text yet"),
        ("x" * 5001, STARTERS, "", "5,001 characters; at most 5,000"),
        ("a", [], " ", "No tokenizer is chosen"),
        ("a", STARTERS, "a b c d e", "5 names; at most 4"),
        ("a", STARTERS, "o/n, starter", "“starter” is not the name of a model on the hub"),
    ],
)
def test_what_cannot_be_compared_is_said(text, starters, typed, says):
    with pytest.raises(InputError, match=says):
        tab.validate(text, starters, typed)


def test_names_are_read_in_order_and_once():
    assert tab.validate(" a ", STARTERS[::-1], "gpt2, o/n o/n@v1,gpt2") == (
        " a ",
        [*STARTERS, "gpt2", "o/n", "o/n@v1"],
    )
    assert tab.validate("a", STARTERS[:1], STARTERS[0])[1] == STARTERS[:1]
    assert tab.validate("half \ud83d", STARTERS[:1], "")[0] == "half ?"


STORY = """
import os, sys
import app
from components.weights.hub import HubStatus
from components.settings import parse
from demos import tokenizers as tab
shelf = tab.Shelf(app.create_manager(parse([], os.environ), HubStatus()))
for one in tab.compare("You like this house", sys.argv[1:], shelf):
    kind = one.algorithm if isinstance(one, tab.Compared) else one.reason
    print(one.name, "|", type(one).__name__, "|", kind)
"""


def test_a_typed_checkpoint_comes_from_the_hub_without_its_weights(tmp_path):
    with HubServer({"o/bert": tiny.distilbert(), "o/marian": tiny.marian()}) as hub:
        hub.add("o/secret", tiny.distilbert(), access="gated")
        hub.add("o/vit", tiny.vit())
        hub.add(tab.OFFERS[0].course.name, tiny.llama(), revision="714eb0f")
        names = (
            "o/bert",
            "o/marian",
            "o/secret",
            "o/nothing",
            "o/vit",
            "o/bert@v9",
            tab.OFFERS[0].course.name,
        )
        lines = tell(STORY, hub.url, tmp_path, *names)
        assert not hub.requests(".safetensors", "GET")
    assert lines[0] == "o/bert | Compared | WordPiece"
    assert lines[1] == "o/marian | Compared | SentencePiece Unigram"
    assert "HF_TOKEN" in lines[2] and "There is no model o/nothing" in lines[3]
    assert "reads text" in lines[4] and "no revision v9" in lines[5]
    assert lines[6].endswith("| Compared | byte-level BPE")  # its pinned revision


def test_a_file_that_does_not_arrive_is_said(monkeypatch):
    import huggingface_hub

    from components.weights import hub

    def gone(*args, **options):
        raise OSError("cut")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    monkeypatch.setattr(hub, "on_disk", lambda source: None)
    listing = hub.Listing("c0ffee", (hub.File("vocab.txt", 3),), {}, 1)
    monkeypatch.setattr(hub, "inspect", lambda *args, **options: listing)
    checkpoint = tab.OFFERS[0].course
    with pytest.raises(CheckpointError, match="did not all arrive"):
        tab.without_weights(checkpoint, lambda step: None)


# The tab itself


@pytest.fixture(scope="module")
def handlers(models) -> dict[str, Any]:
    """The functions behind the tab, by name; Back and Next in that order."""
    events = tiny.tab(tab.DEMO, models).app.fns.values()
    named = {fn.name: fn.fn for fn in events}
    back, forth = [fn.fn for fn in events if fn.name == "<lambda>"]
    return {**named, "back": back, "forth": forth}


def test_training_and_moving_through_its_steps(handlers):
    done, there, slider, shown, problem, split, wrong = handlers["train_now"](
        tab.CORPUS, "BPE", "merges", 3, "bug mug"
    )
    assert there["visible"] and (slider["value"], slider["maximum"]) == (0, 3)
    assert (problem, wrong) == ("", "")
    assert shown == draw_state(done, 0) and split == draw_words(["bug", "mug"], done, 0)
    for name, at, to in [("forth", 0, 1), ("forth", 3, 3), ("back", 1, 0), ("back", 0, 0), ("move", 2, 2)]:
        now, shown, split, wrong = handlers[name](done, at, "bug")
        assert (now, shown, wrong) == (to, draw_state(done, to), "")
        assert split == draw_words(["bug"], done, to)
    assert handlers["move"](done, 99, "bug")[0] == 3
    assert handlers["split_words"]("hugs", done, 3)[0] == draw_words(["hugs"], done, 3)


def test_the_limit_is_counted_the_way_that_is_chosen(handlers):
    import gradio as gr

    done = learnt(merges=3)
    assert handlers["limit_at"]("vocabulary size", done) == 11
    assert tab.learn(tab.CORPUS, "BPE", "vocabulary size", 11) == done
    assert handlers["limit_at"]("merges", done) == 3
    assert handlers["limit_at"]("merges", None) == gr.skip()


def test_errors_of_training_are_shown_and_nothing_else(handlers):
    done, there, _, shown, problem, split, wrong = handlers["train_now"]("hug", "BPE", "merges", 3, "bug")
    assert (done, shown, split, wrong) == (None, None, None, "")
    assert not there["visible"] and "Line 1" in problem and 'role="alert"' in problem
    assert handlers["forth"](None, 0, "bug")[1:] == (None, None, "")
    done, *_, split, wrong = handlers["train_now"](tab.CORPUS, "BPE", "merges", 3, " ")
    assert done is not None and split is None and "no word to split" in wrong
    single = handlers["train_now"]("a 1", "BPE", "merges", 3, "a")
    assert single[1]["visible"] is False and "0 merges" in single[3]


def test_comparing_tells_its_progress_and_then_the_answer(handlers):
    steps = list(handlers["compare_now"]("I love it", STARTERS[2:3], ""))
    *before, (answer, waits, problem) = steps
    assert all("Marian" in waiting and not said for _, waiting, said in before)
    assert "9 characters in" in words_in(answer) and (waits, problem) == ("", "")
    (again,) = handlers["compare_now"]("I love it", STARTERS[2:3], "")
    assert again[0] == answer
    ((answer, waits, problem),) = handlers["compare_now"](" ", STARTERS, "")
    assert answer is None and "no text yet" in problem


def test_a_comparison_that_never_began_ends_with_a_sentence(models, monkeypatch):
    import gradio as gr

    from components.server.line import Line
    from components.settings import Settings

    line = Line()
    line.close(0, 0)
    with gr.Blocks() as app:
        tab.DEMO.build(tab.DEMO, models, Settings(), line)
    compare = next(fn.fn for fn in app.fns.values() if fn.name == "compare_now")
    ((answer, _, problem),) = compare("a", STARTERS, "")
    assert answer is None and "shutting down" in problem


def test_an_unforeseen_error_gets_a_number(handlers, monkeypatch):
    monkeypatch.setattr(tab, "compare", lambda *args: 1 / 0)
    ((answer, _, problem),) = handlers["compare_now"]("a", STARTERS, "")
    assert answer is None and "report the number" in problem


def test_only_errors_for_visitors_stand_beside_the_others(shelf, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(tab, "through", broken)
    with pytest.raises(ZeroDivisionError):
        tab.compare("a", STARTERS[:1], shelf)


# In a browser

SHOWN = (
    ".task p, h2, label span, textarea, .answer, .answer span, .station p, .station h3, .station h4, "
    ".token b, .token small, .splits span, .splits em, .numbers td, .numbers th, .problem p, button.run"
)


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    """This tab alone, looking as in the app."""
    from components.page import ui

    page = tiny.tab(tab.DEMO, models).app
    with served(page, theme=ui.theme(), css_paths=ui.STYLE, head_paths=[ui.SCRIPT, ui.LINKS]) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    program = shutil.which("chromium")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no program named chromium")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(params=[("light", 1280), ("dark", 360)], ids=lambda at: f"{at[0]}-{at[1]}")
def page(request, browser, address) -> Iterator[Any]:
    """The tab in a window; afterwards it must not have complained, nor be cut off or hard to read."""
    theme, width = request.param
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(TIMEOUT)
    complaints = complaints_of(page)
    page.goto(f"{address}?__theme={theme}")
    page.locator(".answer").first.wait_for()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    contrasts = page.locator(SHOWN).evaluate_all(CONTRASTS)
    assert len(contrasts) > 20 and not [(text, ratio) for text, ratio in contrasts if ratio < 4.5]
    for answer in page.locator(".answer, .answer span").all():
        box = answer.bounding_box()
        assert box and box["x"] + box["width"] <= width
    page.close()
    assert complaints == []


def test_a_visitor_trains_steps_back_and_forth_and_splits_words(page):
    from playwright.sync_api import expect

    answer = page.locator(".answer").first
    expect(answer).to_have_text("u + g → ug merge 1 of 5")
    forth, back = (page.get_by_role("button", name=name, exact=True) for name in ("Next", "Back"))
    forth.click()
    expect(answer).to_have_text("u + n → un merge 2 of 5")
    words = field(page.locator("body"), "Words to split")
    expect(page.locator(".station h4")).to_have_text(["bug", "mug", "hugs"])
    expect(page.locator(".station h4 + .tokens").nth(1)).to_have_text(re.compile(r"\[UNK\]\s*0\s*ug\s*8"))
    words.fill(f"bug {EVIL}")
    expect(page.locator(".station h4")).to_have_text(["bug", *EVIL.split()])
    assert page.locator("img[src='x']").count() == 0
    back.click()
    expect(answer).to_have_text("u + g → ug merge 1 of 5")
    page.get_by_label("number input for Merges done").fill("5")
    expect(answer).to_have_text("5 merges as far as was asked for")
    page.get_by_role("radio", name="WordPiece", exact=True).check()
    expect(answer).to_have_text("##g + ##s → ##gs merge 1 of 5")
    field(page.locator("body"), "How many").fill("2")
    corpus = field(page.locator("body"), "Words")
    corpus.fill("aab 3")
    corpus.press("Control+Enter")
    expect(answer).to_have_text("a + ##a → aa merge 1 of 2")
    corpus.fill("aab")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("^Line 1"))
    expect(forth).to_be_hidden()
    expect(page.locator(".answer")).to_have_count(0)
    corpus.fill(tab.CORPUS)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(answer).to_have_text("##g + ##s → ##gs merge 1 of 2")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_visitor_compares_the_starters_and_a_name_that_is_refused(page):
    from playwright.sync_api import expect

    text = field(page.locator("body"), "Text")
    text.fill(f"I love it {EVIL}")
    field(page.locator("body"), "Further checkpoints of the hub").fill("nobody/nothing")
    text.press("Control+Enter")  # that of this part, not Train
    heads = page.locator(".station h3", has_text=":")
    expect(heads).to_have_count(4)
    expect(page.locator(".remark", has_text="nobody/nothing")).to_contain_text("starters only")
    expect(page.locator(".numbers td", has_text="30,522")).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    text.fill(" ")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("no text yet"))
    expect(heads).to_have_count(0)
