"""Windows: stretches of up to 30 s of sound, decoded by Whisper together for all who wait.

There is one engine for each loaded model. A visitor's thread that finds nobody at work leads: turn by
turn it encodes a window that waits, or adds a token to every window under way, whoever asked for it.
When its own are done, one that still waits leads on. A window so joins those under way at once, and a
step for eight of them costs little more than a step for one.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from components.compute.captured import (
    SHARE,
    Capture,
    Inputs,
    Outputs,
    Step,
    Steps,
    capturer,
    fixed,
    rows_for,
    some,
)
from components.errors import NotFinite
from components.inputs import audio
from components.models import finite
from components.models.eager import twin
from components.progress import Stopped

if TYPE_CHECKING:
    import torch

    from components.models.manager import Loaded

MOST_ROWS = 16  # windows under way at once
MOST_BYTES = 300_000_000  # of their cross-attention keys and values; each step reads them all
HOP = 160  # samples from one frame of the spectrogram to the next
# What is not believed is decoded anew at the next of these, as section 4.5 of Whisper's paper has it.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SEED = 0  # of each further try, so that a recording always gives the same text
Pair = tuple["torch.Tensor", "torch.Tensor"]  # keys and values


@dataclass(frozen=True)
class Decoded:
    """What was decoded from one window.

    tokens: those after the prompt, without end of text; logprob: mean over them and the end of text;
    no_speech: probability of <|nospeech|>; language: its code, None for English-only checkpoints;
    attentions: if words are asked for, those of prompt and tokens to the encoder's positions, for each
    decoder layer [1, heads, prompt + tokens, positions]; temperature: at which tokens were drawn, 0 for the
    likeliest ones.
    """

    tokens: tuple[int, ...]
    logprob: float
    no_speech: float
    language: str | None
    attentions: tuple[torch.Tensor, ...] = ()
    temperature: float = 0.0


@dataclass(eq=False)
class Window:
    """A stretch of sound to decode, and what became of it.

    samples: float32 [samples], mono, 16 kHz; language: a code, None to detect it, or for English-only
    checkpoints; words: whether their times will be asked for; loops: whether what was decoded has to be
    decoded anew, at a higher temperature. Once `done`, it has been decoded, has failed, or was given up with
    neither.
    """

    samples: np.ndarray
    language: str | None
    task: str
    words: bool
    stopped: Stopped
    loops: Callable[[Decoded], bool]
    decoded: Decoded | None = None
    error: Exception | None = None
    done: bool = False
    withdrawn: bool = False
    alone: bool = False  # decoded with no other beside it, since a step for several has failed


@dataclass(eq=False)
class _Row:
    """A window under way, in a slot of the cache.

    tokens: the prompt as far as it is known, and those decoded; read: how many of them the decoder has
    read; logprobs: of those decoded; ended: nothing more will be decoded.
    """

    window: Window
    slot: int
    tokens: list[int]
    language: str | None
    read: int = 0
    logprobs: list[float] = field(default_factory=list)
    no_speech: float = 0.0
    tries: int = 0  # before this one
    random: torch.Generator | None = None
    ended: bool = False


class Engine:
    """Decodes the windows of all visitors of one model: `loaded.share(Engine)`.

    Greedy search with timestamps, as `generate` does it: the same logits processors, the same tokens.
    capture: how steps of the decoder are captured, where not as on that device.
    """

    def __init__(self, loaded: Loaded, capture: Capture | None = None) -> None:
        self._loaded, self._model = loaded, loaded.model
        config = self._model.config
        numbers = 2 * config.decoder_layers * config.max_source_positions * config.d_model
        self._most = max(2, min(MOST_ROWS, MOST_BYTES // (numbers * loaded.dtype.itemsize)))
        self._start_at_once = 1 if loaded.device.type == "cpu" else self._most
        self._prompt = 3 if is_multilingual(self._model) else 1  # start of transcript, language, task
        # As in the paper: half of the positions are for what was said before, which is not used here.
        self._longest = self._prompt + config.max_target_positions // 2
        self._rules = Rules(self._model, self._prompt)
        self._cache = _Cache(self._model, self._most, self._longest)
        if capture := capture or capturer(loaded.device):
            self._cache = _Captured(self._model, self._most, self._longest, capture, loaded.left)
        self._changed = threading.Condition()
        self._waiting: deque[Window] = deque()
        self._rows: list[_Row] = []
        self._led = False

    @property
    def kept_bytes(self) -> int:
        """On the device, while nobody is heard."""
        return self._cache.kept_bytes()

    @property
    def ahead(self) -> int:
        """How many windows one visitor should have here at once: half of the room."""
        return self._most // 2

    def submit(self, window: Window) -> None:
        """Line it up. It is decoded once `wait` is called, by anybody."""
        with self._changed:
            self._waiting.append(window)

    def withdraw(self, windows: Iterable[Window]) -> None:
        """Give up those that are not done."""
        with self._changed:
            for window in windows:
                window.withdrawn = True
            if not self._led:
                self._drop()

    def wait(self, windows: Sequence[Window]) -> None:
        """Until one of these is done; does the work for everybody where nobody else is at it."""

        def ready() -> bool:
            return any(window.done for window in windows)

        with self._changed:
            self._changed.wait_for(lambda: ready() or not self._led)
            if ready():
                return
            self._led = True
        try:
            while not ready():
                self._turn()
        finally:
            with self._changed:
                self._led = False
                self._drop()
                self._changed.notify_all()

    def _turn(self) -> None:
        """One turn on the device, for those who have waited longest: begin a window, or one step for all."""
        with self._changed:
            self._drop()
            begun = self._next()
        ended = [row for row in self._rows if row.ended]
        work: Callable[[], None]
        if begun:
            work, concerned = lambda: self._begin(begun), begun
        elif ended:
            work, concerned = lambda: self._align(ended[0]), [ended[0].window]
        elif self._rows:
            work, concerned = self._step, [row.window for row in self._rows]
        else:
            return
        try:
            self._loaded.compute(work)
        except Exception as error:
            self._failed(concerned, error)

    def _drop(self) -> None:
        """Give up what nobody wants any more, and the cache with the last. With the condition held."""
        for window in [*self._waiting, *(row.window for row in self._rows)]:
            if window.withdrawn or window.stopped():
                window.done = True
                self._changed.notify_all()
        self._waiting = deque(window for window in self._waiting if not window.done)
        self._rows = [row for row in self._rows if not row.window.done]
        if not self._rows:
            self._cache.free()

    def _next(self) -> list[Window]:
        """Windows to begin in this turn, if there is room. With the condition held."""
        begun: list[Window] = []
        if any(row.window.alone for row in self._rows):
            return begun
        room = min(self._most - len(self._rows), self._start_at_once)
        while self._waiting and len(begun) < room:
            if self._waiting[0].alone and (begun or self._rows):
                break
            begun.append(self._waiting.popleft())
            if begun[0].alone:
                break
        return begun

    def _failed(self, windows: Sequence[Window], error: Exception) -> None:
        """One alone has the error; several are tried again one by one, so that only the culprit has it."""
        with self._changed:
            self._rows = [row for row in self._rows if row.window not in windows]
            if len(windows) == 1:
                windows[0].error, windows[0].done = error, True
                self._changed.notify_all()
                return
            for window in reversed(windows):
                window.alone = True
                self._waiting.appendleft(window)

    def _begin(self, windows: Sequence[Window]) -> None:
        """Log-Mel spectrograms [windows, bins, frames], encoder states, and a row for each."""
        model = self._model
        extractor = self._loaded.processor.feature_extractor
        features = extractor(
            [window.samples for window in windows], sampling_rate=audio.RATE, return_tensors="pt"
        ).input_features
        states = model.get_encoder()(features.to(model.device, model.dtype)).last_hidden_state
        taken = {row.slot for row in self._rows}
        free = [slot for slot in range(self._most) if slot not in taken]
        for window, slot, state in zip(windows, free, states, strict=False):
            self._cache.hear(slot, state)
            tokens = prompt_of(model, window.language, window.task)
            self._rows.append(_Row(window, slot, tokens, window.language))

    def _step(self) -> None:
        """Every row reads one token more; where that was the last one known, another is decoded."""
        self._pack()
        rows = self._rows
        read = [row.read for row in rows]
        logits = self._cache.step([row.tokens[row.read] for row in rows], read)
        for row in rows:
            row.read += 1
            if row.read == 1:
                self._first(row, logits[row.slot])
        ready = [row for row in rows if row.read == len(row.tokens) and not row.window.error]
        ready.sort(key=lambda row: row.read)
        for _, group in groupby(ready, key=lambda row: row.read):
            self._choose(list(group), logits)

    def _first(self, row: _Row, logits: torch.Tensor) -> None:
        """What follows <|startoftranscript|> tells whether there is speech, and in which language."""
        config = self._model.generation_config
        row.no_speech = float(logits.softmax(-1)[config.no_timestamps_token_id - 1])
        if not math.isfinite(row.no_speech):
            self._failed([row.window], NotFinite(finite.SENTENCE))
            return
        if self._prompt > 1 and row.language is None:
            names, ids = zip(*config.lang_to_id.items(), strict=True)
            row.language = names[int(logits[list(ids)].argmax())].strip("<|>")
            row.tokens += _request(config, row.language, row.window.task)

    def _choose(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """The most probable token for rows of the same length; one drawn at random in a further try."""
        scores = self._rules([row.tokens for row in rows], some(logits, [row.slot for row in rows]))
        chosen = scores.argmax(-1)
        for place, row in enumerate(rows):
            if row.random:
                probabilities = (scores[place].cpu() / TEMPERATURES[row.tries]).softmax(-1)
                if math.isfinite(probabilities.sum()):  # else nothing can be drawn, and the next lines say so
                    chosen[place] = probabilities.multinomial(1, generator=row.random)[0]
        logprobs = scores.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        for row, token, logprob in zip(rows, chosen.tolist(), logprobs.tolist(), strict=True):
            if not math.isfinite(logprob):
                self._failed([row.window], NotFinite(finite.SENTENCE))
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token == self._model.generation_config.eos_token_id or len(row.tokens) >= self._longest:
                self._ended(row)

    def _ended(self, row: _Row) -> None:
        import torch

        decoded = self._decoded(row)
        if row.tries + 1 < len(TEMPERATURES) and row.window.loops(decoded):
            # The sound is in the cache still, and so is the prompt but for its last token's successor.
            row.tokens, row.logprobs = row.tokens[: self._prompt], []
            row.read, row.tries = self._prompt - 1, row.tries + 1
            row.random = torch.Generator().manual_seed(SEED)
        elif row.window.words:
            row.ended = True
        else:
            self._finished(row, decoded)

    def _decoded(self, row: _Row, attentions: tuple[torch.Tensor, ...] = ()) -> Decoded:
        tokens = row.tokens[self._prompt :]
        if tokens[-1] == self._model.generation_config.eos_token_id:
            tokens = tokens[:-1]
        return Decoded(
            tuple(tokens),
            float(np.mean(row.logprobs)),
            row.no_speech,
            row.language,
            attentions,
            TEMPERATURES[row.tries],
        )

    def _align(self, row: _Row) -> None:
        """Reads the finished tokens once more with attention that can be seen."""
        attentions = self._cache.attentions(self._loaded.share(twin), row.slot, row.tokens[:-1])
        self._finished(row, self._decoded(row, attentions))

    def _finished(self, row: _Row, decoded: Decoded) -> None:
        with self._changed:
            row.window.decoded, row.window.done = decoded, True
            self._rows = [other for other in self._rows if other is not row]
            self._changed.notify_all()

    def _pack(self) -> None:
        """Rows fill the slots from the first on, in order."""
        gaps = set(range(len(self._rows))) - {row.slot for row in self._rows}
        for row in self._rows:
            if row.slot >= len(self._rows):
                slot = gaps.pop()
                self._cache.move(row.slot, slot)
                row.slot = slot
        self._rows.sort(key=lambda row: row.slot)


class Rules:
    """Whisper's logits processors: tokens [rows][length], all of one length, and scores -> scores."""

    def __init__(self, model: Any, prompt: int) -> None:
        import torch
        from transformers import (
            SuppressTokensAtBeginLogitsProcessor,
            SuppressTokensLogitsProcessor,
            WhisperTimeStampLogitsProcessor,
        )

        config, device = model.generation_config, str(model.device)
        begin: Any = torch.zeros(1, prompt, dtype=torch.long)
        # What they forbid is always the same: asked once, added at each step.
        self._always = torch.zeros(1, model.config.vocab_size, device=model.device)
        if config.suppress_tokens is not None:
            self._always = SuppressTokensLogitsProcessor(config.suppress_tokens, device)(begin, self._always)
        self._first = self._always
        if config.begin_suppress_tokens is not None:
            at_begin = SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, prompt, device)
            self._first = at_begin(begin, self._always)
        self._prompt = prompt
        self._timestamps = WhisperTimeStampLogitsProcessor(config, begin_index=prompt)

    def __call__(self, tokens: list[list[int]], scores: torch.Tensor) -> torch.Tensor:
        import torch

        history: Any = torch.tensor(tokens)
        forbidden = self._first if history.shape[1] == self._prompt else self._always
        return self._timestamps(history, scores + forbidden)


