"""Inside of the speech tab: every number beside direct calls of processor and model."""

from __future__ import annotations

import html
import pickle
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch

from components.compute import whisper, windows
from components.compute.transcripts import Segment
from components.compute.whisper import Piece, transcribe
from components.errors import InputError
from components.explain import hearing, spectrogram
from components.inputs import audio
from components.models import eager
from components.models.manager import Loaded
from components.progress import never
from components.show import sound_markup
from demos import speech
from tests import tiny, tiny_whisper
from tests.tiny_whisper import SECONDS, noise

CODES = ("en", "fr", "de")


@pytest.fixture
def trusting(monkeypatch):
    """Random models are never sure and go round in circles: believe them all the same."""
    monkeypatch.setattr(whisper, "_left_out", lambda text, decoded, seconds: "")
    monkeypatch.setattr(whisper, "REPETITIVE_ABOVE", 99)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return audio.decode(speech.CLIP).samples


@pytest.fixture(scope="module")
def long_clip(clip, tmp_path_factory) -> str:
    """70 s of speech with pauses, and a silence at the end."""
    gap = np.zeros(audio.RATE // 2, np.float32)
    spoken = np.concatenate([clip, gap] * 8)
    quiet = np.zeros(70 * audio.RATE - spoken.size, np.float32)
    path = tmp_path_factory.mktemp("sound") / "long.wav"
    soundfile.write(path, np.concatenate([spoken, quiet]), audio.RATE)
    return str(path)


def lending(loaded: Loaded) -> Any:
    """A manager that lends this one, whatever is chosen."""
    return SimpleNamespace(use=lambda *chosen: nullcontext(loaded))


def remembered(
    path: str, models: Any, timestamps: str = "segment", language: str | None = None
) -> tuple[speech.Ran, speech.Result]:
    """A run of the starter, and what the tab remembers of it."""
    *_, last = speech.run(path, timestamps, language, "transcribe", "starter", models)
    assert last.status
    pieces = tuple(replace(piece, words=()) for piece in last.pieces)
    return speech.Ran(path, timestamps, None, "transcribe", last.status.checkpoint, pieces), last


@pytest.fixture(scope="module")
def long_run(models, long_clip) -> tuple[speech.Ran, speech.Result]:
    return remembered(long_clip, models)


def direct(loaded: Loaded, samples: np.ndarray, tokens: list[int]) -> Any:
    """What the model itself says to a window and all tokens but the last."""
    with torch.inference_mode():
        return eager.eager(loaded.model)(
            tiny_whisper.features(loaded, samples),
            decoder_input_ids=torch.tensor([tokens[:-1]]),
            output_attentions=True,
            output_hidden_states=True,
        )


def assert_heard(loaded: Loaded, samples: np.ndarray, heard: hearing.Heard, tokens: list[int]) -> None:
    """Every number is that of a direct call, tokens: with prompt and end."""
    output = direct(loaded, samples, tokens)
    logits = output.logits[0]
    shares = logits.softmax(-1)
    everything = [*heard.prompt, *heard.written]
    assert [token.id for token in everything] == tokens
    assert everything[0].probability is None
    for place, token in enumerate(everything[1:], 1):
        assert token.logit == pytest.approx(float(logits[place - 1, token.id]), abs=2e-3)
        assert token.probability == pytest.approx(float(shares[place - 1, token.id]), abs=2e-4)
        assert token.highest is not None
        assert token.highest[1] == pytest.approx(float(logits[place - 1].max()), abs=2e-3)
        assert (token.allowed is None) == (place < len(heard.prompt))
    sizes = {name: tuple(axis.size for axis in getattr(heard, name)) for name in ("encoder", "decoder")}
    assert sizes["encoder"] == tuple(output.encoder_last_hidden_state.shape)
    assert sizes["decoder"] == tuple(output.decoder_hidden_states[-1].shape)
    assert tuple(axis.size for axis in heard.features) == (1, *heard.mel.shape)
    assert tuple(axis.size for axis in heard.logits) == tuple(output.logits.shape)
    no_speech = shares[0, loaded.model.generation_config.no_timestamps_token_id - 1]
    assert heard.no_speech == pytest.approx(float(no_speech), abs=1e-5)
    wanted = torch.cat(output.cross_attentions)[:, :, len(heard.prompt) - 1 :].numpy()
    np.testing.assert_allclose(heard.attentions, wanted, atol=2e-4)
    assert heard.attentions.shape[2] == len(heard.written)
    np.testing.assert_allclose(heard.attentions.sum(-1), 1, atol=1e-4)


def decoded(loaded: Loaded, samples: np.ndarray, language: str | None = None, **more: Any) -> Any:
    """What the engine makes of a window."""
    window = windows.Window(samples, language, "transcribe", True, never, lambda decoded: False, **more)
    engine = loaded.share(windows.Engine)
    engine.submit(window)
    engine.wait([window])
    assert window.decoded is not None
    return window.decoded


@pytest.mark.parametrize("codes", [(), CODES])
@pytest.mark.parametrize("seconds", [0.3, 1.3, SECONDS])
def test_a_pass_is_what_the_model_says_itself(codes, seconds):
    loaded, samples = tiny_whisper.whisper(codes), noise(seconds)
    written = decoded(loaded, samples)
    heard = hearing.hear(loaded, samples, written.tokens, written.language, "transcribe")
    config = loaded.model.generation_config
    prompt = [config.decoder_start_token_id]
    if codes:
        prompt += [config.lang_to_id[f"<|{written.language}|>"], config.task_to_id["transcribe"]]
    cut_off = len(written.tokens) == tiny_whisper.MOST_TOKENS
    tokens = [*prompt, *written.tokens, *([] if cut_off else [config.eos_token_id])]
    assert_heard(loaded, samples, heard, tokens)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert heard.ends == pytest.approx(windows.token_ends(loaded.model, written, samples.size), abs=1e-6)
    kinds = [token.kind for token in heard.prompt]
    assert kinds == (["start", "language", "task"] if codes else ["start"])


def test_visitors_share_a_model_whose_attention_can_be_read():
    loaded = tiny_whisper.whisper()
    twin = loaded.share(eager.twin)
    assert loaded.share(eager.twin) is twin is not loaded.model and eager.eager(twin) is twin
    assert all(a is b for a, b in zip(loaded.model.parameters(), twin.parameters(), strict=True))


def test_half_precision():
    loaded = tiny_whisper.whisper(CODES)
    loaded = tiny_whisper.lent(loaded.model.to(torch.bfloat16), loaded.processor)
    written = decoded(loaded, noise(1))
    heard = hearing.hear(loaded, noise(1), written.tokens, written.language, "transcribe")
    assert heard.attentions.dtype == np.float32 and len(heard.ends) == len(written.tokens)
    np.testing.assert_allclose(heard.attentions.sum(-1), 1, atol=0.02)  # bfloat16 has two digits


@pytest.mark.parametrize("codes", [(), CODES])
def test_allowed_probabilities_are_those_that_the_decoder_chose_by(codes):
    loaded, samples = tiny_whisper.whisper(codes), noise(SECONDS)
    written = decoded(loaded, samples)
    heard = hearing.hear(loaded, samples, written.tokens, written.language, "transcribe")
    allowed = [token.allowed for token in heard.written]
    assert float(np.mean(np.log(np.array(allowed, dtype=float)))) == pytest.approx(written.logprob, abs=1e-4)
    probabilities = [token.probability for token in heard.written]
    assert all(a >= p - 1e-6 for a, p in zip(allowed, probabilities, strict=True) if a and p)


def test_languages_are_told_by_the_first_logits():
    loaded, samples = tiny_whisper.whisper(CODES), noise(SECONDS)
    heard = hearing.hear(loaded, samples, (), "de", "translate")
    config = loaded.model.generation_config
    output = direct(loaded, samples, [config.decoder_start_token_id, 0])
    ids = [config.lang_to_id[f"<|{code}|>"] for code in CODES]
    wanted = dict(
        zip(("English", "French", "German"), output.logits[0, 0, ids].softmax(-1).tolist(), strict=True)
    )
    assert dict(heard.languages) == pytest.approx(wanted, abs=1e-5)
    shares = [share for _, share in heard.languages]
    assert shares == sorted(shares, reverse=True)
    assert [token.text for token in heard.prompt] == ["<|startoftranscript|>", "<|de|>", "<|translate|>"]
    assert [token.kind for token in heard.written] == ["end"]  # nothing was written
    assert not hearing.hear(tiny_whisper.whisper(), samples, (), None, "transcribe").languages


def test_kinds_of_tokens_and_timestamps_in_seconds():
    loaded = tiny_whisper.whisper()
    begin = loaded.model.generation_config.no_timestamps_token_id + 1
    the, accent = loaded.processor.tokenizer.encode(" the", add_special_tokens=False)[0], 0
    pieces = loaded.processor.tokenizer.encode("é", add_special_tokens=False)
    accent = pieces[0]
    assert len(pieces) == 2  # two bytes, of which neither is a letter
    heard = hearing.hear(loaded, noise(1), (begin, the, accent, begin + 33), None, "transcribe")
    assert [token.kind for token in heard.written] == ["timestamp", "text", "text", "timestamp", "end"]
    texts = [token.text for token in heard.written]
    assert (texts[0], texts[3], texts[4]) == ("<|0.00|>", "<|0.66|>", "<|endoftext|>")
    assert texts[1].startswith(" ") and "\ufffd" not in texts[2]


def test_attention_of_a_choice_of_heads():
    loaded, samples = tiny_whisper.whisper(), noise(1)
    written = decoded(loaded, samples)
    heard = hearing.hear(loaded, samples, written.tokens, None, "transcribe")
    aligned = hearing.alignment_heads(loaded.model)
    assert aligned == [(0, 0), (1, 1)]
    every = heard.attentions
    for choice, wanted in {
        "aligned": (every[0, 0] + every[1, 1]) / 2,
        "all": every.mean((0, 1)),
        "2": every[1].mean(0),
        "2.1": every[1, 0],
    }.items():
        np.testing.assert_allclose(speech.attention_of(heard, aligned, choice), wanted, atol=1e-6)
        np.testing.assert_allclose(wanted.sum(-1), 1, atol=1e-4)
    silent = tiny_whisper.whisper(alignment_heads=None)
    assert hearing.alignment_heads(silent.model) is None
    assert hearing.hear(silent, samples, written.tokens, None, "transcribe").ends == ()


@pytest.mark.parametrize("codes", [(), CODES])
def test_pieces_remember_what_was_heard_and_written(codes, trusting):
    """Of a recording with and without pauses: text and words come from the tokens that were taken."""
    loaded = tiny_whisper.whisper(codes, seed=1)
    quiet = np.zeros(audio.RATE // 2, np.float32)
    samples = np.concatenate([noise(1.5), quiet, noise(5.3, seed=1), quiet, quiet, quiet, noise(0.3, seed=2)])
    pieces = list(transcribe(loaded, samples, timestamps="word"))
    assert len(pieces) > 3
    tokenizer, begin = loaded.processor.tokenizer, loaded.model.generation_config.no_timestamps_token_id + 1
    dropped = 0
    for piece in pieces:
        start, end = piece.window
        if piece.left_out:
            assert piece.left_out == "silence" and not piece.tokens and audio.is_silent(samples[start:end])
            assert whisper.taken(loaded.model, piece) == []
            continue
        sound = samples[start:end]
        assert 0 <= start < end <= samples.size and end - start <= SECONDS * audio.RATE
        assert start / audio.RATE < piece.done <= end / audio.RATE + 1e-9
        written = decoded(loaded, sound, piece.language)
        assert written.tokens == piece.tokens
        spans = whisper.taken(loaded.model, piece)
        texts = [
            tokenizer.decode(piece.tokens[first:last], skip_special_tokens=True) for first, last, *_ in spans
        ]
        assert "".join(texts) == piece.text
        heard = hearing.hear(loaded, sound, piece.tokens, piece.language, "transcribe")
        assert whisper.words_of(loaded, piece, heard.ends, sound) == piece.words
        dropped += any(token < begin for token in piece.tokens[spans[-1][1] :])
    assert dropped  # some windows end within a segment, which the next one hears again
    assert pieces[-1].done == samples.size / audio.RATE


def test_what_is_left_out_keeps_its_tokens_and_has_no_words(models, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise(4), audio.RATE)
    ran, last = remembered(str(tmp_path / "noise.wav"), models)
    assert last.text == "" and ran.pieces[0].left_out in ("no speech", "unclear")
    seen = speech.look_inside(ran, models)
    assert seen.heard is not None and seen.heard.written and seen.words == () and seen.taken == 0
    drawn = speech.draw_inside(seen)
    assert "No speech" in drawn or "Left out" in drawn
    assert "padding" not in re.findall(r'class="token[^"]*"', drawn)[-1]


def test_the_starter_on_its_clip(models, clip):
    ran, last = remembered(str(speech.CLIP), models, "word")
    seen = speech.look_inside(ran, models)
    assert seen.heard is not None and seen.words == last.segments and len(seen.words) > 15
    with models.use(speech.OFFER, "starter") as loaded:
        tokens = [token.id for token in (*seen.heard.prompt, *seen.heard.written)]
        assert_heard(loaded, clip, seen.heard, tokens)
        features = loaded.processor.feature_extractor(clip, sampling_rate=audio.RATE, return_tensors="np")
        written = decoded(loaded, clip)
        config = loaded.model.config
    np.testing.assert_array_equal(seen.mel, features.input_features[0])
    assert [axis.size for axis in seen.heard.features] == [1, 80, 3000]
    assert [axis.size for axis in seen.heard.encoder] == [1, 1500, 384]
    assert (seen.architecture.layers, seen.architecture.decoder_layers) == (4, 4)
    assert config.encoder_layers == config.decoder_layers == 4
    assert written.tokens == ran.pieces[0].tokens
    logprobs = np.log([token.allowed or 0 for token in seen.heard.written])
    assert logprobs.mean() == pytest.approx(written.logprob, abs=1e-4)
    assert seen.heard.no_speech == pytest.approx(written.no_speech, abs=1e-5)
    # The alignment heads follow the sound: the later the word, the later the place they listen at.
    listened = speech.attention_of(seen.heard, seen.aligned, "aligned")
    text = [i for i, token in enumerate(seen.heard.written) if token.kind == "text"]
    places = listened[text, : int(seen.seconds / whisper.STEP)].argmax(-1)
    assert np.corrcoef(places, np.arange(len(places)))[0, 1] > 0.95


def test_the_stations_show_these_numbers(models):
    ran, last = remembered(str(speech.CLIP), models)
    seen = speech.look_inside(ran, models)
    drawn = speech.draw_inside(seen)
    assert seen.heard is not None
    titles = re.findall(r"<h3><span>(\d)</span> ([^<]+)</h3>", drawn)
    assert titles == [
        ("1", "Feature extractor"),
        ("2", "Model"),
        ("3", "Head"),
        ("4", "Postprocessing"),
    ]
    for shape in ("[1, 80, 3000]", "[1, 1500, 384]", f"[1, {len(seen.heard.written)}, 384]", "51864]"):
        assert shape in drawn
    assert "6.5 s of this one are sound" in drawn
    for token in (*seen.heard.prompt, *seen.heard.written):
        assert f"<small>{token.id}</small>" in drawn
        if token.probability is not None:
            assert f"probability {token.probability:.4f}" in drawn
    for token in seen.heard.written[: speech.FIRST_TOKENS]:
        assert token.highest and f"<td>{token.logit:.4f}</td><td>{token.highest[1]:.4f}</td>" in drawn
    assert "&lt;|0.00|&gt;" in drawn and "&lt;|endoftext|&gt;" in drawn
    assert html.escape(last.segments[0].text) in drawn


def test_silence_was_never_seen_by_the_model(models, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(3 * audio.RATE, np.float32), audio.RATE)
    ran, _ = remembered(str(tmp_path / "silence.wav"), models)
    seen = speech.look_inside(ran, models)
    assert seen.heard is None and seen.words == () and seen.mel.shape == (80, 3000)
    assert ran.pieces[0].window == (0, 3 * audio.RATE)
    assert "silent" in speech.draw_inside(seen)
    assert speech.draw_attention(seen, "all") == ("", None) and speech.choices_of_heads(seen) == []
    whole, near = speech.waveforms(seen)
    assert whole is None and near.data[0].y.max() == 0


def test_a_clip_of_a_third_of_a_second(models, clip, tmp_path):
    soundfile.write(tmp_path / "short.wav", clip[16_000:20_800], audio.RATE)
    ran, last = remembered(str(tmp_path / "short.wav"), models)
    seen = speech.look_inside(ran, models)
    assert seen.seconds == pytest.approx(0.3) and seen.heard is not None
    assert ran.pieces[0].window == (0, 4800)
    assert "0.3 s of this one are sound" in speech.draw_inside(seen)
    _, figure = speech.draw_attention(seen, "all")
    assert figure is not None and figure.data[0].z.shape == (len(seen.heard.written), 15)
    assert last.text == speech.postprocess(list(ran.pieces), "none")[0]


def test_each_window_of_a_long_recording(models, long_run):
    ran, last = long_run
    numbers = range(len(ran.pieces))
    assert len(numbers) > 2 and last.pieces[0].words == ()
    names = speech.names_of_windows(ran.pieces)
    assert [number for _, number in names] == list(numbers)
    assert names[0][0].startswith("1: 0:00.0 to 0:1") and "This model listens" in names[0][0]
    texts = []
    for number in numbers:
        seen = speech.look_inside(ran, models, number)
        piece = ran.pieces[number]
        texts.append(piece.text)
        whole, near = speech.waveforms(seen)
        assert whole is not None and len(whole.data[0].x) <= spectrogram.MOST_STRETCHES
        assert whole.layout.shapes[0].x0 == piece.window[0] / audio.RATE
        assert near.data[0].x[0] == pytest.approx(piece.window[0] / audio.RATE)
        assert len(near.data[0].x) <= spectrogram.MOST_STRETCHES
        assert all(seen.start <= word.start <= word.end <= seen.start + seen.seconds for word in seen.words)
        again = piece.text and piece.done < piece.window[1] / audio.RATE
        assert ("the next window begins there" in speech.draw_inside(seen)) == bool(again)
        said = "".join(word.text for word in seen.words)
        assert said == "".join(piece.text.split())
    assert "".join(texts).strip() == last.text and last.text.count("one token after another") == 8
    assert speech.look_inside(ran, models, 99).number == speech.first_spoken(ran.pieces) == 0
    assert len(pickle.dumps(ran)) < 20_000


def test_tokens_that_are_not_taken_are_faint(models, long_run):
    ran, _ = long_run
    number = next(i for i, p in enumerate(ran.pieces) if p.text and p.done < p.window[1] / audio.RATE)
    seen = speech.look_inside(ran, models, number)
    assert seen.heard is not None and 0 < seen.taken < len(seen.piece.tokens)
    chips = re.findall(r'class="token decoded ([^"]*)"', speech.draw_inside(seen))[len(seen.heard.prompt) :]
    assert ["padding" in chip for chip in chips] == [i >= seen.taken for i in range(len(seen.heard.written))]
    with models.use(speech.OFFER, "starter") as loaded:
        tokens = seen.piece.tokens[: seen.taken]
        assert loaded.processor.tokenizer.decode(tokens, skip_special_tokens=True) == seen.piece.text


def test_a_recording_that_is_gone_is_said(models, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(audio.RATE, np.float32), audio.RATE)
    ran, _ = remembered(str(tmp_path / "silence.wav"), models)
    (tmp_path / "silence.wav").unlink()
    with pytest.raises(InputError, match="no longer here"):
        speech.look_inside(ran, models)


@pytest.mark.parametrize("codes", [(), CODES])
def test_tiny_checkpoints_are_drawn(codes, trusting, tmp_path):
    loaded = tiny_whisper.whisper(codes)
    soundfile.write(tmp_path / "noise.wav", noise(1.5), audio.RATE)
    samples = audio.decode(tmp_path / "noise.wav").samples
    pieces = tuple(transcribe(loaded, samples))
    ran = speech.Ran(str(tmp_path / "noise.wav"), "segment", None, "transcribe", "tiny", pieces)
    seen = speech.look_inside(ran, lending(loaded))
    drawn = speech.draw_inside(seen)
    assert "[1, 16, 200]" in drawn and "[1, 100, 32]" in drawn
    assert ("tell the language as well" in drawn) == bool(codes)
    for _, choice in speech.choices_of_heads(seen):
        text, figure = speech.draw_attention(seen, choice)
        assert figure is not None and figure.data[0].z.shape[1] == 75 and "Each row sums to 1" in text
    assert len(speech.choices_of_heads(seen)) == 2 + 2 * (1 + 2)


def test_without_alignment_heads_phrases_take_the_place_of_words(trusting, tmp_path):
    loaded = tiny_whisper.whisper(alignment_heads=None)
    soundfile.write(tmp_path / "noise.wav", noise(1.5), audio.RATE)
    pieces = tuple(transcribe(loaded, audio.decode(tmp_path / "noise.wav").samples))
    ran = speech.Ran(str(tmp_path / "noise.wav"), "segment", None, "transcribe", "tiny", pieces)
    seen = speech.look_inside(ran, lending(loaded))
    assert seen.words == () and seen.timed == pieces[0].segments
    assert speech.choices_of_heads(seen)[0][1] == "all"


def test_chips_and_buttons_show_markup_as_text():
    evil = "<img src=x onerror=alert(1)>"
    token = hearing.Written(evil, 7, "text", 1.0, 0.25, (evil, 2.0), 0.5)
    chips = sound_markup.written_chips([token, replace(token, kind="timestamp")], taken=1)
    buttons = sound_markup.word_buttons([Segment(evil, 1.25, 2.5)])
    for drawn in (chips, buttons):
        assert "<img" not in drawn and "&lt;img" in drawn
    assert "25.0 %" in chips and "--share: 25.0%" in chips and "allowed tokens 0.5000" in chips
    first, second = re.findall(r'class="token decoded ([^"]*)"', chips)
    assert first == "" and second == "special padding"
    assert 'data-from="1.250" data-to="2.500"' in buttons and "Play from 0:01.2" in buttons


@pytest.fixture(scope="module")
def tab(models) -> tiny.Tab:
    return tiny.tab(speech.DEMO, models)


def handlers(tab: tiny.Tab, name: str, outputs: int) -> Iterator[Any]:
    yield from (fn.fn for fn in tab.app.fns.values() if fn.name == name and len(fn.outputs) == outputs)


def test_a_press_remembers_the_run(tab):
    *_, last = tab.press(str(speech.CLIP), "word", "auto", "transcribe", checkpoint="starter")
    ran = last[-3]
    assert isinstance(ran, speech.Ran) and ran.path == str(speech.CLIP) and last[-2] == ""
    assert (ran.timestamps, ran.language, ran.task) == ("word", None, "transcribe")
    assert ran.checkpoint == "Whisper tiny.en" and ran.pieces[0].tokens and not ran.pieces[0].words


def test_the_drawer_opens_follows_and_changes(tab, long_run, monkeypatch):
    ran, _ = long_run
    (opened,) = handlers(tab, "opened", 14)
    is_open, player, window, stations, *_, said = opened(ran, None)
    assert is_open and said == "" and player["value"] == ran.path
    assert window["visible"] and window["value"] == 0 and len(window["choices"]) == len(ran.pieces)
    assert "Feature extractor" in stations
    other_window, other_heads = (
        next(fn.fn for fn in tab.app.fns.values() if fn.name == "handler" and len(fn.outputs) == outputs)
        for outputs in (12, 4)
    )
    second = other_window(ran, 1, "1.2")
    assert second[0]["value"] == 1 and second[8]["value"] == "1.2" and second[1] != stations
    heads, about, figure, said = other_heads(ran, 1, "all")
    assert heads["value"] == "all" and figure["visible"] and "Queries down" in about and said == ""
    looks: list[Any] = []
    monkeypatch.setattr(speech, "look_inside", lambda *given: looks.append(given))
    (update,) = handlers(tab, "update", 13)
    assert update(False, ran, None) == (gr.skip(),) * 13 and looks == []
    *_, said = update(True, None, None)
    assert "Nothing has run" in said and looks == []
    assert other_window(None, 1, None)[:-1] == (gr.skip(),) * 11


def test_pieces_of_a_run_are_told_at_its_end(models):
    steps = list(speech.run(str(speech.CLIP), "word", None, "transcribe", "starter", models))
    assert all(step.pieces == () for step in steps[:-1])
    (piece,) = steps[-1].pieces
    assert isinstance(piece, Piece) and piece.words == steps[-1].segments
