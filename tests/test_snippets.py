"""The programs of the Code drawer, run: each gives what the app gave."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tokenize
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.compute import tokenization, whisper, windows
from components.compute.decoding import Sampling, end_tokens
from components.compute.whisper import Piece
from components.explain import snippets
from components.explain.snippets import Where
from components.inputs import audio
from components.inputs.wording import Wording
from components.weights.checkpoints import Bundled, Checkpoint, Hub
from components.weights.wheels import MINILM
from demos import generation, image, sentiment, speech, translation, zero_shot
from tests import tiny, tiny_whisper

NASTY = [
    "",
    "plain",
    "it's",
    'she said "no"',
    """'both' and "both\"""",
    '"""',
    "'''",
    "\\",
    "ends in \\",
    '\\"',
    "a\nb\r\nc\rd",
    "\t\x00\x07\x1b[0m",
    "\u2028 and \u2029 and \x85 and \x0b\x0c",
    "\ud800 half \udfff",
    "\u202eright to left\u200f \u2066",
    "🙂 👩‍👩‍👧 çà ß 漢字 עברית",
    "{text} {} %s $text ${texts} # no comment",
    '"); import os; os.abort()  # ',
    "\\N{BULLET} \\u2028 \\x00",
    "x" * 1000,
    "word " * 300,
    "line\n" * 60 + "\\" * 200,
    "\u2028" * 200 + '"' * 100,
]


def ran(program: str, **replaced: str) -> dict[str, Any]:
    """The program's names after it has run; replaced: values of the file constants at its top."""
    for name, path in replaced.items():
        before = next(line for line in program.splitlines() if line.startswith(f"{name} = "))
        program = program.replace(before, f"{name} = {path!r}")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "snippet", "exec"), names)  # what users do with it
    return names


def at(loaded: Any) -> Where:
    """The folder, also of what the tests have the hub bring."""
    return replace(snippets.place_of(loaded, False), checkpoint=str(loaded.model.name_or_path), revision=None)


# Literals


@pytest.mark.parametrize("text", NASTY)
def test_nothing_breaks_out_of_a_literal(text):
    for written in (
        snippets.literal(text),
        snippets.wrapped(text),
        snippets.wrapped(text, 8),
        snippets.listed([text]),
    ):
        (statement,) = ast.parse(f"x = {written}").body
        value = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        assert value in (text, [text])
        assert written.encode("utf-8").decode().isprintable() or "\n" in written
        assert all(line.isprintable() for line in written.split("\n"))
        assert written.splitlines() == written.split("\n")
    assert "\n" not in snippets.literal(text)


@pytest.mark.parametrize("text", NASTY)
def test_texts_reach_every_program_as_they_are(text):
    here = Where(text or "x", text or None)
    sampling = Sampling(0.7, 5, 0.9, 1.1, 3)
    programs = {
        "texts": snippets.sentiment(here, [text, text], limit=9, sigmoid=False),
        "text": snippets.zero_shot(
            here, text, [text], text, False, limit=9, id2label={0: "entailment", 1: text}
        ),
        "prompt": snippets.generation(here, text, 5, 2, sampling, "chat", positions=99, ends=[1]),
        "paragraphs": snippets.translation(here, [Wording(text)], positions=99),
        "checkpoint": snippets.speech(here, "word", text, text, multilingual=True),
        "revision": snippets.image(here, 5),
    }
    for name, program in programs.items():
        values = assigned(program)
        wanted = {"texts": [text, text], "paragraphs": [[text]]}.get(name, text)
        if name == "checkpoint" or (name == "revision" and not text):
            wanted, name = text or "x", "checkpoint"
        assert values[name] == wanted
        tokens = tokenize.generate_tokens(io.StringIO(program).readline)
        comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
        assert comments and (len(text) < 4 or not any(text in comment for comment in comments))


def assigned(program: str) -> dict[str, Any]:
    """The constants at the top level of a program, which is parsed and not run."""
    values = {}
    for statement in ast.parse(program).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                continue
    return values