class _Cache:
    """Keys and values of the windows under way, a slot for each; memory is touched only where used.

    sound: of each decoder layer, keys and values [slots, heads, positions, size] from the encoder;
    text: likewise [slots, heads, tokens, size] of the tokens read.
    """

    def __init__(self, model: Any, slots: int, tokens: int) -> None:
        self._model, self._slots, self._tokens = model, slots, tokens
        self._attentions = [layer.encoder_attn for layer in model.get_decoder().layers]
        self._sound: list[Pair] = []
        self._text: list[Pair] = []

    def free(self) -> None:
        """Let the memory go; it is taken again when something is heard."""
        self._sound, self._text = [], []

    def kept_bytes(self) -> int:
        """Of what is not let go."""
        return 0

    def _take(self) -> None:
        import torch

        config, model = self._model.config, self._model
        heads = config.decoder_attention_heads

        def pairs(length: int) -> list[Pair]:
            shape = self._slots, heads, length, config.d_model // heads
            options: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
            return [
                (torch.empty(shape, **options), torch.empty(shape, **options))
                for _ in range(config.decoder_layers)
            ]

        self._sound, self._text = pairs(config.max_source_positions), pairs(self._tokens)

    def hear(self, slot: int, states: torch.Tensor) -> None:
        """Encoder states [positions, hidden] as keys and values of each layer; nothing is read yet."""
        if not self._sound:
            self._take()
        for pair in self._text:
            for kept in pair:
                kept[slot] = 0  # masked, but what is not a number would come through a mask
        for attention, pair in zip(self._attentions, self._sound, strict=True):
            for project, kept in zip((attention.k_proj, attention.v_proj), pair, strict=True):
                heads, positions, size = kept.shape[1:]
                kept[slot].copy_(project(states).view(positions, heads, size).transpose(0, 1))

    def move(self, source: int, target: int) -> None:
        for pair in [*self._sound, *self._text]:
            for kept in pair:
                kept[target].copy_(kept[source])

    def step(self, tokens: list[int], read: list[int]) -> torch.Tensor:
        """Each of the first slots reads its token after so many others: logits [slots, vocabulary]."""
        import torch

        model, count, longest = self._model, len(tokens), max(read) + 1
        rows = torch.arange(count, device=model.device)
        now, at = torch.tensor([tokens, read], device=model.device)
        unread = torch.arange(longest, device=model.device) > at[:, None]
        mask = torch.zeros(count, 1, 1, longest, dtype=model.dtype, device=model.device)
        mask.masked_fill_(unread[:, None, None], -torch.inf)
        hidden = self._decode(
            model,
            [_written(pair, rows, at, longest) for pair in self._text],
            slice(count),
            input_ids=now[:, None],
            position_ids=at[:, None],
            attention_mask=mask,
        ).last_hidden_state
        return model.get_output_embeddings()(hidden[:, -1]).float()

    def attentions(self, aligner: Any, slot: int, tokens: list[int]) -> tuple[torch.Tensor, ...]:
        """What each layer attends to in the sound, token by token: [1, heads, tokens, positions] each."""
        import torch
        from transformers import DynamicLayer

        output = self._decode(
            aligner,
            [DynamicLayer() for _ in self._text],
            slice(slot, slot + 1),
            input_ids=torch.tensor([tokens], device=aligner.device),
            output_attentions=True,
        )
        return tuple(attention.cpu() for attention in output.cross_attentions)

    def _decode(self, model: Any, written: list[Any], slots: slice, **inputs: Any) -> Any:
        """The decoder's output for these slots, with what their rows have read so far."""
        from transformers import Cache, DynamicLayer, EncoderDecoderCache

        heard: list[Any] = [DynamicLayer() for _ in self._sound]
        for layer, (keys, values) in zip(heard, self._sound, strict=True):
            layer.keys, layer.values, layer.is_initialized = keys[slots], values[slots], True
        present = self._sound[0][0].new_empty(1, 0, model.config.d_model)  # all that is heard is in the cache
        return model.get_decoder()(
            past_key_values=EncoderDecoderCache(Cache(layers=written), Cache(layers=heard)),
            encoder_hidden_states=present,
            use_cache=True,
            **inputs,
        )


