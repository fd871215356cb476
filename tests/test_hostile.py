"""Checkpoints and visitors that mean harm: their names, labels, tokens, texts and files are text when shown.

Every drawer of every tab is opened after a run, and all that it shows is read as a browser would read it.
"""

from __future__ import annotations

import ast
import asyncio
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from components.compute import transcripts
from components.compute.transcripts import Segment
from components.compute.whisper import Piece
from components.inputs import audio, tables
from components.models.manager import ModelManager
from components.models.status import Status
from components.page.demo import Compared, Demo
from components.show import markup
from demos import compare, discover, sentiment, speech
from tests import tiny
from tests.test_fuzz import two_sided, whispering

# It leaves an attribute and an element where it is not escaped; both are seen by `Reader`.
EVIL = "'\"><x-evil onfocus=alert(1)>&lt;x-evil&gt;</p><script>alert(2)</script>"
WORD = "<x-evil>"  # of a vocabulary: it has to look like one
BREAKS_OUT = f"{EVIL}\nimport evil\n\"\"\"\nimport evil\n'''\nimport evil\n"
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")
# What the app itself writes; anything else came from outside.
ELEMENTS = re.compile(
    "a|b|br|button|code|dd|defs|del|div|dl|dt|em|footer|g|h3|h4|i|image|img|label|li|line|mark|ol|p|path|"
    "progress|rect|section|small|span|strong|svg|table|tbody|td|text|th|thead|title|tr|ul"
)
IN_FIGURES = {"<br>", "<extra>", "</extra>", "<b>", "</b>", "<i>", "</i>"}


class Reader(HTMLParser):
    """Reads a page and keeps what is not as it should be, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not ELEMENTS.fullmatch(tag):
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            place = (value or "").strip().lower()
            if name.startswith("on") or (
                name in ("src", "href") and not re.match(r"https://|data:image/", place)
            ):
                self.wrong.append(f"{tag} {name}={value}")
            if name == "style" and re.search(r"url\(|expression|import", place):
                self.wrong.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def told(value: Any) -> Iterator[str]:
    """Every text in what a figure is made of."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from told(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from told(part)


def expect_text(block: Any, value: Any) -> str:
    """Whatever a component shows is text but for the app's own markup; gives the words."""
    import gradio as gr

    if value is None:
        return ""
    if isinstance(block, gr.HTML):
        reader = read(value)
        assert not reader.wrong, (block.label, reader.wrong[:3], value[:2000])
        return reader.text
    if isinstance(block, gr.Plot):
        texts = list(told(json.loads(value.to_json())))
        tags = {tag for text in texts for tag in re.findall(r"</?[A-Za-z][^>]*>", text)}
        assert tags <= IN_FIGURES, tags
        return " ".join(texts)
    if isinstance(block, gr.Code):
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(value))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert "evil" not in imported
        return value
    return str(value) if isinstance(block, gr.Textbox) else ""


class Visit:
    """A visitor who runs a tab and then opens all its drawers, one after the other."""

    def __init__(self, demo: Demo, models: ModelManager, **settings: Any) -> None:
        self.app = tiny.tab(demo, models, **settings).app
        self.values = {key: getattr(block, "value", None) for key, block in self.app.blocks.items()}
        self.words = ""
        self.opened = 0

    def run(self, *given: Any) -> Visit:
        """Press Run with these values of the first inputs; the others are as they stand."""
        (run,) = [fn for fn in self.app.fns.values() if fn.name == "handler" and fn.show_progress_on]
        values = [self.values[block._id] for block in run.inputs]
        values[: len(given)] = given

        async def steps() -> list[Any]:
            visitor = SimpleNamespace(session_hash="visitor", username=None, client=None)
            return [step async for step in run.fn(visitor, *values)]

        for step in asyncio.run(steps()):
            self._take(run, step)
        return self

    def open(self) -> Visit:
        """Every drawer, and what can be picked in it."""
        for fn in list(self.app.fns.values()):
            if any(event == "expand" for _, event in fn.targets):
                self.opened += 1
                answer = fn.fn(*(self.values[block._id] for block in fn.inputs))
                self._take(fn, answer if len(fn.outputs) > 1 else (answer,))
        return self

    def _take(self, fn: Any, answers: Any) -> None:
        for block, answer in zip(fn.outputs, answers, strict=True):
            value = answer
            if isinstance(answer, dict) and answer.get("__type__") == "update":
                if "value" not in answer:
                    continue
                value = answer["value"]
            self.values[block._id] = value
            self.words += expect_text(block, value) + "\n"