def test_long_texts_are_laid_out_in_lines():
    written = snippets.wrapped("so many words " * 40 + "\nand a new line")
    assert max(map(len, written.split("\n"))) < 100
    assert written.split("\n")[1].endswith('words "') or written.split("\n")[1].endswith(' "')
    assert snippets.wrapped("short") == '"short"'


# Where


def checkpoint(source: Any) -> Checkpoint:
    return Checkpoint("shown as this", source, sentiment.RECIPE)


def test_a_repository_with_its_revision():
    for public in (False, True):
        found = snippets.where(checkpoint(Hub("owner/name", "714eb0f")), "/cache/snapshots/x", public)
        assert (found.checkpoint, found.revision) == ("owner/name", "714eb0f")


def test_main_is_the_commit_that_the_app_has():
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = checkpoint(Hub("owner/name"))
    assert snippets.where(hub, f"/cache/snapshots/{commit}", False).revision == commit
    assert snippets.where(hub, "/tmp/folder", False).revision == "main"


def test_a_starter_is_its_folder_and_a_public_page_does_not_tell_it():
    for source in (MINILM, Bundled("minilm-sst2", MINILM), Bundled("marian-en-fr")):
        local = snippets.where(checkpoint(source), "/home/me/starters/some-folder-1", False)
        assert (local.checkpoint, local.revision, local.remark) == (
            "/home/me/starters/some-folder-1",
            None,
            "",
        )
        public = snippets.where(checkpoint(source), "/home/me/starters/some-folder-1", True)
        program = snippets.image(public, 5)
        assert "/home/me" not in program
        assert public.remark in program and public.remark.startswith("# ")
        assert "revision" not in program
    assert public.checkpoint == "checkpoints/marian-en-fr"


def test_the_folder_of_what_is_lent(models):
    with models.use(sentiment.OFFER, "starter") as loaded:
        found = snippets.place_of(loaded, public=False)
        assert found == Where(str(loaded.model.name_or_path))
        assert snippets.place_of(loaded, public=True).checkpoint == os.path.basename(found.checkpoint)


# Sentiment


def sentiment_program(loaded: Any, texts: list[str]) -> str:
    return snippets.sentiment(
        at(loaded),
        texts,
        limit=tokenization.longest_input(loaded),
        sigmoid=sentiment.is_multi_label(loaded.model.config),
    )


def labelled(names: dict[str, Any]) -> list[dict[str, float]]:
    id2label = names["model"].config.id2label
    return [{id2label[i]: p for i, p in enumerate(row)} for row in names["probabilities"].tolist()]


def test_sentiment_of_the_starter_stands_alone(models, tmp_path):
    texts = [*sentiment.EXAMPLES, 'a film that\'s neither "good" nor bad 🙂']
    result = sentiment.run("\n".join(texts), "starter", models)
    with models.use(sentiment.OFFER, "starter") as loaded:
        program = sentiment_program(loaded, texts)
    assert [dict(row.scores) for row in result.rows] == [
        pytest.approx(row, abs=1e-5) for row in labelled(ran(program))
    ]
    script = tmp_path / "snippet.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", "-X", "utf8", str(script)],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    best = [f"    {row.scores[0][0]}: {row.scores[0][1]:.4f}" for row in result.rows]
    assert done.stdout.splitlines()[0] == texts[0]
    assert [line for line in done.stdout.splitlines() if line in best] == best


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_sentiment_of_a_distilbert(problem):
    folder = tiny.distilbert(("bad", "fair", "good"), problem)
    texts = ["i love this course", "hate " * 100, "so so"]
    result = sentiment.run("\n".join(texts), "auto", tiny.manager(folder))
    names = ran(sentiment_program(tiny.loaded(folder, sentiment.RECIPE), texts))
    assert [dict(row.scores) for row in result.rows] == [
        pytest.approx(row, abs=1e-5) for row in labelled(names)
    ]
    assert names["inputs"]["input_ids"].shape[1] == 64, "cut as in the app"