class _Captured(_Cache):
    """Keys and values that stay where they are, and captured steps; see captured.py.

    left: bytes that may be taken on the device now. Without memory for that it is as its parent.
    """

    def __init__(
        self, model: Any, slots: int, tokens: int, capture: Capture, left: Callable[[], int]
    ) -> None:
        # Attention wants its mask in rows of a multiple of 16 numbers.
        super().__init__(model, slots, -(-tokens // 16) * 16)
        self._steps, self._left = Steps(capture, model.dtype), left
        self._stays = False

    def free(self) -> None:
        if not self._stays or self._steps.refused:
            self._steps.clear()
            super().free()
            self._stays = False

    def kept_bytes(self) -> int:
        kept = [tensor for pair in (*self._sound, *self._text) for tensor in pair] if self._stays else []
        return self._steps.bytes() + sum(tensor.nbytes for tensor in kept)

    def _take(self) -> None:
        config = self._model.config
        numbers = 2 * config.decoder_layers * (config.max_source_positions + self._tokens) * config.d_model
        needed = self._slots * numbers * self._model.dtype.itemsize
        self._stays = not self._steps.refused and needed <= SHARE * self._left()
        super()._take()

    def step(self, tokens: list[int], read: list[int]) -> torch.Tensor:
        if not self._stays:
            return super().step(tokens, read)
        rows = min(rows_for(len(tokens)), self._slots)

        def make(inputs: Inputs, outputs: Outputs) -> Step:
            return self._step(rows, inputs, outputs)

        eager = super().step
        return self._steps.do((rows,), tokens, read, make, lambda: eager(tokens, read))[0]

    def _step(self, rows: int, inputs: Inputs, outputs: Outputs) -> Step:
        model, slots = self._model, slice(rows)
        written = [fixed((keys[slots], values[slots]), inputs.places[slots]) for keys, values in self._text]
        mask = self._text[0][0].new_zeros(rows, 1, 1, self._tokens)

        def step() -> None:
            inputs.mask(mask)
            hidden = self._decode(
                model,
                written,
                slots,
                input_ids=inputs.tokens[slots, None],
                position_ids=inputs.places[slots, None],
                attention_mask=mask,
            ).last_hidden_state
            outputs.keep(model.get_output_embeddings()(hidden[:, -1]))

        return step


def _written(pair: Pair, rows: torch.Tensor, at: torch.Tensor, longest: int) -> Any:
    """A layer of Transformers' cache in which each row writes at a place of its own."""
    from transformers import DynamicLayer

    def update(keys: torch.Tensor, values: torch.Tensor, *_: Any) -> Pair:
        """Keeps those of one token [rows, heads, 1, size]; gives all [rows, heads, longest, size]."""
        for kept, new in zip(pair, (keys, values), strict=True):
            kept[rows, :, at] = new[:, :, 0]
        return pair[0][: len(rows), :, :longest], pair[1][: len(rows), :, :longest]

    layer: Any = DynamicLayer()
    layer.update = update
    return layer


def is_multilingual(model: Any) -> bool:
    """Whether a prompt names language and task."""
    config = model.generation_config
    return bool(getattr(config, "is_multilingual", True) and getattr(config, "lang_to_id", None))


def prompt_of(model: Any, language: str | None, task: str) -> list[int]:
    """What the decoder reads first; language None: it is not known yet, or the checkpoint is English-only."""
    config = model.generation_config
    request = [] if language is None else _request(config, language, task)
    return [config.decoder_start_token_id, *request]


def _request(config: Any, language: str, task: str) -> list[int]:
    return [config.lang_to_id[f"<|{language}|>"], config.task_to_id[task]]


def token_ends(model: Any, decoded: Decoded, samples: int) -> tuple[float, ...]:
    """Where each token of a window of so many samples ends, in seconds, by dynamic time warping.

    Its attentions say where each is heard; the method is Transformers' own, as in `generate`.
    """
    import torch
    from transformers.generation.utils import GenerateEncoderDecoderOutput

    prompt = 3 if decoded.language is not None else 1
    length = decoded.attentions[0].shape[2]
    output = GenerateEncoderDecoderOutput(
        sequences=torch.zeros(1, length + 1),  # type: ignore[arg-type]  # only its shape is looked at
        cross_attentions=(decoded.attentions,),  # type: ignore[arg-type]  # all tokens in one step
    )
    with torch.inference_mode():
        times = model._extract_token_timestamps(
            output,
            model.generation_config.alignment_heads,
            num_frames=torch.tensor([max(2, samples // HOP)]),
            num_input_ids=prompt,
        )
    return tuple(times[0, prompt:].tolist())
