"""Speech: which words were said, and when?

Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision") hears 30 s
at a time. Longer recordings are cut at pauses into stretches that are decoded together. A stretch
without a pause for more than 30 s is done as in section 4.5 of the paper: decode with timestamps, move
on to the end of the last complete segment, so that a word at the edge is heard again in full.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from components import audio, pauses
from components.errors import InputError
from components.progress import Stopped, never
from components.transcripts import Segment
from components.windows import Decoded, Engine, Window, is_multilingual, token_ends

if TYPE_CHECKING:
    from components.models import Loaded

TIMESTAMPS = ("none", "segment", "word")
TASKS = ("transcribe", "translate")

STEP = 0.02  # seconds from one timestamp token to the next, and per encoder position
MULTILINGUAL_VOCABULARY = 51_865  # tokens; the English-only checkpoints have one less
Span = tuple[int, int, float, float]  # first token and the one after the last, start and end in seconds
SHORTEST_REST = 5.0  # seconds; less before a pause is heard again together with the segment before it
SHORTEST_ADVANCE = 1.0  # seconds; a window that would move on by less is taken as it stands
FIRST = 0.5  # of a window; the first stretch is shorter than the others, so that text appears soon

# When is a window's text not to be believed? The signs are those of section 4.5 of the paper.
REPETITIVE_ABOVE = 2.4  # zlib compression ratio of the text, as in the paper
# A speaker may repeat a sentence; a decoder caught in a loop writes until it is cut off, which is 7.4
# tokens for each second of a full window, and more in a short one. Fast speech has 5.
LOOP_ABOVE = 6.5  # tokens per second
NO_SPEECH_ABOVE = 0.6  # probability of <|nospeech|>, as in the paper
# Mean log-probability of a token. The paper's -1 lets short noises through, which come out as "you" at
# -0.9 with <|nospeech|> at 0.7 to 0.9; clear speech is at -0.2.
NO_SPEECH_UNSURE_BELOW = -0.6
LOST_BELOW = -1.5  # tones and music come out as one letter at -2; speech as loud as noise is at -1


@dataclass(frozen=True)
class Piece:
    """What one window of up to 30 s brought.

    text: as the decoder wrote it, mostly with a leading space; all of them joined, then stripped, are
    the transcript. segments: phrases with times in the recording; words: likewise, only if asked for.
    language: its code, None for English-only checkpoints. done of total: seconds of the recording.
    left_out: why there is no text: "", "silence", "no speech" or "unclear". tokens: all that the decoder
    wrote after the prompt, without end of text, whether taken or not; window: what it heard, in samples of
    the recording (start, end).
    """

    text: str
    segments: tuple[Segment, ...]
    words: tuple[Segment, ...]
    language: str | None
    done: float
    total: float
    left_out: str = ""
    tokens: tuple[int, ...] = ()
    window: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Request:
    """What is asked of each window; language None: to be detected, or English-only."""

    words: bool
    language: str | None
    task: str
    stop: Stopped


def languages(model: Any) -> dict[str, str]:
    """Language code -> English name, sorted by name; empty for English-only checkpoints."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    if not is_multilingual(model):
        return {}
    codes = [token.strip("<|>") for token in model.generation_config.lang_to_id]
    return dict(
        sorted(((code, LANGUAGES.get(code, code).title()) for code in codes), key=lambda item: item[1])
    )


def transcribe(
    loaded: Loaded,
    samples: np.ndarray,
    *,
    timestamps: str = "segment",
    language: str | None = None,
    task: str = "transcribe",
    stop: Stopped = never,
) -> Iterator[Piece]:
    """Transcribes a recording of any length, one Piece after another.

    loaded: a WhisperForConditionalGeneration with its processor; samples: float32 [samples], mono, 16 kHz.
    language: a code of `languages(model)`, None to detect it in the first window with speech. task
    "translate": into English. Once stop() is true what is under way is given up and nothing more comes;
    it is asked before each step of the decoder. Raises InputError at once where the checkpoint cannot do
    what is asked.
    """
    _check(loaded.model, timestamps, language, task)
    known = language if is_multilingual(loaded.model) else None
    return _pieces(loaded, samples, Request(timestamps == "word", known, task, stop))