def test_texts_left_out_are_told():
    program = snippets.sentiment(Where("x"), ["one", "two"], limit=9, sigmoid=False, more=3)
    assert "the first 2 of 5" in program


# Zero-shot

SCORED = [(["education", "politics", "business"], False), (["sport", "weather"], True), (["history"], False)]


def zero_shot_program(loaded: Any, text: str, labels: list[str], several: bool) -> str:
    return snippets.zero_shot(
        at(loaded),
        text,
        labels,
        zero_shot.TEMPLATE,
        several,
        limit=tokenization.longest_input(loaded),
        id2label=loaded.model.config.id2label,
        pooling=snippets.pooling_of(loaded.model.name_or_path),
        temperature=zero_shot.TEMPERATURE,
    )


def compare_zero_shot(folder: Any, text: str) -> None:
    loaded = tiny.loaded(folder, zero_shot.RECIPE)
    for labels, several in SCORED:
        result = zero_shot.run(
            text, ", ".join(labels), several, zero_shot.TEMPLATE, "auto", tiny.manager(folder)
        )
        names = ran(zero_shot_program(loaded, text, labels, several))
        scores = dict(zip(labels, names["scores"].tolist(), strict=True))
        assert dict(result.scores) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    "classes", [("contradiction", "neutral", "entailment"), ("entailment", "not_entailment")]
)
def test_zero_shot_by_entailment(classes):
    compare_zero_shot(tiny.bart(classes), zero_shot.TEXT)


def test_zero_shot_cuts_a_long_text_as_the_app_does():
    compare_zero_shot(tiny.bart(), "history " * 30)
    compare_zero_shot(tiny.sentence_encoder(), "history " * 100)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_zero_shot_by_similarity(pooling):
    compare_zero_shot(tiny.sentence_encoder(pooling), "we love sport")


def test_zero_shot_of_the_starter(models):
    for labels, several in SCORED:
        result = zero_shot.run(
            zero_shot.TEXT, ",".join(labels), several, zero_shot.TEMPLATE, "starter", models
        )
        with models.use(zero_shot.OFFER, "starter") as loaded:
            names = ran(zero_shot_program(loaded, zero_shot.TEXT, labels, several))
        scores = dict(zip(labels, names["scores"].tolist(), strict=True))
        assert dict(result.scores) == pytest.approx(scores, abs=1e-5)


# Generation


def generation_program(loaded: Any, request: generation.Request, cached: bool = True) -> str:
    return snippets.generation(
        at(loaded),
        request.prompt,
        request.most,
        request.sequences,
        request.sampling,
        request.mode,
        positions=generation._positions(loaded),
        ends=end_tokens(loaded.model),
        cached=cached,
    )


def compare_generation(manager: Any, choice: str, prompt: str, cached: bool = True, **options: Any) -> tuple:
    request = generation.validate(prompt, **options)
    *_, result = generation.run(request, choice, manager)
    with manager.use(generation.OFFER, choice) as loaded:
        names = ran(generation_program(loaded, request, cached))
    assert tuple(names["texts"]) == result.sequences
    return result.sequences


DRAWN = {"temperature": 1.1, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 5}


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 0, "repetition_penalty": 1.3}, DRAWN]
)
@pytest.mark.parametrize("folder", [tiny.llama, lambda: tiny.llama(sentencepiece=True)])
def test_generation_of_a_llama(folder, options):
    written = compare_generation(
        tiny.manager(folder()),
        "auto",
        'So today,\n"I" just feel like',
        max_new_tokens=20,
        num_return_sequences=2,
        **options,
    )
    assert (len(set(written)) == 2) == (options is DRAWN)


def test_generation_without_a_cache_and_without_limits():
    compare_generation(
        tiny.manager(tiny.llama()), "auto", "Go", cached=False, temperature=1, top_k=0, top_p=1, seed=9
    )


