"""Speech: which words were said, and when?

Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision") hears 30 s
at a time. Longer recordings are cut at pauses into stretches that are decoded together. A stretch
without a pause for more than 30 s is done as in section 4.5 of the paper: decode with timestamps, move
on to the end of the last complete segment, so that a word at the edge is heard again in full.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from components.compute.transcripts import Segment
from components.compute.windows import Decoded, Engine, Window, is_multilingual, token_ends
from components.errors import InputError
from components.inputs import audio, pauses, voice
from components.progress import Stopped, never

if TYPE_CHECKING:
    from components.models.manager import Loaded

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
# A speaker may repeat a sentence, of which the model is as sure as of any other; a decoder caught in a loop
# writes until it is cut off, which is 7.4 tokens for each second of a full window, and more in a short one,
# or says a sentence of which it is unsure again and again. Fast speech has 5 tokens per second.
LOOP_ABOVE = 6.5  # tokens per second
UNSURE_SHARE = 0.8  # of it, where it is not sure: a sentence three times has 2, half a minute of a text 1.8
LOOP_UNSURE_BELOW = -0.5  # mean log-probability; repeated sentences are at -0.3, invented ones at -0.7 to -1
NO_SPEECH_ABOVE = 0.6  # probability of <|nospeech|>, as in the paper
# Mean log-probability of a token. The paper's -1 lets short noises through, which come out as "you" at
# -0.9 with <|nospeech|> at 0.7 to 0.9; clear speech is at -0.2.
NO_SPEECH_UNSURE_BELOW = -0.6
LOST_BELOW = -1.5  # tones and music come out as one letter at -2; speech as loud as noise is at -1
LOST_AGAIN_BELOW = -1.0  # likewise for what was drawn at a higher temperature; the paper's threshold

# When does speech not seem to be English, to a checkpoint that knows nothing else? Of 40 clips, of English,
# some of it synthetic or noisy, and of music, none is on the far side of the first two; of 27 synthetic ones
# in eight other languages 26 are. What goes beyond was set to the last of these, and measured on no others.
FOREIGN_BELOW = -0.7  # mean log-probability
FOREIGN_ABOVE = 0.1  # probability of <|nospeech|>
FOREIGN_ANYWAY_BELOW = -1.0  # mean log-probability, whatever that of <|nospeech|> is
FOREIGN_SECONDS = 1.5  # of voice; less is too little to tell

# When do times begin before the voice? Where a phrase or a word is too slow for what is said in it.
SLOW_BELOW = 12.0  # characters per second; speech has 14, slow speech 10
LONG_WORD = 1.0  # seconds
EARLY = 0.5  # seconds; a start that is earlier by less stays
BEFORE_VOICE = 0.1  # seconds that a sound begins before a voice is made out
SHORTEST_WORD, SHORTEST_SEGMENT = 0.04, 0.1  # seconds, where there is room


@dataclass(frozen=True)
class Piece:
    """What one window of up to 30 s brought.

    text: as the decoder wrote it, mostly with a leading space; all of them joined, then stripped, are
    the transcript. segments: phrases with times in the recording; words: likewise, only if asked for.
    language: its code, None for English-only checkpoints. done of total: seconds of the recording.
    left_out: why there is no text: "", "silence", "no speech" or "unclear". logprob, no_speech: as `Decoded`
    has them. tokens: all that the decoder wrote after the prompt, without end of text, whether taken or not;
    window: what it heard, in samples of the recording (start, end).
    """

    text: str
    segments: tuple[Segment, ...]
    words: tuple[Segment, ...]
    language: str | None
    done: float
    total: float
    left_out: str = ""
    logprob: float = 0.0
    no_speech: float = 0.0
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
        ahead = samples[stretch.at : min(stretch.at + most, stretch.end)]
        passed, sound = _audible(ahead)
        stretch.at += passed
        if sound is None:
            stretch.at += ahead.size
            silent = max(begin, stretch.at - most), stretch.at
            done = stretch.at / audio.RATE
            stretch.pieces.append(Piece("", (), (), request.language, done, total, "silence", window=silent))
            continue
        seconds = sound.size / audio.RATE

        def loops(decoded: Decoded, seconds: float = seconds) -> bool:
            text = _text(loaded.processor.tokenizer, decoded.tokens)
            return _loops(text, decoded, seconds) and decoded.no_speech <= NO_SPEECH_ABOVE

        stretch.window = Window(
            audio.raised(sound), request.language, request.task, request.words, request.stop, loops
        )
        engine.submit(stretch.window)


def _audible(sound: np.ndarray) -> tuple[int, np.ndarray | None]:
    """How many samples to pass over, and what to hear after them; None where there is nothing to hear.

    sound: what a window may hold. Silence is passed over, unless somebody speaks softly in it: that is heard
    by itself, since beside louder speech the model would not hear it.
    """
    for start, end in audio.quiet_runs(sound):
        if voice.is_heard(sound[start:end]):
            sound = sound[: start or end]
            break
    if audio.is_silent(sound):
        return 0, sound if voice.is_heard(sound) else None
    passed = audio.leading_silence(audio.raised(sound))
    return passed, sound[passed:]


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
    piece, advance = _piece(
        loaded.processor.tokenizer, decoded, ends, spans, advance, seconds, Voices(window.samples)
    )
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
    voices: Voices,
) -> tuple[Piece, float]:
    """The piece of a window of so many seconds, with times in the window, and how far to move on.

    ends: where each token ends, in seconds, for word times; spans, advance: as of `_spans`; voices: of the
    window.
    """
    empty = Piece(
        "",
        (),
        (),
        decoded.language,
        seconds,
        seconds,
        tokens=decoded.tokens,
        logprob=decoded.logprob,
        no_speech=decoded.no_speech,
    )
    left_out = _left_out(_text(tokenizer, decoded.tokens), decoded, seconds)
    if left_out:
        return replace(empty, left_out=left_out), seconds
    text = "".join(_text(tokenizer, decoded.tokens[first:last]) for first, last, _, _ in spans)
    spans = _timed(tokenizer, decoded.tokens, spans, voices, seconds)
    segments = tuple(
        Segment(said, start, end)
        for first, last, start, end in spans
        if (said := _text(tokenizer, decoded.tokens[first:last]).strip())
    )
    words = tuple(word for span in spans for word in _words(tokenizer, decoded, ends, span, voices))
    return replace(empty, text=text, segments=segments, words=words), advance


def _left_out(text: str, decoded: Decoded, seconds: float) -> str:
    """Why the text of a window of so many seconds is not to be believed; "" where it is."""
    if not any(letter.isalnum() for letter in text):
        return "no speech"
    if decoded.no_speech > NO_SPEECH_ABOVE and decoded.logprob < NO_SPEECH_UNSURE_BELOW:
        return "no speech"
    lost_below = LOST_AGAIN_BELOW if decoded.temperature else LOST_BELOW
    lost = decoded.logprob < lost_below or _loops(text, decoded, seconds)
    return "unclear" if lost else ""


def _loops(text: str, decoded: Decoded, seconds: float) -> bool:
    """Whether the text repeats itself, and either faster than anybody speaks or without being sure of it."""
    ratio = compression_ratio(text)
    if decoded.logprob < LOOP_UNSURE_BELOW:
        return ratio > UNSURE_SHARE * REPETITIVE_ABOVE
    return ratio > REPETITIVE_ABOVE and len(decoded.tokens) > LOOP_ABOVE * seconds


def seems_foreign(samples: np.ndarray, pieces: Sequence[Piece]) -> bool:
    """Whether speech that an English-only checkpoint wrote down does not seem to be English.

    There it is unsure of every token, mostly not even sure that it hears speech, or catches itself in a loop.
    Half of what was heard has to be like that, and somebody has to speak in it. samples: the recording,
    float32 [samples], mono, 16 kHz.
    """
    heard = [piece for piece in pieces if piece.tokens]
    unsure = [piece for piece in heard if _is_unsure(piece)]
    if not unsure or sum(_length(one) for one in unsure) < sum(_length(one) for one in heard) / 2:
        return False
    return any(
        sum(high - low for low, high in voice.spans(audio.raised(samples[slice(*piece.window)])))
        >= FOREIGN_SECONDS * audio.RATE
        for piece in unsure
    )


def _is_unsure(piece: Piece) -> bool:
    if piece.no_speech <= FOREIGN_ABOVE:
        return piece.logprob < FOREIGN_ANYWAY_BELOW
    return piece.logprob < FOREIGN_BELOW or piece.left_out == "unclear"


def _length(piece: Piece) -> int:
    """Samples of its window."""
    return piece.window[1] - piece.window[0]


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


class Voices:
    """Where somebody speaks in a window, found out when it is first asked for. samples: float32 [samples]."""

    def __init__(self, samples: np.ndarray) -> None:
        self._samples = samples

    @cached_property
    def _spans(self) -> list[tuple[float, float]]:
        return [(low / audio.RATE, high / audio.RATE) for low, high in voice.spans(self._samples)]

    def begin(self, start: float, end: float, word: bool = False) -> float:
        """The start of a phrase or a word in seconds, or that of its voice where that is clearly later.

        A word is said at its end: of several voices it is the last one, of a phrase the first.
        """
        found = [low - BEFORE_VOICE for low, high in self._spans if low < end - STEP and high > start + STEP]
        voiced = found[-1 if word else 0] if found else start
        return voiced if voiced - start > EARLY else start


def _timed(
    tokenizer: Any, tokens: tuple[int, ...], spans: list[Span], voices: Voices, seconds: float
) -> list[Span]:
    """The same spans, none of which begins before its voice or has no length. seconds: of the window."""
    timed: list[Span] = []
    for first, last, start, end in spans:
        said = len(_text(tokenizer, tokens[first:last]))
        if end - start > LONG_WORD and said < SLOW_BELOW * (end - start):
            start = voices.begin(start, end)
        timed.append((first, last, start, end))
    starts, ends = _spread(
        [span[2] for span in timed], [span[3] for span in timed], 0.0, seconds, SHORTEST_SEGMENT
    )
    return [(first, last, a, b) for (first, last, _, _), a, b in zip(timed, starts, ends, strict=True)]


def _spread(
    starts: list[float], ends: list[float], low: float, high: float, shortest: float
) -> tuple[list[float], list[float]]:
    """The same times in order, each at least so long, as far as there is room between low and high."""
    shortest = min(shortest, max(0.0, high - low) / max(1, len(starts)))
    reached = low
    for i in range(len(starts)):
        starts[i] = max(starts[i], reached)
        reached = ends[i] = max(ends[i], starts[i] + shortest)
    reached = high
    for i in reversed(range(len(starts))):
        ends[i] = min(ends[i], reached)
        reached = starts[i] = min(starts[i], ends[i] - shortest)
    return starts, ends


def _words(
    tokenizer: Any,
    decoded: Decoded,
    token_ends: tuple[float, ...],
    span: Span,
    voices: Voices | None = None,
) -> Iterator[Segment]:
    """Groups tokens into words as the tokenizer does; times are kept within the segment's."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, _combine_tokens_into_words

    if not token_ends:
        return
    first, last, start, end = span
    name = LANGUAGES.get(decoded.language or "en", "english")
    texts, _, positions = _combine_tokens_into_words(tokenizer, list(decoded.tokens[first:last]), name)
    said: list[str] = []
    starts: list[float] = []
    finishes: list[float] = []
    for text, indices in zip(texts, positions, strict=True):
        begins = token_ends[first + indices[0] - 1] if first + indices[0] else start
        voiced = [
            i for i in indices if _is_voiced(_text(tokenizer, decoded.tokens[first + i : first + i + 1]))
        ]
        ends = token_ends[first + (voiced or indices)[-1]]
        begins = min(max(begins, start), end)
        ends = min(max(ends, begins), end)
        if voices and ends - begins > LONG_WORD:
            begins = voices.begin(begins, ends, word=True)
        if text.strip():
            said.append(text.strip())
            starts.append(begins)
            finishes.append(ends)
    starts, finishes = _spread(starts, finishes, start, end, SHORTEST_WORD)
    yield from map(Segment, said, starts, finishes)


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


def words_of(
    loaded: Loaded, piece: Piece, ends: tuple[float, ...], samples: np.ndarray
) -> tuple[Segment, ...]:
    """The words of a piece with times in the recording.

    ends: as of `token_ends`, () where there are none; samples: what the window heard.
    """
    decoded, voices = Decoded(piece.tokens, 0.0, 0.0, piece.language), Voices(samples)
    tokenizer, seconds = loaded.processor.tokenizer, samples.size / audio.RATE
    spans = _timed(tokenizer, piece.tokens, taken(loaded.model, piece), voices, seconds)
    words = (word for span in spans for word in _words(tokenizer, decoded, ends, span, voices))
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