def _check(model: Any, timestamps: str, language: str | None, task: str) -> None:
    if timestamps not in TIMESTAMPS:
        raise InputError(f"Timestamps can be {', '.join(TIMESTAMPS[:-1])} or {TIMESTAMPS[-1]}.")
    if task not in TASKS:
        raise InputError(f"The task can be {' or '.join(TASKS)}.")
    known = languages(model)
    if task == "translate" and not known:
        raise InputError(
            "This checkpoint knows English only and cannot translate. Choose a multilingual one, such as "
            "openai/whisper-base, or transcribe."
        )
    if not isinstance(language, str | None):
        raise InputError("The language is a code of the list.")
    if language is not None and known and language not in known:
        raise InputError(
            f"This checkpoint does not know the language “{language[:40]}”. Choose one of its list."
        )
    if language not in (None, "en") and not known:
        raise InputError(
            "This checkpoint knows English only. Choose a multilingual one, such as openai/whisper-base."
        )
    if getattr(model.generation_config, "no_timestamps_token_id", None) is None:
        raise InputError(
            "This checkpoint does not say which of its tokens are timestamps. Choose another, such as "
            "openai/whisper-base.en."
        )
    if model.config.vocab_size >= MULTILINGUAL_VOCABULARY and not known:
        raise InputError(
            "This checkpoint does not list its languages. Choose another, such as openai/whisper-base."
        )
    if timestamps == "word" and not getattr(model.generation_config, "alignment_heads", None):
        raise InputError(
            "This checkpoint does not say which attention heads follow the sound, so there are no word "
            "times. Ask for segments, or choose another checkpoint."
        )


@dataclass(eq=False)
class _Stretch:
    """A part of the recording, in samples: done up to `at`, with one window under way at most."""

    at: int
    end: int
    window: Window | None = None
    pieces: deque[Piece] = field(default_factory=deque)


def _pieces(loaded: Loaded, samples: np.ndarray, request: Request) -> Iterator[Piece]:
    """The pieces of all stretches, in order; several of them are under way at once."""
    engine = loaded.share(Engine)
    most = loaded.processor.feature_extractor.n_samples
    stretches = deque(_Stretch(*part) for part in pauses.cut(samples, most, round(FIRST * most)))
    begun = False
    try:
        while stretches and not request.stop():
            # The first window goes alone: its text comes soonest, and it tells the language.
            told = request.language is not None or not is_multilingual(loaded.model)
            unfinished = (stretch for stretch in stretches if stretch.at < stretch.end)
            current = list(islice(unfinished, engine.ahead if begun and told else 1))
            for stretch in current:
                _go_on(loaded, engine, samples, stretch, request)
            windows = [stretch.window for stretch in current if stretch.window]
            if windows and not stretches[0].pieces:
                engine.wait(windows)
            for stretch in current:
                if (window := stretch.window) and window.done:
                    begun = True
                    request = _take(loaded, samples, stretch, window, request)
            while stretches and (stretches[0].pieces or stretches[0].at >= stretches[0].end):
                if stretches[0].pieces:
                    yield stretches[0].pieces.popleft()
                else:
                    stretches.popleft()
    finally:
        engine.withdraw([stretch.window for stretch in stretches if stretch.window])