def test_generation_in_chat():
    folder = tiny.llama(chat=True)
    for options in ({"temperature": 0}, DRAWN):
        compare_generation(
            tiny.manager(folder), "auto", "Who are you?", mode="chat", max_new_tokens=12, **options
        )


def test_generation_in_chat_with_what_looks_like_control_tokens():
    manager = tiny.manager(tiny.llama(chat=True))
    with manager.use(generation.OFFER) as loaded:
        typed = f"Hi {loaded.processor.eos_token} there"
    request = generation.validate(typed, 12, temperature=0, mode="chat")
    *_, result = generation.run(request, "auto", manager)
    program = generation.code(result.ran, manager, False)
    assert "is text" in program
    assert tuple(ran(program, checkpoint=str(tiny.llama(chat=True)))["texts"]) == result.sequences


def test_a_sequence_that_ends_does_not_change_the_others():
    """With every other token an end, sequences end at different steps."""
    import torch

    folder = tiny.llama()
    manager = tiny.manager(folder)
    request = generation.validate("So", 30, 4, 1.5, 0, 1.0, 1.0, 2)
    with manager.use(generation.OFFER) as loaded:
        loaded.model.generation_config.eos_token_id = list(range(0, 40))
        program = generation_program(loaded, request)
        *_, result = generation.run(request, "auto", manager)
    names = ran(program)
    assert tuple(names["texts"]) == result.sequences
    assert len({len(text) for text in result.sequences}) > 1
    assert isinstance(names["ended"], torch.Tensor) and names["ended"].any()


def test_a_long_prompt_loses_its_beginning_as_in_the_app():
    compare_generation(tiny.manager(tiny.llama()), "auto", "abcdefgh " * 40, max_new_tokens=10, temperature=0)


def test_generation_of_the_starter(models):
    for options in ({"temperature": 0}, {"seed": 3}, {"seed": 1, "mode": "chat"}):
        compare_generation(
            models,
            "starter",
            generation.PROMPT,
            max_new_tokens=12,
            num_return_sequences=2,
            **options,
        )


# Translation


def translation_program(loaded: Any, result: translation.Result, sentence: int = 0) -> str:
    codes = loaded.processor.supported_language_codes
    return snippets.translation(
        at(loaded),
        translation.wordings(result.parts),
        positions=loaded.model.config.max_position_embeddings,
        prefix=codes[0] if codes else "",
        sentence=sentence,
    )


def compare_translation(manager: Any, choice: str, text: str, sentence: int) -> None:
    result = translation.run(text, choice, manager)
    shown = translation.attend(result.sentences[sentence], choice, manager)
    with manager.use(translation.OFFER, choice) as loaded:
        names = ran(translation_program(loaded, result, sentence))
    assert names["translation"] == result.text
    for kind in ("encoder", "decoder", "cross"):
        np.testing.assert_allclose(names[kind].numpy(), getattr(shown, kind), atol=1e-5)


@pytest.mark.parametrize("languages", [(), (">>fra<<", ">>oci<<")])
def test_translation_of_a_marian(languages):
    text = 'You like this house. My name is "Anna".\n\nA man.\n' + "Quick foxes jump over lazy dogs " * 3
    compare_translation(tiny.manager(tiny.marian(languages)), "auto", text, 1)


def test_translation_of_the_starter(models):
    compare_translation(models, "starter", translation.EXAMPLES[1], 1)


@pytest.mark.parametrize(
    "text",
    [
        "  1. Ask {name} about www.a.org 😀\n\n- I have 88 books.\tTwo dogs “run”.",
        "THE DOG RUNS ON THE BEACH.\n" + "a man and a dog are running, " * 9,
        "The weather is nice today and we would\nlike to go for a walk in the park with\nour friends.",
        "Ask {a} or {b} or {c} or {d} about it — now!",
    ],
)
def test_a_program_prepares_a_text_as_the_app_does(models, text):
    compare_translation(models, "starter", text, 0)


# Speech


