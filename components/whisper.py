"""Speech: which words were said, and when?

Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision") hears 30 s
at a time. Longer recordings are done as in section 4.5 of the paper: decode with timestamps, move on to
the end of the last complete segment, so that a word at the edge is heard again in full.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from components import audio
from components.errors import InputError
from components.transcripts import Segment

if TYPE_CHECKING:
    import torch

TIMESTAMPS = ("none", "segment", "word")
TASKS = ("transcribe", "translate")

HOP = 160  # samples from one frame of the spectrogram to the next
GREEDY: dict[str, Any] = {"num_beams": 1}
UNREPEATED: dict[str, Any] = {"num_beams": 1, "no_repeat_ngram_size": 4}  # a second try, out of a loop

STEP = 0.02  # seconds from one timestamp token to the next, and per encoder position
MULTILINGUAL_VOCABULARY = 51_865  # tokens; the English-only checkpoints have one less
SHORTEST_ADVANCE = 1.0  # seconds; a window that would move on by less is taken as it stands

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
    left_out: why there is no text: "", "silence", "no speech" or "unclear".
    """

    text: str
    segments: tuple[Segment, ...]
    words: tuple[Segment, ...]
    language: str | None
    done: float
    total: float
    left_out: str = ""


@dataclass(frozen=True)
class Request:
    """What is asked of each window; language None: to be detected, or English-only."""

    words: bool
    language: str | None
    task: str
    stop: Callable[[], bool]


@dataclass(frozen=True)
class Decoded:
    """tokens: those after the prompt, without end of text; ends: where each ends, seconds, if asked for."""

    tokens: tuple[int, ...]
    ends: tuple[float, ...]
    logprob: float
    no_speech: float
    language: str | None


def languages(model: Any) -> dict[str, str]:
    """Language code -> English name, sorted by name; empty for English-only checkpoints."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    if not _is_multilingual(model):
        return {}
    codes = [token.strip("<|>") for token in model.generation_config.lang_to_id]
    return dict(
        sorted(((code, LANGUAGES.get(code, code).title()) for code in codes), key=lambda item: item[1])
    )


def transcribe(
    model: Any,
    processor: Any,
    samples: np.ndarray,
    *,
    timestamps: str = "segment",
    language: str | None = None,
    task: str = "transcribe",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Piece]:
    """Transcribes a recording of any length, one Piece after another.

    model: WhisperForConditionalGeneration; samples: float32 [samples], mono, 16 kHz. language: a code of
    `languages(model)`, None to detect it in the first window with speech. task "translate": into English.
    Once stop() is true the window under way is given up and nothing more comes; it is asked after each
    token. Raises InputError at once where the checkpoint cannot do what is asked.
    """
    _check(model, timestamps, language, task)
    request = Request(timestamps == "word", language if languages(model) else None, task, stop)
    return _pieces(model, processor, samples, request)


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
    if language is not None and known and language not in known:
        raise InputError(f"This checkpoint does not know the language “{language}”. Choose one of its list.")
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


def _pieces(model: Any, processor: Any, samples: np.ndarray, request: Request) -> Iterator[Piece]:
    aligner = _aligner(model) if request.words else None
    total = samples.size / audio.RATE
    window_size = processor.feature_extractor.n_samples
    at = 0
    while at < samples.size and not request.stop():
        at += audio.leading_silence(samples[at : at + window_size])
        window = samples[at : at + window_size]
        if audio.is_silent(window):
            at += window.size
            yield Piece("", (), (), request.language, min(at / audio.RATE, total), total, "silence")
            continue
        decoded = _decode(model, aligner, processor, window, request)
        if decoded is None:
            return
        piece, advance = _piece(model, processor, decoded, window.size / audio.RATE)
        if piece.text and request.language is None:
            request = replace(request, language=decoded.language)
        piece = _shifted(piece, at / audio.RATE)
        at = min(at + max(1, round(advance * audio.RATE)), samples.size)
        yield replace(piece, done=at / audio.RATE, total=total)


def _piece(model: Any, processor: Any, decoded: Decoded, seconds: float) -> tuple[Piece, float]:
    """The piece of a window of so many seconds, with times in the window, and how far to move on."""
    tokenizer = processor.tokenizer
    spans, advance = _spans(decoded.tokens, _timestamp_begin(model), seconds)
    empty = Piece("", (), (), decoded.language, seconds, seconds)
    left_out = _left_out(_text(tokenizer, decoded.tokens), decoded, seconds)
    if left_out:
        return replace(empty, left_out=left_out), seconds
    text = "".join(_text(tokenizer, decoded.tokens[first:last]) for first, last, _, _ in spans)
    segments = tuple(
        Segment(said, start, end)
        for first, last, start, end in spans
        if (said := _text(tokenizer, decoded.tokens[first:last]).strip())
    )
    words = tuple(word for span in spans for word in _words(tokenizer, decoded, span))
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


def _spans(
    tokens: tuple[int, ...], begin: int, seconds: float
) -> tuple[list[tuple[int, int, float, float]], float]:
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


def _words(tokenizer: Any, decoded: Decoded, span: tuple[int, int, float, float]) -> Iterator[Segment]:
    """Groups tokens into words as the tokenizer does; times are kept within the segment's."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, _combine_tokens_into_words

    if not decoded.ends:
        return
    first, last, start, end = span
    name = LANGUAGES.get(decoded.language or "en", "english")
    texts, _, positions = _combine_tokens_into_words(tokenizer, list(decoded.tokens[first:last]), name)
    for text, indices in zip(texts, positions, strict=True):
        begins = decoded.ends[first + indices[0] - 1] if first + indices[0] else start
        voiced = [
            i for i in indices if _is_voiced(_text(tokenizer, decoded.tokens[first + i : first + i + 1]))
        ]
        ends = decoded.ends[first + (voiced or indices)[-1]]
        begins = min(max(begins, start), end)
        if text.strip():
            yield Segment(text.strip(), begins, min(max(ends, begins), end))