def _go_on(loaded: Loaded, engine: Engine, samples: np.ndarray, stretch: _Stretch, request: Request) -> None:
    """Has the next window of a stretch decoded, unless one is under way; silence is passed over."""
    most = loaded.processor.feature_extractor.n_samples
    total = samples.size / audio.RATE
    while stretch.at < stretch.end and stretch.window is None:
        begin = stretch.at
        stretch.at += audio.leading_silence(samples[stretch.at : min(stretch.at + most, stretch.end)])
        sound = samples[stretch.at : min(stretch.at + most, stretch.end)]
        if audio.is_silent(sound):
            stretch.at += sound.size
            silent = max(begin, stretch.at - most), stretch.at
            done = stretch.at / audio.RATE
            stretch.pieces.append(Piece("", (), (), request.language, done, total, "silence", window=silent))
            continue
        seconds = sound.size / audio.RATE

        def loops(decoded: Decoded, seconds: float = seconds) -> bool:
            text = _text(loaded.processor.tokenizer, decoded.tokens)
            return _loops(text, decoded, seconds) and decoded.no_speech <= NO_SPEECH_ABOVE

        stretch.window = Window(sound, request.language, request.task, request.words, request.stop, loops)
        engine.submit(stretch.window)


def _take(
    loaded: Loaded, samples: np.ndarray, stretch: _Stretch, window: Window, request: Request
) -> Request:
    """The piece of a window that is done, and the request with its language where that was not known."""
    stretch.window = None
    heard = stretch.at, stretch.at + window.samples.size
    if window.error:
        raise window.error
    decoded = window.decoded
    if decoded is None:  # stopped
        return request
    ends = token_ends(loaded.model, decoded, window.samples.size) if request.words else ()
    begin, seconds = _timestamp_begin(loaded.model), window.samples.size / audio.RATE
    spans, advance = _spans(decoded.tokens, begin, seconds)
    rest = stretch.at + round(advance * audio.RATE)
    if stretch.at + window.samples.size == stretch.end and rest < stretch.end:
        if pauses.is_one(samples, rest, stretch.end):
            advance = seconds
        elif seconds - advance < SHORTEST_REST and spans[-1][2] >= SHORTEST_ADVANCE:
            advance = spans.pop()[2]
    piece, advance = _piece(loaded.processor.tokenizer, decoded, ends, spans, advance, seconds)
    if piece.text and request.language is None:
        request = replace(request, language=decoded.language)
    piece = _shifted(piece, stretch.at / audio.RATE)
    stretch.at = min(stretch.at + max(1, round(advance * audio.RATE)), stretch.end)
    done, total = stretch.at / audio.RATE, samples.size / audio.RATE
    stretch.pieces.append(replace(piece, done=done, total=total, window=heard))
    return request


def _piece(
    tokenizer: Any,
    decoded: Decoded,
    ends: tuple[float, ...],
    spans: list[Span],
    advance: float,
    seconds: float,
) -> tuple[Piece, float]:
    """The piece of a window of so many seconds, with times in the window, and how far to move on.

    ends: where each token ends, in seconds, for word times; spans, advance: as of `_spans`.
    """
    empty = Piece("", (), (), decoded.language, seconds, seconds, tokens=decoded.tokens)
    left_out = _left_out(_text(tokenizer, decoded.tokens), decoded, seconds)
    if left_out:
        return replace(empty, left_out=left_out), seconds
    text = "".join(_text(tokenizer, decoded.tokens[first:last]) for first, last, _, _ in spans)
    segments = tuple(
        Segment(said, start, end)
        for first, last, start, end in spans
        if (said := _text(tokenizer, decoded.tokens[first:last]).strip())
    )
    words = tuple(word for span in spans for word in _words(tokenizer, decoded, ends, span))
    return replace(empty, text=text, segments=segments, words=words), advance


def _left_out(text: str, decoded: Decoded, seconds: float) -> str:
    """Why the text of a window of so many seconds is not to be believed; "" where it is."""
    if not any(letter.isalnum() for letter in text):
        return "no speech"
    if decoded.no_speech > NO_SPEECH_ABOVE and decoded.logprob < NO_SPEECH_UNSURE_BELOW:
        return "no speech"
    lost = decoded.logprob < LOST_BELOW or _loops(text, decoded, seconds)
    return "unclear" if lost else ""