def speech_program(loaded: Any, timestamps: str, pieces: Any = None, **options: Any) -> str:
    return snippets.speech(
        Where(str(loaded.model.name_or_path)),
        timestamps,
        options.get("language"),
        options.get("task", "transcribe"),
        multilingual=windows.is_multilingual(loaded.model),
        seconds=loaded.processor.feature_extractor.chunk_length,
        heard=None if pieces is None else snippets.heard_in(pieces),
    )


def compare_speech(names: dict[str, Any], result: speech.Result) -> None:
    """Text and segments; the end of a word may be that of the comma or full stop behind it."""
    assert names["transcript"] == result.text
    assert [said.strip() for said, _, _ in names["segments"]] == [s.text for s in result.segments]
    for (_, start, end), wanted in zip(names["segments"], result.segments, strict=True):
        assert start == pytest.approx(wanted.start, abs=0.05)
        if not names.get("recognize") or wanted.text[-1].isalnum():
            assert end == pytest.approx(wanted.end, abs=0.05)


@pytest.mark.parametrize("timestamps", ["segment", "word"])
def test_speech_of_the_starter(models, timestamps):
    path = str(speech.CLIP)
    *_, result = speech.run(path, timestamps, "auto", "transcribe", "starter", models)
    with models.use(speech.OFFER, "starter") as loaded:
        names = ran(speech_program(loaded, timestamps), recording=path)
    compare_speech(names, result)
    assert len(result.segments) > (10 if timestamps == "word" else 0)


def test_a_long_recording_is_cut_where_the_app_cuts_it(models, tmp_path):
    import soundfile

    clip, rate = soundfile.read(speech.CLIP, dtype="float32")
    path = str(tmp_path / "long.wav")
    quiet = np.zeros(12 * rate, np.float32)
    soundfile.write(path, np.concatenate([clip, quiet, clip, quiet]), rate)
    *_, result = speech.run(path, "segment", "auto", "transcribe", "starter", models)
    with models.use(speech.OFFER, "starter") as loaded:
        recording = audio.decode(path)
        pieces = list(whisper.transcribe(loaded, recording.samples))
        names = ran(speech_program(loaded, "segment", pieces), recording=path)
    assert recording.seconds > 30 and len(names["heard"]) == 2
    assert names["heard"][1][0] > 15, "silence is passed over"
    compare_speech(names, result)


def test_what_was_left_out_is_left_out():
    pieces = [
        Piece(" One", (), (), None, 4.0, 9.0, window=(0, 160_001)),
        Piece("", (), (), None, 6.5, 9.0, "silence"),
        Piece(" two.", (), (), None, 9.0, 9.0, window=(104_000, 144_000)),
    ]
    heard = snippets.heard_in(pieces)
    assert heard == [(0, 160_001 / 16_000, 4.0), (6.5, 9.0, 9.0)]
    for given in (heard, []):
        program = snippets.speech(Where("x"), "none", None, "transcribe", multilingual=False, heard=given)
        found = assigned(program)["heard"]
        assert found == pytest.approx(np.array(given)) if given else found == []
    assert round(snippets.heard_in(pieces)[0][1] * 16_000) == 160_001


def recorded(seconds: float, tmp_path: Path) -> str:
    import soundfile

    path = str(tmp_path / "noise.wav")
    soundfile.write(path, tiny_whisper.noise(seconds), 16_000, subtype="FLOAT")
    return path


def saved(tmp_path: Path, *codes: str) -> Any:
    """A tiny Whisper in a folder, and what of it the tests need to know."""
    loaded = tiny_whisper.whisper(codes, max_length=tiny_whisper.MOST_TOKENS)
    for part in (loaded.model, loaded.processor):
        part.save_pretrained(tmp_path / "whisper")
    loaded.model.config._name_or_path = loaded.model.name_or_path = str(tmp_path / "whisper")
    return loaded


