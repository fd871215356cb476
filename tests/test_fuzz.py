"""Anything at all through what stands before the models, and damaged files through what reads them.

Each input gives a request or a plain sentence, in bounded time. A hundred examples of each function, or
as many as TOUR_FUZZ says; the same ones at each run.
"""

from __future__ import annotations

import csv
import functools
import gc
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from components.errors import DemoError, InputError
from components.explain.subwords import Method
from components.inputs import audio, gap, layout, tables
from components.inputs.sentences import split_sentences
from components.models.manager import ModelManager
from components.page.demo import Comparison, Demo
from components.weights import sources
from components.weights.checkpoints import Offer
from demos import (
    compare,
    discover,
    generation,
    image,
    sentiment,
    speech,
    tokenizers,
    translation,
    zero_shot,
)
from tests import mutations, tiny, where
from tests.serving import served

FULL = 700  # examples of each function; there are fifteen
EXAMPLES = int(os.environ.get("TOUR_FUZZ", 100))
FILES = max(200, round(1000 * min(1, EXAMPLES / FULL)))
CALLS = max(6, round(40 * min(1, EXAMPLES / FULL)))  # of each endpoint
LIMIT = 5.0  # seconds of the processor for one input or one file
SIZE = 1_000_000  # characters of a text made to take long
AT_ONCE = 0.1  # seconds in which it need not grow as the text does
LONGEST = 500  # characters of a sentence that tells what is wrong
PEAK = 1_500_000_000  # bytes in memory while files are read; a picture of 50 megapixels takes most of it
SILENCE = Path(__file__).with_name("no such file")

# Nothing is kept: not in the repository, not from one run for the next.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "tour-hypothesis")
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# What means something to one tab or another, or to what lies below it.
FRAGMENTS = (
    *("___", "__", "[MASK]", "<mask>", "{}", "{", "}", "{0}", "{x.__class__}", "%s", "%(x)s", ",", ";", "|"),
    *(
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\0",
        "\x1c",
        "\x85",
        "\u2028",
        "\ufeff",
        "\u00a0",
        "\u200b",
        "\u202e",
        "\ud800",
    ),
    *(
        "\udfff",
        "\ud83d\ude00",
        "👩‍👩‍👧‍👦",
        "🇫🇷",
        "e\u0301",
        "ﷺ",
        "İ",
        "ß",
        "你好。",
        "नमस्ते",
        "مرحبا",
        "שלום",
        "ᚠᚢ",
        "𝕏",
    ),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "&lt;",
        "</s>",
        "<s>",
        "[SEP]",
        "<|endoftext|>",
    ),
    *(
        "=1+1",
        "+1",
        "-1",
        "@x",
        "'",
        '"',
        "“",
        "”",
        "\\",
        "`",
        "$(id)",
        "../..",
        "/etc/passwd",
        "C:\\",
        "file:///",
    ),
    *(
        "hug 10",
        "pug,5",
        "1",
        "0",
        "-5",
        "1e9",
        "９",
        "Ⅷ",
        "NaN",
        "Infinity",
        "null",
        "true",
        "auto",
        "course",
    ),
    *("starter", "owner/name", "owner/name@main", "https://huggingface.co/a/b", "http://[", "gpt2", "a@b@c"),
    *("word", "merges", "BPE", "WordPiece", "completion", "chat", "none", "segment", "transcribe", "en"),
    *(". ", "! ", "Mr. ", "…", "a", "A", " ", "z" * 40, "x" * 300),
)

letters = st.text(st.characters(codec=None), max_size=60)
pieces = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
long = st.builds(
    lambda part, times: part * times, st.sampled_from(FRAGMENTS), st.sampled_from((50, 999, 20_001))
)
texts = st.one_of(pieces, letters, st.builds("".join, st.lists(st.one_of(pieces, letters), max_size=4)), long)
numbers = st.one_of(
    st.integers(-5, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(
        (0, 1, 2, 5, 0.5, 1.0, 1024, 2**31, 2**32 - 1, 2**63, 10**400, math.nan, math.inf, -math.inf)
    ),
    st.booleans(),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(pieces, inner, max_size=3)),
    max_leaves=8,
)
# Mostly of the kind that is asked for: else nothing would come far.
text = st.one_of(texts, texts, texts, nested)
number = st.one_of(numbers, numbers, nested)
flag = st.one_of(st.booleans(), st.booleans(), nested)