def tab(name: str) -> Demo:
    return next(demo for demo in discover() if demo.name == name)


def named(folder: Path, home: Path) -> Path:
    """The same checkpoint under a name that is markup."""
    return shutil.copytree(folder, home / EVIL.replace("/", ""), dirs_exist_ok=True)


def with_words(folder: Path, home: Path) -> Path:
    """The same checkpoint, most of whose tokens are markup."""
    copy = named(folder, home)
    for file in (copy / "tokenizer.json", copy / "vocab.json"):
        if not file.exists():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"] if "model" in content else content
        renamed = {_evil(token, i): i for token, i in vocabulary.items()}
        if "model" in content:
            content["model"]["vocab"] = renamed
        else:
            content = renamed
        file.write_text(json.dumps(content), encoding="utf-8")
    return copy


def _evil(token: str, i: int) -> str:
    """Letters and signs stay, so that texts can be read; special tokens as well."""
    ordinary = token.startswith("▁") or (token.isalpha() and (len(token) > 1 or not token.isascii()))
    return f"{WORD}{i}" if ordinary else token


def expect_all(visit: Visit, drawers: int) -> None:
    """That something evil was shown at all, and that as many drawers were opened."""
    assert "ran in" in visit.words
    assert "x-evil" in visit.words
    assert visit.opened >= drawers


def test_the_reader_sees_what_is_not_escaped():
    assert read(f"<p>{EVIL}</p>").wrong[:2] == ["<x-evil>", "x-evil onfocus=alert(1)"]
    assert "<x-evil>" in read(f'<p title="{EVIL}">a</p>').wrong
    assert read('<a href="javascript:alert(1)">a</a>').wrong
    assert not read(markup.problem(EVIL)).wrong
    assert read(markup.problem(EVIL)).text == EVIL


def test_sentiment(tmp_path):
    labels = (BREAKS_OUT, f"={EVIL}")
    models = tiny.manager(with_words(tiny.distilbert(labels), tmp_path))
    expect_all(Visit(tab("sentiment"), models).run(f"i love {EVIL}").open(), 3)
    visit = Visit(tab("sentiment"), models).run(f"i love {EVIL}\n=1+1\n{EVIL}")
    expect_all(visit.open(), 3)


def test_zero_shot(tmp_path):
    classes = tiny.bart((f"contradiction{EVIL}", f"neutral{EVIL}", f"entailment{EVIL}"))
    for folder in (classes, tiny.sentence_encoder()):
        models = tiny.manager(with_words(folder, tmp_path / folder.name))
        for multi_label in (False, True):
            visit = Visit(tab("zero_shot"), models).run(WORD, f"a {WORD},b", multi_label, f"{WORD} {{}}.")
            expect_all(visit.open(), 3)


def test_generation(tmp_path):
    models = tiny.manager(with_words(tiny.llama(), tmp_path))
    visit = Visit(tab("generation"), models).run(EVIL, 20, 2)
    expect_all(visit.open(), 3)
    assert visit.words.count(WORD) > 20


def test_translation(tmp_path):
    models = tiny.manager(with_words(tiny.marian(pair=("<x-evil>", "</p>")), tmp_path))
    expect_all(Visit(tab("translation"), models).run(f"You like {EVIL}. My name.").open(), 3)


def test_masked(tmp_path):
    folders = (with_words(tiny.masked_distilbert(), tmp_path / "a"), with_words(tiny.llama(), tmp_path / "b"))
    visit = Visit(tab("masked"), two_sided(*folders)).run(f"{EVIL} ___ {EVIL}")
    expect_all(visit.open(), 1)
    assert visit.words.count(WORD) > 20


def test_image(tmp_path):
    picture = tmp_path / f"{EVIL.replace('/', '')}.png"
    Image.new("RGB", (40, 30), "teal").save(picture)
    labels = (BREAKS_OUT, EVIL, *(f"{EVIL}{i}" for i in range(4)))
    models = tiny.manager(named(tiny.vit(labels), tmp_path))
    expect_all(Visit(tab("image"), models).run(str(picture), 5).open(), 2)