@pytest.mark.parametrize("language", ["fr", None])
def test_a_multilingual_whisper_is_told_language_and_task(language, tmp_path, monkeypatch):
    """Random weights: what the app would leave out as unclear is kept for once."""
    monkeypatch.setattr(whisper, "_left_out", lambda text, decoded, seconds: "")
    loaded, path = saved(tmp_path, "en", "fr"), recorded(1.5, tmp_path)
    program = speech_program(loaded, "segment", language=language, task="translate")
    assert ("language=" in program.replace("Without language=", "")) == bool(language)
    names = ran(program, recording=path)
    pieces = list(whisper.transcribe(loaded, audio.decode(path).samples, language=language, task="translate"))
    assert names["transcript"] == "".join(piece.text for piece in pieces).strip() != ""


def test_a_long_recording_without_its_cuts_is_left_to_transformers(tmp_path):
    loaded, path = saved(tmp_path), recorded(5, tmp_path)
    names = ran(speech_program(loaded, "segment"), recording=path)
    assert names["long"]
    assert names["segments"][-1][2] > 2
    assert all(0 <= start <= end <= 5 for _, start, end in names["segments"])


def test_without_times_none_are_printed():
    timed, plain = (
        snippets.speech(Where("x"), timestamps, None, "transcribe", multilingual=False)
        for timestamps in ("segment", "none")
    )
    assert timed.replace(snippets.PRINTED, "").replace(", and when they were said", "") == plain
    assert "language" not in plain and "task" not in plain


# Image


@pytest.mark.parametrize("name", ["lion.jpg", "tower.jpg"])
def test_image_of_the_starter(models, name):
    import gradio as gr

    path = gr.media.get_image(name)
    result = image.run(path, 5, "starter", models)
    with models.use(image.OFFER, "starter") as loaded:
        names = ran(snippets.image(at(loaded), 5), picture=path)
    compare_image(names, result)


def compare_image(names: dict[str, Any], result: image.Result) -> None:
    id2label = names["model"].config.id2label
    shown = [
        (id2label[i], v) for i, v in zip(names["classes"].tolist(), names["values"].tolist(), strict=True)
    ]
    assert [label for label, _ in shown] == [label for label, _ in result.scores]
    assert [v for _, v in shown] == pytest.approx([v for _, v in result.scores], abs=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "CMYK", "1"])