def choice(*known: str) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(known), st.sampled_from(known), st.sampled_from(known), nested)


contents = st.one_of(
    texts.map(lambda one: one.encode("utf-8", "surrogatepass")),
    texts.map(lambda one: one.encode("utf-16", "surrogatepass")),
    texts.map(lambda one: b"\xef\xbb\xbf" + one.encode("utf-8", "replace")),
    st.lists(st.lists(texts, max_size=4).map(";".join), max_size=6)
    .map("\r\n".join)
    .map(lambda one: one.encode("utf-8", "replace")),
    st.binary(max_size=300),
    st.sampled_from(
        (b"", b"\n", b"\xef\xbb\xbf", b"\xc2\xa0", b'"', b"a,b\n" * 9, b"text\r1\r2", b"\x85" * 9)
    ),
)


def expect_sentence(sentence: str) -> None:
    """Plain words for a visitor: no Python, no reference number, not all of what was sent."""
    assert 10 < len(sentence) <= LONGEST, sentence[:LONGEST]
    assert sentence.rstrip("”\"'").endswith((".", "?", "hug 10")), sentence
    assert not re.search(
        r"Traceback|Exception|\w+Error\b|NoneType|<class|object has no|keyword|0x[0-9a-f]{6}|\bnan\b|"
        r"report the number|codec can't|<lambda>",
        sentence,
    ), sentence


@contextmanager
def bounded() -> Iterator[Callable[[], float]]:
    """At most LIMIT, and what it took: on the processor, so that a busy machine does not count."""
    gc.freeze()  # as the app does: what a thousand tests have left is not looked through for garbage
    started = time.thread_time()
    try:
        yield lambda: ended - started
    finally:
        ended = time.thread_time()
        gc.unfreeze()
    assert ended - started < LIMIT, f"{ended - started:.1f} s"


def answer(check: Callable[..., Any], *values: Any) -> Any:
    """What it makes of the values, None where it refuses them with a sentence."""
    with bounded():
        try:
            return check(*values)
        except InputError as error:
            expect_sentence(str(error))
            return None


def is_text(value: object) -> bool:
    """Whether it can be sent and written down: no halves of surrogate pairs."""
    return isinstance(value, str) and bool(value.encode("utf-8").decode() == value)


# the functions


@fuzzed
@given(text)
def test_sentiment(value):
    found = answer(sentiment.validate, value)
    if found is not None:
        assert 0 < len(found.texts) <= sentiment.MOST_TEXTS
        assert all(is_text(one) and one.strip() == one != "" for one in found.texts)