def _is_voiced(text: str) -> bool:
    """Whether a token is more than punctuation, to which the pause after a word is attributed."""
    return any(letter.isalnum() or letter == "\ufffd" for letter in text)


def _decode(model: Any, aligner: Any, processor: Any, window: np.ndarray, request: Request) -> Decoded | None:
    """Encodes and decodes one window; None where it was stopped. The only place that computes."""
    import torch

    with torch.inference_mode():
        states = _encode(model, processor, window)
        no_speech, language = _first_step(model, states, request.language)
        for search in GREEDY, UNREPEATED:
            if request.stop():
                return None
            decoded = _generate(aligner or model, states, window.size, request, language, search)
            decoded = replace(decoded, no_speech=no_speech)
            text = _text(processor.tokenizer, decoded.tokens)
            if not _loops(text, decoded, window.size / audio.RATE) or no_speech > NO_SPEECH_ABOVE:
                break
    return None if request.stop() else decoded


def _encode(model: Any, processor: Any, window: np.ndarray) -> torch.Tensor:
    """[samples] -> log-Mel spectrogram [1, bins, frames] -> encoder states [1, positions, hidden]."""
    features = processor.feature_extractor(window, sampling_rate=audio.RATE, return_tensors="pt")
    return model.get_encoder()(features.input_features.to(model.device, model.dtype)).last_hidden_state


def _outputs(states: torch.Tensor) -> Any:
    """A new one for each call: generate repeats its content in place for the beams."""
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=states)


def _first_step(model: Any, states: torch.Tensor, language: str | None) -> tuple[float, str | None]:
    """After <|startoftranscript|>: the probability of <|nospeech|>, and the language where not given."""
    import torch

    config = model.generation_config
    start = torch.tensor([[config.decoder_start_token_id]], device=model.device)
    output = model(encoder_outputs=_outputs(states), decoder_input_ids=start, use_cache=False)
    logits = output.logits[0, -1].float()
    no_speech = float(logits.softmax(-1)[config.no_timestamps_token_id - 1])
    if language is None and _is_multilingual(model):
        token = max(config.lang_to_id, key=lambda token: float(logits[config.lang_to_id[token]]))
        language = token.strip("<|>")
    return no_speech, language


def _generate(
    model: Any,
    states: torch.Tensor,
    size: int,
    request: Request,
    language: str | None,
    search: dict[str, Any],
) -> Decoded:
    """One decoding with timestamps of a window of `size` samples; search: how."""
    import torch
    from transformers import StoppingCriteriaList

    config = copy.deepcopy(model.generation_config)
    config.forced_decoder_ids = config.max_new_tokens = None
    config.update(max_length=model.config.max_target_positions // 2, **search)
    config.update(output_scores=True, return_dict_in_generate=True)
    multilingual = _is_multilingual(model)
    frames = torch.ones(1, max(2, size // HOP), dtype=torch.long, device=model.device)
    output = model.generate(
        generation_config=config,
        encoder_outputs=_outputs(states),
        attention_mask=frames,  # only its sum is used, for the word times
        return_timestamps=True,
        return_token_timestamps=request.words or None,
        return_dict_in_generate=True,
        force_unique_generate_call=True,
        stopping_criteria=StoppingCriteriaList([_stopper(request.stop)]),
        language=f"<|{language}|>" if multilingual else None,
        task=request.task if multilingual else None,
    )
    prompt = 3 if multilingual else 1  # start of transcript, language, task
    tokens = output["sequences"][0, prompt:].tolist()
    if "sequences_scores" in output:
        logprob = float(output["sequences_scores"][0])
    else:
        steps = zip(output["scores"], tokens, strict=False)
        logprob = float(np.mean([step[0].float().log_softmax(-1)[token].item() for step, token in steps]))
    ends = output["token_timestamps"][0, prompt:].tolist() if request.words else []
    if model.generation_config.eos_token_id in tokens:
        tokens = tokens[: tokens.index(model.generation_config.eos_token_id)]
    return Decoded(tuple(tokens), tuple(ends), logprob, 0.0, language)


def _stopper(stop: Callable[[], bool]) -> Callable[..., torch.Tensor]:
    import torch

    def criterion(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), stop(), dtype=torch.bool, device=input_ids.device)

    return criterion


def _is_multilingual(model: Any) -> bool:
    config = model.generation_config
    return bool(getattr(config, "is_multilingual", True) and getattr(config, "lang_to_id", None))


def _timestamp_begin(model: Any) -> int:
    return model.generation_config.no_timestamps_token_id + 1


def _text(tokenizer: Any, tokens: tuple[int, ...]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True)


def _aligner(model: Any) -> Any:
    """The same weights with attention that can be read, without slowing down the model for others."""
    if model.config._attn_implementation == "eager":
        return model
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    twin.set_attn_implementation("eager")
    return twin


def _shifted(piece: Piece, seconds: float) -> Piece:
    def later(items: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return tuple(Segment(i.text, round(i.start + seconds, 3), round(i.end + seconds, 3)) for i in items)

    return replace(piece, segments=later(piece.segments), words=later(piece.words))