def test_image_of_a_vit_in_every_mode(mode, tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    path = str(tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png"))
    picture = Image.fromarray(pixels, "RGBA")
    (
        picture
        if mode == "RGBA"
        else picture.convert("RGB").convert(mode)
        if mode in ("P", "CMYK")
        else picture.convert(mode)
    ).save(path)
    result = image.run(path, 20, "auto", tiny.manager(tiny.vit()))
    compare_image(ran(snippets.image(Where(str(tiny.vit())), 20), picture=path), result)


def odd_pictures(folder: Path) -> dict[str, Path]:
    """Pictures that need more than to be opened, each by what it needs."""
    from PIL import Image, ImageCms

    rng = np.random.default_rng(0)
    bytes_, one = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), rng.random((60, 90), dtype=np.float32)
    plain, exif = Image.fromarray(bytes_), Image.Exif()
    exif[0x0112] = 6
    logo = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    logo.paste((250, 250, 250, 255), (5, 5, 30, 20))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    made: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "fractions": (Image.fromarray(one), "tiff", {}),
        "any floats": (Image.fromarray(one * 1234.5 - 300.25), "tiff", {}),
        "not a number": (Image.fromarray(np.where(one < 0.1, np.nan, one).astype(np.float32)), "tiff", {}),
        "12 of 16 bits": (Image.fromarray((one * 4095).astype(np.uint16)), "png", {}),
        "16 bits, turned": (Image.fromarray((one * 65535).astype(np.uint16)), "tiff", {"exif": exif}),
        "32 bits": (Image.fromarray((one * 1e6).astype(np.int32)), "tiff", {}),
        "white on transparent": (logo, "png", {}),
        "a profile": (plain, "jpg", {"icc_profile": lab, "exif": exif}),
        "a profile of grey": (plain.convert("L"), "png", {"icc_profile": lab}),
        "rows": (plain, "png", {}),
        "rows, turned": (plain, "jpg", {"exif": exif}),
        "rows, turned, of 16 bits": (Image.fromarray((one * 999).astype(np.uint16)), "tiff", {"exif": exif}),
        "detail": (plain, "jpg", {"progressive": True, "exif": exif}),
        "the third frame": (
            Image.new("RGB", (90, 60)),
            "webp",
            {"save_all": True, "append_images": [Image.new("RGB", (90, 60), "red"), plain], "lossless": True},
        ),
    }
    paths = {}
    for name, (picture, ending, options) in made.items():
        paths[name] = folder / f"{name}.{ending}"
        picture.save(paths[name], **options)
        if name.startswith(("rows", "detail")):
            whole = paths[name].read_bytes()
            paths[name].write_bytes(whole[: len(whole) * 3 // 4])
    return paths


def test_a_program_reads_a_picture_as_the_app_does(tmp_path):
    models = tiny.manager(tiny.vit())
    needs = {}
    for name, path in odd_pictures(tmp_path).items():
        result = image.run(str(path), 20, "auto", models)
        program = image.code(image.Ran(str(path), 20, "auto"), models, False)
        assert len(program.splitlines()) < 60 and max(map(len, program.splitlines())) <= 110
        with models.use(image.OFFER, "auto") as loaded:
            read = image.read_picture(str(path)).info["read"]
            here = snippets.image(at(loaded), 20, read)
        assert here.partition("picture =")[2] in program.replace(", revision=revision", "")
        compare_image(ran(here, picture=str(path)), result)
        needs[name] = replace(read, part=None)
    assert len({str(need) for need in needs.values()}) >= 10, "each of its own"


def test_a_program_of_an_ordinary_picture_holds_nothing_else():
    plain = snippets.image(Where("x"), 5)
    for word in ("numpy", "import io", "ImageCms", "seek", "tile", "crop("):
        assert word not in plain


# All of them


def programs(here: Where) -> dict[str, str]:
    """One of each kind, on the tiny checkpoint whose folder `here` is to name."""

    def place(folder: Path) -> Where:
        return replace(here, checkpoint=str(folder))

    classes = {0: "contradiction", 1: "neutral", 2: "entailment"}
    encoder, llama = place(tiny.sentence_encoder()), place(tiny.llama())
    labels, template, sampling = ["sport", "history"], "this is about {}", Sampling(0.9, 20, 0.9, 1.1, 4)
    return {
        "probabilities": snippets.sentiment(
            place(tiny.distilbert()), ["i love this", "so"], limit=64, sigmoid=False
        ),
        "scores of pairs": snippets.zero_shot(
            place(tiny.bart()), "a text", labels, template, False, limit=96, id2label=classes
        ),
        "scores of sentences": snippets.zero_shot(
            encoder, "a text", labels, template, True, limit=64, id2label={}
        ),
        "texts, likeliest": snippets.generation(llama, "Go", 5, 2, Sampling(), positions=128, ends=[1]),
        "texts, drawn": snippets.generation(llama, "Go", 5, 2, sampling, positions=128, ends=[1]),
        "translation": snippets.translation(
            place(tiny.marian()), [Wording("You like it."), " ", Wording("A man.")], positions=64
        ),
        "values": snippets.image(place(tiny.vit()), 3),
    }


def answers(program: str, name: str, **replaced: str) -> Any:
    answer = ran(program, **replaced)[name.partition(",")[0].split()[0]]
    return answer.tolist() if hasattr(answer, "tolist") else answer


def test_on_another_device():
    """ "cpu:0" stands in for one: programs for it move model and inputs, and bring the answer back."""
    there = programs(Where("", None, "cpu:0"))
    for name, program in programs(Where("")).items():
        assert ".to(" not in program and ".cpu()" not in program
        assert ".to(device" in there[name]
        if name != "values":
            assert answers(there[name], name) == answers(program, name)


def test_in_half_precision(tmp_path):
    """Beside the app's own forward pass in it."""
    import torch
    from PIL import Image

    from components.models.loading import load

    programs_in_half = programs(Where("", None, "cpu:0", "float16"))
    for program in programs_in_half.values():
        assert "torch.float16" in program and "torch.float32" not in program
    cpu, half = torch.device("cpu"), torch.float16

    folder = tiny.vit()
    loaded = load(tiny.checkpoint(folder, image.RECIPE), folder, cpu, half)
    path = str(tmp_path / "picture.png")
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    picture.save(path)
    (logits,) = image.forward(image.preprocess(picture, loaded.processor), loaded)
    wanted = [value for _, value in image.postprocess(logits, 3, loaded.model.config)]
    found = answers(programs_in_half["values"], "values", picture=path)
    assert found == pytest.approx(wanted, abs=1e-3)

    folder = tiny.distilbert()
    loaded = load(tiny.checkpoint(folder, sentiment.RECIPE), folder, cpu, half)
    inputs = dict(loaded.processor(["i love this", "so"], padding=True, return_tensors="pt"))
    wanted = sentiment.forward(inputs, loaded).softmax(-1).tolist()
    np.testing.assert_allclose(answers(programs_in_half["probabilities"], "probabilities"), wanted, atol=1e-3)


def test_programs_name_the_revision_wherever_they_load_something():
    for program in programs(Where("", "v1.0")).values():
        loads = program.count("from_pretrained(")
        assert loads == 2 and program.count(", revision=revision") == loads
        assert assigned(program)["revision"] == "v1.0"


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_programs_say_that_small_integers_are_not_theirs(precision):
    for program in programs(Where("", None, "cpu", precision)).values():
        assert f"in {precision}. Here they are float32" in program and "dtype=torch.float32" in program


def test_programs_need_transformers_and_what_reads_their_files():
    speaking = snippets.speech(Where("x"), "word", "fr", "translate", multilingual=True)
    named = set()
    for program in (*programs(Where("")).values(), speaking):
        assert max(map(len, program.split("\n"))) <= 120
        for statement in ast.walk(ast.parse(program)):
            if isinstance(statement, ast.Import):
                named |= {alias.name for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom):
                named.add(statement.module or "")
    assert named == {"torch", "transformers", "PIL", "librosa"}


def test_a_tokenizer_without_padding(tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(tiny.llama(), num_labels=3)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny.llama()).save_pretrained(tmp_path)
    texts = ["short", "a longer text"]
    result = sentiment.run("\n".join(texts), "auto", tiny.manager(tmp_path))
    program = sentiment_program(tiny.loaded(tmp_path, sentiment.RECIPE), texts)
    assert "pad_token" in program
    assert [dict(row.scores) for row in result.rows] == [
        pytest.approx(row, abs=1e-5) for row in labelled(ran(program))
    ]


# The drawer


def test_the_drawer_shows_the_program_of_the_last_run():
    import gradio as gr

    from components.errors import InputError
    from components.page import drawers, ui
    from components.server.line import Line

    def write(record: str) -> str:
        if record == "gone":
            raise InputError("The file is gone. Choose it again.")
        return f"text = {snippets.literal(record)}"

    with gr.Blocks() as app:
        page = ui.Page(sentiment.DEMO, Line())
        record = gr.State()
        page.runs(lambda *values: None, [], [record])
        page.code(write, record)
    opened, after = (
        next(fn for fn in app.fns.values() if fn.name == name and isinstance(fn.outputs[-2], gr.Code))
        for name in ("opened", "update")
    )
    assert opened.inputs == [record] and opened.outputs[-2].language == "python"
    assert opened.fn(None)[0] is True
    assert opened.fn(None)[1] is None and drawers.NOT_YET in opened.fn(None)[2]
    assert opened.fn('a "b"') == (True, """text = 'a "b"'""", "")
    assert after.fn(True, "c") == ('text = "c"', "")
    assert after.fn(False, "c") == (gr.skip(), gr.skip())
    program, said = after.fn(True, "gone")
    assert program is None and "The file is gone." in said