@fuzzed
@given(contents, st.sampled_from((".txt", ".csv", ".CSV", ".exe", "")))
def test_sentiment_of_a_file(content, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"visitor{ending}"
        path.write_bytes(content)
        found = answer(sentiment.validate, None, str(path))
        seen = answer(tables.preview, path)
    if found is not None:
        assert found.texts and all(is_text(one) and one.strip() for one in found.texts)
        assert list(found.rows) == sorted(set(found.rows))
    if seen is not None:
        assert all(len(row) == len(seen.columns) > seen.reading.column for row in seen.rows)


@fuzzed
@given(
    st.lists(
        st.lists(st.sampled_from(("good", "5", 'a "b" c', "no, yes", "x; y", "é", "")), min_size=1),
        min_size=1,
    ),
    st.sampled_from((",", ";", "\t", "|")),
    st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252")),
    st.booleans(),
)
def test_what_spreadsheets_write_is_read(rows, delimiter, encoding, named):
    out = io.StringIO()
    out.write(f"sep={delimiter}\n" if named else "")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(
        [["id", "text"], *([1, *row] for row in rows)]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "visitor.csv"
        path.write_bytes(out.getvalue().encode(encoding))
        found = answer(tables.read, path, tables.Asked(delimiter=delimiter, header=True, column=1))
    assert found is not None and found.texts == tuple(row[0] for row in rows)


@fuzzed
@given(text, text, st.one_of(st.just(zero_shot.TEMPLATE), text), flag)
def test_zero_shot(words, labels, template, multi_label):
    request = answer(zero_shot.validate, words, labels, template, multi_label)
    if request is not None:
        assert is_text(request.text) and 0 < len(request.labels) <= zero_shot.MOST_LABELS
        assert isinstance(request.multi_label, bool)
        for label in request.labels:
            assert label in request.template.format(label)
    chips = answer(zero_shot.parse_labels, labels)
    assert chips is None or all(map(is_text, chips))


@fuzzed
@given(
    text,
    st.tuples(*(st.one_of(number, st.just(low)) for low, _ in generation.RANGES.values())),
    choice(*generation.MODES),
)
def test_generation(prompt, values, mode):
    request = answer(generation.validate, prompt, *values, mode)
    if request is not None:
        assert is_text(request.prompt) and request.prompt.strip()
        assert 1 <= request.most <= 1024 and 1 <= request.sequences <= 4
        assert 0 < request.sampling.top_p <= 1 and 0 <= request.sampling.temperature <= 5


@fuzzed
@given(text)
def test_translation(value):
    whole = answer(translation.validate, value)
    if whole is not None:
        # Nothing is lost.
        assert is_text(whole) and whole == value.encode("utf-8", "replace").decode()


@fuzzed
@given(st.one_of(text, st.builds("{}___{}".format, pieces, pieces)))
def test_gap(value):
    parts = answer(gap.split_at_gap, value)
    if parts is not None:
        assert len(parts) == 2 and all(map(is_text, parts))
        assert not any(gap.GAP.search(part) for part in parts)


@fuzzed
@given(
    text,
    st.one_of(st.lists(st.sampled_from([*tokenizers.STARTERS, "x"])), st.none()),
    st.one_of(text, st.none()),
)
def test_tokenizers(value, starters, typed):
    found = answer(tokenizers.validate, value, starters, typed)
    if found is not None:
        clean, names = found
        assert is_text(clean) and names and all(map(is_text, names))
        assert len(set(names)) == len(names) <= len(tokenizers.STARTERS) + tokenizers.MOST_TYPED


@fuzzed
@given(
    st.one_of(
        text, st.lists(st.builds("{} {}".format, st.text(max_size=12), st.integers(-1, 99))).map("\n".join)
    ),
    choice(*Method),
    choice("merges", "vocabulary size"),
    number,
)
def test_training_of_a_tokenizer(corpus, method, stop, limit):
    learnt = answer(tokenizers.learn, corpus, method, stop, limit)
    if learnt is not None:
        assert learnt.corpus and all(is_text(word) and count > 0 for word, count in learnt.corpus)


@fuzzed
@given(text)
def test_words_to_split(value):
    words = answer(tokenizers.words_of, value)
    assert words is None or all(is_text(word) and word.split() == [word] for word in words)


@fuzzed
@given(
    st.one_of(nested, st.just(str(speech.CLIP)), texts),
    choice("none", "segment", "word"),
    choice("transcribe", "translate"),
)
def test_speech(path, timestamps, task):
    found = answer(speech.validate, path, timestamps, task, 0.5)
    assert (found is not None) == (
        path == str(speech.CLIP)
        and timestamps in ("none", "segment", "word")
        and task in ("transcribe", "translate")
    )


# Recordings: what they hold, how it is stored, and what was done to the file.

STORED = {
    **{f"WAV {kind}": ("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")},
    "FLAC": ("FLAC", "PCM_16"),
    "Ogg": ("OGG", "VORBIS"),
    "Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
}
MOST_SECONDS = 20.0  # that are taken of a generated recording


@st.composite
def recordings(draw: st.DrawFn) -> tuple[str, bytes]:
    """How a recording was made, and its file."""
    import soundfile

    stored = draw(st.sampled_from(sorted(STORED)))
    container, subtype = STORED[stored]
    rates = (48_000,) if stored == "Opus" else (8_000, 16_000, 22_050, 44_100, 48_000)
    rate = draw(st.sampled_from(rates))
    channels = draw(st.integers(1, 2 if stored == "MP3" else 8))
    frames = draw(st.sampled_from((0, 1, 7, 400, rate // 3, rate)))
    level = draw(st.sampled_from((0.0, 1e-5, 1e-3, 0.3, 1.0, 40.0)))
    samples = np.random.default_rng(frames + channels).normal(0, 0.3 * level, (frames, channels))
    if draw(st.booleans()) and frames:
        samples[frames // 2, 0] = draw(st.sampled_from((1.0, -1.0, 1e6, math.nan, math.inf)))
    if container != "WAV" or subtype not in ("FLOAT", "DOUBLE"):
        samples = np.nan_to_num(samples, posinf=1, neginf=-1).clip(-1, 1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    whole = bytearray(file.getvalue())
    harm = draw(st.sampled_from(("none", "sizes", "joined", "cut", "bytes", "counts", "zeros")))
    if harm == "sizes":  # of the file and of its data, as of a recorder that was switched off
        for place in (4, whole.find(b"data") + 4):
            if container == "WAV" and 4 <= place <= len(whole) - 4:
                whole[place : place + 4] = draw(st.sampled_from((0, 1, 2**31, 2**32 - 1))).to_bytes(
                    4, "little"
                )
    elif harm == "joined":  # chained Ogg, MP3 after MP3
        whole = whole * 2
    elif harm == "cut":
        whole = whole[: draw(st.integers(0, len(whole)))]
    elif harm == "counts":  # Xing's number of frames, or none of it
        for mark in (b"Xing", b"Info"):
            if (place := whole.find(mark)) > 0:
                whole[place : place + 12] = draw(
                    st.sampled_from((bytes(12), mark + b"\0\0\0\1" + b"\xff" * 4))
                )
    elif harm in ("bytes", "zeros"):
        for place in draw(st.lists(st.integers(0, max(0, len(whole) - 1)), min_size=1, max_size=20)):
            whole[place : place + 1] = draw(st.binary(min_size=1, max_size=1)) if harm == "bytes" else b"\0"
    return f"{stored}, {rate} Hz, {channels} channels, {frames} frames, {level}, {harm}", bytes(whole)


@fuzzed
@given(recordings())
def test_recordings_become_finite_samples_or_a_sentence(made):
    import resource

    how, content = made
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(content)
        file.flush()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = answer(audio.decode, file.name, MOST_SECONDS)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1000
    assert grown < 300_000_000, how
    if found is None:
        # Of what is whole only less than a codec's frame may be nothing to hear.
        assert not how.endswith("none") or re.search(r", [017] frames", how), how
        return
    samples = found.samples
    assert samples.dtype == np.float32 and samples.ndim == 1 and samples.size > 0, how
    assert samples.size <= MOST_SECONDS * audio.RATE and np.isfinite(samples).all(), how
    assert np.abs(samples).max() <= 1.001, how
    assert is_text("".join(found.remarks)), how


@fuzzed
@given(st.one_of(nested, texts), number)
def test_image(path, top_k):
    assert answer(image.validate, path, top_k, 50) is None  # there is no such file


@fuzzed
@given(
    st.sampled_from(("text", "image")), text, text, st.one_of(st.none(), st.just("Candidate labels")), text
)
def test_compare(kind, value, path, extra, given_extra):
    how = Comparison(kind, "an example", lambda *asked: pytest.fail("not asked"), extra=extra)
    found = answer(compare.validate, how, value, path, given_extra)
    if found is not None:
        assert 0 < len(found) <= compare.MOST_TEXTS
        assert kind == "image" or all(map(is_text, found))


@fuzzed
@given(
    st.one_of(
        text,
        st.builds("{}{}".format, st.sampled_from(("https://", "http://[", "//", "o/n@", "hf.co/")), pieces),
    ),
    st.sampled_from(("auto", "starter", "hub")),
)
def test_names_of_checkpoints(value, policy):
    with bounded():
        try:
            checkpoint, _ = sources.choose(sentiment.OFFER, value, policy, UNREACHED)
        except DemoError as error:
            expect_sentence(str(error))
        else:
            assert is_text(checkpoint.name) and len(checkpoint.name) < 400


UNREACHED: Any = SimpleNamespace(reachable=lambda: False, reason=lambda: "the hub does not answer")


@fuzzed
@given(st.one_of(pieces, letters, long))
def test_sentences_lose_nothing(value):
    value = whole_characters(value[:20_000])
    with bounded():
        found = split_sentences(value)
    assert "".join(found) == value


def whole_characters(value: str) -> str:
    """As `given.text` makes them."""
    return value.encode("utf-8", "replace").decode()


MARKERS = ("", "- ", "  1. ", "> * ", "(b) ", "# ", "\t- [ ] ")
WORDS = (
    "Tom",
    "and so",
    "{name}",
    "%d",
    "https://a.org/b.",
    "😀",
    "“Yes.”",
    "<b>",
    "```",
    "U.S.",
    "\t",
    "1987",
)


@fuzzed
@given(
    st.lists(
        st.tuples(
            st.sampled_from(MARKERS), st.lists(st.sampled_from(WORDS)), st.sampled_from(("\n", "\r\n"))
        ),
        max_size=8,
    )
)
def test_layout_loses_nothing(lines):
    value = "".join(f"{marker}{' '.join(words)}{end}" for marker, words, end in lines)
    with bounded():
        hidden, kept = layout.shielded(value)
        found = layout.parts(hidden, split_sentences)
    whole = ""
    for part in found:
        breaks = {} if isinstance(part, str) else dict(part.breaks)
        text = part if isinstance(part, str) else part.text
        whole += "".join(breaks.get(at, mark) for at, mark in enumerate(text))
    assert layout.unshielded(whole, kept) == value


@fuzzed
@given(texts)
def test_cells_are_no_formulas(value):
    safe = tables.safe_cell(value)
    assert safe.endswith(value)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))


# time


def much(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    """Texts of about so many characters as they are asked for."""
    return lambda size: before + unit * (size // len(unit)) + after


PATHOLOGICAL = {
    "letters": much("a"),
    "spaces": much(" ", after="a"),
    "line ends": much("\n", after="a"),
    "lines": much("a\n"),
    "stops": much("."),
    "stops and spaces": much("a. "),
    "quotation marks": much("a.”"),
    "one stop and quotation marks": much('"', before="."),
    "underscores": much("_"),
    "gaps": much("__ "),
    "half of a mask": much("[MASK"),
    "commas": much(","),
    "labels": lambda size: ",".join(map(str, range(size // 7))),
    "brackets": much("{"),
    "surrogates": much("\ud800"),
    "emoji": much("👩‍👩‍👧‍👦"),
    "accents": much("\u0301", before="e"),
    "semicolons and quotation marks": much('";'),
    "left open": much('"a,'),
    "digits": much("1"),
    "words and counts": much("hug 10\n"),
    "an address": much("/", before="https://"),
    "at signs": much("a@"),
}
BESIDE = Comparison("text", "an example", lambda *asked: pytest.fail("not asked"))
CHECKS: dict[str, Callable[[str], Any]] = {
    "sentiment": sentiment.validate,
    "zero_shot": lambda one: zero_shot.validate(one, "a, b", zero_shot.TEMPLATE, False),
    "labels": lambda one: zero_shot.validate("a", one, zero_shot.TEMPLATE, False),
    "template": lambda one: zero_shot.validate("a", "b", one, False),
    "generation": generation.validate,
    "translation": translation.validate,
    "sentences": lambda one: split_sentences(whole_characters(one[: translation.MOST_CHARACTERS])),
    "layout": lambda one: layout.parts(
        layout.shielded(whole_characters(one[: translation.MOST_CHARACTERS]))[0], split_sentences
    ),
    "gap": gap.split_at_gap,
    "a gap": lambda one: gap.split_at_gap(one[: gap.MOST_CHARACTERS]),
    "tokenizers": lambda one: tokenizers.validate(one, list(tokenizers.STARTERS), one),
    "training": lambda one: tokenizers.learn(one, Method.BPE, "merges", 5),
    "words": tokenizers.words_of,
    "compare": lambda one: compare.validate(BESIDE, one, None, None),
    "checkpoint": lambda one: sources.choose(sentiment.OFFER, one, "hub", UNREACHED),
}


def taken(check: Callable[[str], Any], value: str) -> float:
    """Seconds until it has made a request of a text, or refused it with a sentence."""
    with bounded() as clock:
        try:
            check(value)
        except InputError as error:
            expect_sentence(str(error))
    return clock()


def expect_linear(check: Callable[[str], Any], text: Callable[[int], str]) -> None:
    """Eight times the text takes about eight times as long, not sixty-four, unless it is over at once."""
    before = math.inf
    for size in (SIZE // 64, SIZE // 8, SIZE):
        now = min(taken(check, text(size)) for _ in range(3))
        assert now < max(AT_ONCE, 3 * 8 * before), (
            f"{size} characters: {now:.2f} s, an eighth: {before:.2f} s"
        )
        before = now


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_no_input_takes_long(check, kind):
    expect_linear(CHECKS[check], PATHOLOGICAL[kind])


@pytest.mark.parametrize("ending", ["txt", "csv"])
@pytest.mark.parametrize("head", ["", "id,text\n1,"], ids=["no head", "head"])
@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_no_file_takes_long(kind, head, ending, tmp_path):
    path = tmp_path / f"visitor.{ending}"

    def read(content: str) -> None:
        path.write_text(head + content, encoding="utf-8", errors="replace")
        tables.read(path)

    expect_linear(read, PATHOLOGICAL[kind])


# the files


@functools.cache
def told(kind: str) -> list[dict[str, Any]]:
    """What became of each of the files, read in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutations", kind, str(FILES)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended after {lines[-1:]}: {done.stderr[-3000:]}"
    return lines


@pytest.mark.parametrize("kind", ["sounds", "pictures"])
def test_damaged_files_are_read_or_refused(kind):
    *rows, last = told(kind)
    assert len(rows) == FILES
    assert not [row for row in rows if "failed" in row]
    assert not [row for row in rows if row["seconds"] > LIMIT]
    for row in rows:
        if "refused" in row:
            expect_sentence(row["refused"])
    # Neither all nor nothing: damage often leaves something to hear or see.
    assert FILES / 10 < sum("read" in row for row in rows) < 0.9 * FILES
    assert last["peak"] < PEAK


@pytest.mark.parametrize(
    ("kind", "case", "becomes"),
    [
        ("sounds", "0 Hz", "not a sound"),
        ("sounds", "8 channels", "samples"),
        ("sounds", "1024 channels", "1024 channels"),
        ("sounds", "1 samples of WAV", "samples|not a sound"),
        ("sounds", "some NaN", "24000 samples"),
        ("sounds", "promises 4294967295 bytes", "samples|longer"),
        ("sounds", "five minutes of nothing", "5 min long and the limit is 1 min"),
        ("sounds", "a playlist", "not a sound"),
        ("sounds", "no bytes", "empty"),
        ("pictures", "PNG of 65536 x 32768", "megapixels"),
        ("pictures", "PNG bomb", "megapixels"),
    ],
)
def test_strange_files_become_what_they_should(kind, case, becomes):
    (row,) = [row for row in told(kind) if row.get("case", "").startswith(f"{case} as")]
    assert re.search(becomes, row.get("read") or row["refused"])


def test_the_files_are_the_same_at_each_run():
    for make in (mutations.sounds, mutations.pictures):
        names = [(what, ending, len(content)) for what, ending, content in make(250)]
        assert names == [(what, ending, len(content)) for what, ending, content in make(250)]
        assert len(set(names)) > 200


# the endpoints


def manager_of(demo: Demo) -> ModelManager:
    """Tiny random checkpoints for each tab, of which nothing comes from the hub."""
    folders = {
        "sentiment": tiny.distilbert,
        "zero_shot": tiny.sentence_encoder,
        "generation": tiny.llama,
        "translation": tiny.marian,
        "image": tiny.vit,
    }
    if demo.name == "speech":
        return whispering()
    if demo.name == "masked":
        return two_sided(tiny.masked_distilbert(), tiny.llama())
    return tiny.manager(folders[demo.name]())


def whispering() -> ModelManager:
    """Of the tab that listens: a Whisper that knows two languages."""
    from tests import tiny_whisper

    return ModelManager(
        choose=lambda offer, choice: (tiny.checkpoint(Path("whisper"), offer.recipe), ""),
        fetch=lambda checkpoint, report: Path("whisper"),
        load=lambda checkpoint, folder: replace(tiny_whisper.whisper(("en", "fr")), checkpoint=checkpoint),
        size=lambda folder: 1,
        free=lambda: 10**12,
    )


def two_sided(masked: Path, causal: Path) -> ModelManager:
    """Of the tab that asks two models."""

    from components.models.loading import weights_bytes

    folders = {"masked": masked, "generation": causal}

    def choose(offer: Offer, choice: str) -> Any:
        return tiny.checkpoint(folders[offer.recipe.task], offer.recipe), ""

    return ModelManager(
        choose=choose,
        fetch=lambda checkpoint, report: folders[checkpoint.recipe.task],
        load=where.load,
        size=weights_bytes,
        free=lambda: 10**12,
    )


CLIENTS = st.one_of(nested, text, number)
TABS = [demo.name for demo in discover() if demo.offer]


@functools.cache
def tab_of(name: str) -> Any:
    demo = next(demo for demo in discover() if demo.name == name)
    return tiny.tab(demo, manager_of(demo))


@pytest.mark.parametrize("name", TABS)
def test_endpoints_answer_or_tell_a_sentence(name, tmp_path):
    """What clients send, as Gradio hands it on: an answer that can be sent, or a plain sentence."""
    import gradio as gr

    files = [str(speech.CLIP), gr.media.get_image("lion.jpg"), str(tmp_path), str(tmp_path / "gone.png")]
    for kind, cases in (("wav", mutations.sounds(400)), ("png", mutations.pictures(400))):
        for i, (_, _, content) in enumerate(random.Random(1).sample(list(cases), 12)):
            files.append(str(tmp_path / f"{i}.{kind}"))
            Path(files[-1]).write_bytes(content)
    called = 0

    @settings(fuzzed, max_examples=CALLS)
    @given(st.data())
    def calls(data: Any) -> None:
        nonlocal called
        values = []
        for block in fn.inputs:
            value = data.draw(st.one_of(st.just(block.value), st.just(block.value), *like(block, files)))
            if isinstance(block, gr.Image | gr.Audio | gr.File):
                values.append(value)
                continue
            try:
                values.append(block.preprocess(value))
            except Exception:  # what no component takes is the next test's
                values.append(block.value)
        called += 1
        try:
            answers = tab.endpoint(fn.api_name)(*values)
        except gr.Error as error:
            expect_sentence(str(error.message))
        else:
            json.dumps(answers, default=str, allow_nan=False).encode()

    tab = tab_of(name)
    for fn in tab.app.fns.values():
        if fn.api_visibility == "public":
            calls()
    assert called >= CALLS


def like(block: Any, files: list[str]) -> list[st.SearchStrategy[Any]]:
    """What may be sent in place of the value of a component."""
    import gradio as gr

    if isinstance(block, gr.Image | gr.Audio | gr.File):
        return [st.sampled_from(files), st.none()]
    if block.label == "max_new_tokens":  # few: random models never end
        return [st.integers(1, 5), st.sampled_from((0, -1, 1025, 10**400, math.nan, None, "5", [5]))]
    if isinstance(block, gr.Number | gr.Slider):
        return [number, st.integers(1, 6)]
    return [texts.map(lambda one: one[:400]), pieces, CLIENTS]


# over HTTP


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where two tabs are served on tiny checkpoints, as the app serves them."""
    import gradio as gr

    from components.page import patches
    from components.server.line import Line
    from components.settings import Settings

    with gr.Blocks() as app:
        for name in ("sentiment", "image", "speech"):
            demo = next(demo for demo in discover() if demo.name == name)
            demo.build(demo, manager_of(demo), Settings(), Line())
    app.queue(default_concurrency_limit=None)
    patches.forgiving(app)
    with served(app) as url:
        yield url.rstrip("/")


def sent(address: str, name: str, body: bytes) -> tuple[int, Any]:
    """Status and JSON of what an endpoint answers."""
    import httpx

    told = httpx.post(
        f"{address}/gradio_api/run/{name}",
        content=body,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    return told.status_code, told.json()


def expect_told(status: int, answer: Any) -> None:
    """An answer, a refusal of what is no request at all, or a sentence."""
    assert status == 200 or 400 <= status <= 500
    if status == 500:
        expect_sentence(str(answer["error"]))


def test_what_clients_send_is_answered_with_a_sentence(address):
    @settings(fuzzed, max_examples=CALLS)
    @given(
        st.sampled_from(("sentiment", "classify_image", "transcribe")),
        st.one_of(st.lists(nested, min_size=1, max_size=4), nested),
    )
    def calls(name: str, values: Any) -> None:
        expect_told(*sent(address, name, json.dumps({"data": values}).encode()))

    calls()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sentiment", []),
        ("sentiment", ["a"] * 9),
        ("sentiment", ["\ud800", "auto"]),
        ("sentiment", [["a", {"b": "c"}], "auto"]),
        ("classify_image", ["a path", 5, "auto"]),
        ("classify_image", [{"path": "/etc/passwd"}, 5, "auto"]),
        ("classify_image", [{"path": "../../../etc/passwd"}, 5, "auto"]),
        ("classify_image", [{"path": "a\0b"}, 5, "auto"]),
        ("classify_image", [{"url": "file:///etc/passwd"}, 5, "auto"]),
        ("classify_image", [None, math.nan, "auto"]),
        ("classify_image", [None, "five", "auto"]),
        ("classify_image", [None, math.inf, "auto"]),
        ("transcribe", [{"path": ""}, "none", "transcribe", "auto"]),
        ("transcribe", [None, "<b>letters</b>" * 1000, "transcribe", "auto"]),
        ("transcribe", [None, ["none"], {"a": 1}, "auto"]),
    ],
)
def test_what_no_component_takes_is_told_in_a_sentence(address, name, values):
    status, answer = sent(address, name, json.dumps({"data": values}).encode())
    expect_told(status, answer)
    if name != "sentiment":
        assert status == 500 and "error" in answer
        assert "passwd" not in json.dumps(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"data": 5}',
        b'{"data": "\xff"}',
        b'{"data": ["\xed\xa0\x80"]}',
        b'{"data": [' + b"9" * 5000 + b"]}",
        b'{"data": ' + b"[" * 100_000,
        b'{"data": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_what_is_no_request_is_refused(address, body):
    status, answer = sent(address, "sentiment", body)
    expect_told(status, answer)
    assert status != 200 or body.startswith(b'{"data": [[')