@pytest.mark.parametrize("timestamps", ["none", "segment", "word"])
def test_speech(tmp_path, monkeypatch, timestamps):
    sound = tmp_path / f"{EVIL.replace('/', '')}.flac"
    shutil.copy(speech.CLIP, sound)
    spoken = (Segment(EVIL, 0.0, 1.0), Segment(f" --> {EVIL}", 1.0, 1.5))
    samples = audio.decode(sound).samples.size

    def hostile(*given: Any) -> Iterator[Piece]:
        yield Piece(EVIL, spoken, spoken, "en", 1.5, 1.5, tokens=(5, 6, 7), window=(0, min(samples, 32_000)))

    monkeypatch.setattr(speech, "forward", hostile)
    visit = Visit(tab("speech"), whispering()).run(str(sound), timestamps)
    expect_all(visit.open(), 2)


def test_subtitles_hold_no_markup_and_no_false_cues():
    cues = transcripts.to_vtt([Segment(f"{EVIL}\n\n00:00.000 --> 00:09.000\nfalse", 0, 1)])
    assert "<" not in cues.replace("-->", "")
    times = re.compile(r"\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}")
    # A long one is cut in several cues; what was said opens none.
    assert all(times.fullmatch(line) for line in cues.splitlines() if "-->" in line)
    assert all("-->" in cue.split("\n")[0] for cue in cues.strip().split("\n\n")[1:])
    assert "09:00" not in " ".join(line for line in cues.splitlines() if "-->" in line)


def test_tokenizers_tab():
    """Words that are counted, split and compared."""
    from components.explain.subwords import Method
    from components.show.subwords_markup import draw_state, draw_words
    from demos import tokenizers

    word = EVIL.replace(" ", "")[:30]
    for method in Method:
        learnt = tokenizers.learn(f"{word} 3\nhug 4", method, "merges", 20)
        for merges in (0, len(learnt.merges)):
            reader = read(draw_state(learnt, merges) + draw_words([word, EVIL], learnt, merges))
            assert not reader.wrong
    ready = tokenizers.Ready(tiny.loaded(tiny.distilbert(), sentiment.RECIPE).processor, EVIL)
    drawn = tokenizers.draw_compared(
        EVIL, [tokenizers.through(EVIL, EVIL, ready), tokenizers.Lacking(EVIL, EVIL)]
    )
    assert not read(drawn).wrong
    assert read(drawn).text.count(EVIL) >= 3


def test_compare_of_two_hostile_checkpoints():
    status = Status(EVIL, "hub", EVIL, EVIL, 0.1, 0.2, (EVIL,))
    of = [((EVIL, 0.9), (f"={EVIL}", 0.1)), ((f"={EVIL}", 0.8), (EVIL, 0.2))]
    columns = [compare.Column(tuple(Compared(status, scores) for scores in of), EVIL) for _ in range(2)]
    texts = compare.Column((Compared(status, text=EVIL),) * 2, EVIL)
    for shown in (columns, columns[:1], [texts, texts]):
        reader = read(compare.draw(shown, 2))
        assert not reader.wrong
        assert EVIL in reader.text
    rows = list(csv.reader(io.StringIO(compare.to_csv(list(FORMULAS[:2]), *columns))))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_tables_to_download_hold_no_formulas():
    scored = tuple(
        sentiment.Scored(text, ((label, 0.75), (f"{label} 2", 0.25)))
        for text in (*FORMULAS, EVIL)
        for label in (*FORMULAS, EVIL)
    )
    for row in scored:
        rows = list(csv.reader(io.StringIO(sentiment.to_csv((row,)))))
        assert not [cell for line in rows for cell in line if cell[:1] in "=+-@\t\r" and cell]
        assert rows[1][1].lstrip("'") == row.text.lstrip("'") or rows[1][1] == row.text
    assert [tables.safe_cell(text) for text in FORMULAS] == [f"'{text}" for text in FORMULAS]
    assert tables.safe_cell("a=1") == "a=1"


def test_no_component_takes_texts_of_others_for_markup():
    """Markdown is written by the app alone, model cards with it, and the cells of tables are text."""
    import gradio as gr

    for demo in discover():
        app = tiny.tab(demo, tiny.manager(tiny.distilbert())).app
        outputs = {block._id: block for fn in app.fns.values() for block in fn.outputs}
        marked = [one for one in outputs.values() if isinstance(one, gr.Markdown | gr.Chatbot)]
        assert not marked or demo.name == "transfer"
        for block in outputs.values():
            if isinstance(block, gr.Dataframe):
                kinds = block.datatype if isinstance(block.datatype, list) else [block.datatype]
                assert set(kinds) <= {"str", "number"}, demo.name