def _loops(text: str, decoded: Decoded, seconds: float) -> bool:
    """Whether the text repeats itself, and faster than anybody speaks."""
    return compression_ratio(text) > REPETITIVE_ABOVE and len(decoded.tokens) > LOOP_ABOVE * seconds


def compression_ratio(text: str) -> float:
    """Bytes of the text by bytes of its zlib compression: high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _spans(tokens: tuple[int, ...], begin: int, seconds: float) -> tuple[list[Span], float]:
    """Splits tokens at the timestamps, whose ids start at `begin`.

    Gives (first, last, start, end) of each stretch of text, in seconds of the window, and the advance.
    Where the window ends in the middle of a segment, that segment is dropped and the advance goes back
    to its beginning; else the advance is the whole window.
    """
    spans = []
    first, start = 0, 0.0
    for position, token in enumerate(tokens):
        if token < begin:
            continue
        time = min((token - begin) * STEP, seconds)
        if position > first:
            spans.append((first, position, start, time))
        first, start = position + 1, time
    if first == len(tokens) and not (len(tokens) > 1 and tokens[-2] >= begin):
        return spans, seconds
    if spans and spans[-1][3] >= SHORTEST_ADVANCE:
        return spans, spans[-1][3]
    if first < len(tokens):
        spans.append((first, len(tokens), start, seconds))
    return spans, seconds


def _words(tokenizer: Any, decoded: Decoded, token_ends: tuple[float, ...], span: Span) -> Iterator[Segment]:
    """Groups tokens into words as the tokenizer does; times are kept within the segment's."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, _combine_tokens_into_words

    if not token_ends:
        return
    first, last, start, end = span
    name = LANGUAGES.get(decoded.language or "en", "english")
    texts, _, positions = _combine_tokens_into_words(tokenizer, list(decoded.tokens[first:last]), name)
    for text, indices in zip(texts, positions, strict=True):
        begins = token_ends[first + indices[0] - 1] if first + indices[0] else start
        voiced = [
            i for i in indices if _is_voiced(_text(tokenizer, decoded.tokens[first + i : first + i + 1]))
        ]
        ends = token_ends[first + (voiced or indices)[-1]]
        begins = min(max(begins, start), end)
        if text.strip():
            yield Segment(text.strip(), begins, min(max(ends, begins), end))


def taken(model: Any, piece: Piece) -> list[Span]:
    """The stretches of a piece's tokens that are its text; the others are heard again, or were left out.

    Each is (first, last, start, end): tokens from first up to last, and seconds of the window.
    """
    if piece.left_out:
        return []
    start, end = (edge / audio.RATE for edge in piece.window)
    spans, _ = _spans(piece.tokens, _timestamp_begin(model), end - start)
    until = piece.done if piece.done < end - STEP / 2 else np.inf
    return [span for span in spans if start + span[2] < until - STEP / 2]


def words_of(loaded: Loaded, piece: Piece, ends: tuple[float, ...]) -> tuple[Segment, ...]:
    """The words of a piece with times in the recording. ends: as of `token_ends`, () where there are none."""
    decoded = Decoded(piece.tokens, 0.0, 0.0, piece.language)
    spans = taken(loaded.model, piece)
    words = (word for span in spans for word in _words(loaded.processor.tokenizer, decoded, ends, span))
    return _shifted(replace(piece, words=tuple(words)), piece.window[0] / audio.RATE).words


def _is_voiced(text: str) -> bool:
    """Whether a token is more than punctuation, to which the pause after a word is attributed."""
    return any(letter.isalnum() or letter == "\ufffd" for letter in text)


def _timestamp_begin(model: Any) -> int:
    return model.generation_config.no_timestamps_token_id + 1


def _text(tokenizer: Any, tokens: tuple[int, ...]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True)


def _shifted(piece: Piece, seconds: float) -> Piece:
    def later(items: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return tuple(Segment(i.text, round(i.start + seconds, 3), round(i.end + seconds, 3)) for i in items)

    return replace(piece, segments=later(piece.segments), words=later(piece.words))
