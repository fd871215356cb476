"""Decoding: how does a causal language model write, one token at a time, for several visitors at once?

A step of a model costs mostly the reading of its weights, so the sequences of all visitors take it
together (continuous batching, Yu et al. 2022, "Orca"): a new one joins between two steps, one that has
ended leaves. There is no thread for it: the visitor who finds nobody at work does the next step for all.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from components.compute.captured import Capture, Texts, capturer, likeliest, some, told
from components.compute.lean import lean
from components.errors import NotFinite
from components.models import finite
from components.models.manager import Loaded
from components.models.pace import paced
from components.progress import Stopped, never

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tour")

COLD = 1e-4  # below this temperature logits overflow, and only the likeliest token would be drawn
ABREAST = 32  # sequences that are written at the same time; further ones wait for room
ROOM = 16_384  # tokens that the joint cache may hold; a longer text is written in steps of its own
READ = 512  # tokens of a prompt that are read in one step
READ_ON_ACCELERATOR = 2048  # likewise, where the launches take the time and not the tokens
GROW = 64  # columns that the joint cache grows by, at least
CACHES = ("past_key_values", "cache_params", "state")  # what architectures call theirs
LENGTH_DEPENDENT = {"dynamic", "longrope"}  # rotary embeddings that change with the longest of a batch


class Token(NamedTuple):
    """probability: what the model gave it, before temperature, penalty and limits."""

    id: int
    probability: float


Step = list[Token | None]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0: the likeliest one; top_k 0 and top_p 1: no limit."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature < COLD


def end_tokens(model: Any) -> list[int]:
    """The ids that end a text, from the checkpoint's generation settings; may be none."""
    end = model.generation_config.eos_token_id
    return [] if end is None else [end] if isinstance(end, int) else list(end)


def decode(
    loaded: Loaded,
    input_ids: torch.Tensor,
    most: int,
    sampling: Sampling,
    stopped: Stopped = never,
) -> Iterator[Step]:
    """Continue a prompt `[sequences, length]`, all rows alike, by at most `most` tokens.

    Yields the next token of each sequence, None for one that has ended, until all have ended or
    `stopped` says so, which is asked before each step. Key/value caches are kept between steps, and
    neither inference mode nor the device while the caller is at work. Same seed, same tokens, whoever
    else is being written for. Raises what the model raised on this prompt.
    """
    engine = loaded.share(Engine)
    yield from engine.write(Request(loaded, input_ids, most, sampling, stopped))


class Request:
    """What one visitor asked for, and how far it is. Only the one who does a step changes it."""

    def __init__(
        self, loaded: Loaded, input_ids: torch.Tensor, most: int, sampling: Sampling, stopped: Stopped
    ) -> None:
        import torch

        self.sequences, length = input_ids.shape
        self.prompt = input_ids[:1]
        self.most, self.sampling, self.stopped = most, sampling, stopped
        self.ends = set(end_tokens(loaded.model))
        self.processors = _processors(sampling)
        # Drawn on the CPU, so that a seed means the same on every device.
        self.source = None if sampling.greedy else torch.Generator().manual_seed(sampling.seed)
        # On the CPU, whatever the device. Zeros, because what has ended may be computed on, and any number
        # might be no token.
        self.ids = torch.zeros(self.sequences, length + most, dtype=torch.long)
        self.ids[:, :length] = input_ids
        self.newest: list[int] = self.ids[:, length - 1].tolist()
        self.length = length  # of prompt and text so far
        self.running = list(range(self.sequences)) if most > 0 else []
        self.cache: Any = None  # its own, as long as it is in no joint one
        self.cache_name = CACHES[0]
        self.cached = list(range(self.sequences))  # those that are in its own cache
        self.read = 0  # tokens of the prompt in that cache
        self.apart = False  # its prompt is read with no other, since doing so has failed
        self.ready: deque[Step | Exception] = deque()
        self.gone = False  # the visitor takes no more

    @property
    def total(self) -> int:
        """Tokens of each sequence when it is as long as it may get."""
        return self.ids.shape[1]

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is chosen."""
        return self.source is None and not self.processors

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token of those that run `[running]`, from `[running, vocabulary]`."""
        import torch

        scores = logits
        if self.processors:
            scores = self.processors(self.ids[self.running, : self.length].to(logits.device), logits)
        if self.source is None:
            return scores.argmax(-1)
        shares = scores.softmax(-1)
        # What has ended draws on, so that the others get the numbers that they would have got.
        if shares.device.type != "cpu":
            waits = torch.empty(self.sequences, shares.shape[1]).exponential_(generator=self.source)
            return soonest(shares, waits[self.running])
        if not math.isfinite(shares.sum()):
            finite.require(finite.total_of(logits))  # else it is not the model's doing
        if len(self.running) < self.sequences:
            running, shares = shares, torch.ones(self.sequences, shares.shape[1])
            shares[self.running] = running
        return torch.multinomial(shares, 1, generator=self.source)[self.running, 0]

    def take(self, tokens: Sequence[Token]) -> None:
        """One for each sequence that runs."""
        step: Step = [None] * self.sequences
        for sequence, token in zip(self.running, tokens, strict=True):
            self.ids[sequence, self.length] = self.newest[sequence] = token.id
            if token.id not in self.ends:
                step[sequence] = token
        self.length += 1
        self.running = [sequence for sequence in self.running if step[sequence] is not None]
        if self.length == self.total:
            self.running = []
        self.ready.append(step)

    def fail(self, error: Exception) -> None:
        """This visitor's text ends here, in that error."""
        self.running, self.cache = [], None
        self.ready.append(error)


def soonest(shares: torch.Tensor, waits: torch.Tensor) -> torch.Tensor:
    """Draw a token of each row of `[rows, vocabulary]`, without waiting for the device.

    waits: exponentially distributed numbers of the CPU; torch.multinomial draws with the same there.
    """
    return (shares / waits.to(shares.device)).argmax(-1)


def _processors(sampling: Sampling) -> Any:
    """Those of Transformers, in the order in which `generate` has them."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if not sampling.greedy:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


class Engine:
    """Writes for all visitors of one loaded model.

    abreast: sequences that are written at the same time; room: tokens that the joint cache may hold;
    capture: how steps are captured, where not as on that device.
    """

    def __init__(
        self, loaded: Loaded, abreast: int = ABREAST, room: int = ROOM, capture: Capture | None = None
    ) -> None:
        self._loaded, self._abreast, self._room = loaded, abreast, room
        # Logits of the last position are enough; not every architecture can leave out the others.
        named = inspect.signature(loaded.model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in named else {}
        self._can_join = _can_join(loaded.model)
        token = loaded.compute(partial(lean, loaded.model)) if self._can_join else loaded.model
        self._token = loaded.compute(partial(paced, token, loaded.device))  # a step of one token a row
        self._changed = threading.Condition()
        # What follows is changed by the one at work, or by anybody who holds the condition meanwhile.
        self._at_work = False
        self._waiting: deque[Request] = deque()
        self._reading: deque[Request] = deque()
        capture = capture or capturer(loaded.device)
        texts = Texts(loaded.model, capture, loaded.left, self._last_only) if capture else None
        self._joint = Joint(texts if self._can_join else None)
        self._alone: deque[Request] = deque()
        self._read_last = self._joint_last = False

    @property
    def kept_bytes(self) -> int:
        """On the device, while nobody writes."""
        return self._joint.captured.bytes() if self._joint.captured else 0

    @property
    def _part(self) -> int:
        """Tokens of prompts that are read in one step."""
        return READ if self._loaded.device.type == "cpu" else READ_ON_ACCELERATOR

    def write(self, request: Request) -> Iterator[Step]:
        """The steps of a request, done by this visitor's thread or by another's."""
        with self._changed:
            self._waiting.append(request)
        try:
            while not request.stopped():
                with self._changed:
                    while self._at_work and not request.ready and not request.stopped():
                        self._changed.wait()
                    if request.ready:
                        step = request.ready.popleft()
                    elif self._at_work or not request.running:
                        return
                    else:
                        self._at_work, step = True, None
                if step is None:
                    self._work()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            with self._changed:
                request.gone = True
                if not self._at_work:
                    self._sort_out()

    def _work(self) -> None:
        """One step for everybody: some of a prompt, or the next token of those who take it together."""
        try:
            with self._changed:
                self._sort_out()
            writing = self._alone or self._joint.requests
            # Prompts and texts in turns: who comes begins soon, and nobody stands still for long.
            self._read_last = bool(self._reading and not (writing and self._read_last))
            if not self._read_last and writing:
                self._joint_last = bool(self._joint.requests and not (self._alone and self._joint_last))
            if self._read_last:
                self._loaded.compute(self._read, checked=True)
            elif writing and self._joint_last:
                self._loaded.compute(self._step_joint, checked=True)
            elif writing:
                self._loaded.compute(self._step_alone, checked=True)
        finally:
            with self._changed:
                self._at_work = False
                self._changed.notify_all()

    def _sort_out(self) -> None:
        """Let those go who have ended, stopped or left, and those in who fit."""
        everybody = (*self._waiting, *self._reading, *self._alone, *self._joint.requests)
        for request in everybody:
            if request.gone or request.stopped():
                request.running = []
        self._waiting = deque(request for request in self._waiting if request.running)
        self._reading = deque(request for request in self._reading if request.running)
        self._alone = deque(request for request in self._alone if request.running)
        self._joint.shed()
        taken = sum(len(one.running) for one in (*self._reading, *self._alone, *self._joint.requests))
        while self._waiting and (not taken or taken + self._waiting[0].sequences <= self._abreast):
            taken += self._waiting[0].sequences
            self._reading.append(self._waiting.popleft())

    def _read(self) -> None:
        """Some of a long prompt, or several short ones and the first tokens of their texts."""
        requests = [self._reading.popleft()]
        while self._reading and self._short((*requests, self._reading[0])):
            requests.append(self._reading.popleft())
        if len(requests) == 1:
            self._read_part(requests[0])
            return
        try:
            logits = self._forward_prompts(requests)
        except Exception as error:
            log.warning("reading %d prompts together failed: %r", len(requests), error)
            for request in requests:
                request.cache, request.apart = None, True
            self._reading.extendleft(reversed(requests))
        else:
            for request, last in zip(requests, logits, strict=True):
                self._begin(request, last)

    def _read_part(self, request: Request) -> None:
        """The next tokens of a prompt, and after its last one the first of the text."""
        try:
            # Once for all sequences of a prompt, where their caches can be copied.
            rows = request.prompt if self._can_join else request.prompt.expand(request.sequences, -1)
            until = request.read + self._part if self._can_join else rows.shape[1]
            logits = self._forward(request, rows[:, request.read : until])
        except Exception as error:
            request.fail(error)
            return
        request.read = until
        if until < rows.shape[1]:
            self._reading.append(request)
        else:
            self._begin(request, logits)

    def _short(self, requests: Sequence[Request]) -> bool:
        """Whether these prompts may be read in one step; filled up to the longest they are so many tokens."""
        alike = self._can_join and not any(request.read or request.apart for request in requests)
        return alike and len(requests) * max(request.length for request in requests) <= self._part

    def _forward_prompts(self, requests: list[Request]) -> list[torch.Tensor]:
        """Whole prompts -> the last logits of each `[1, vocabulary]`, and a cache for each."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        # Filled up behind their ends, where no token of theirs looks.
        tokens = pad_sequence([request.prompt[0] for request in requests], batch_first=True)
        ends = [request.length - 1 for request in requests]
        kept = sorted(set(ends)) if self._last_only else list(range(tokens.shape[1]))
        options = {"logits_to_keep": torch.tensor(kept, device=tokens.device)} if self._last_only else {}
        output = self._loaded.model(input_ids=tokens, use_cache=True, **options)
        for row, request in enumerate(requests):
            # No copy: that is made when it joins the others or grows.
            request.cache = _own(output.past_key_values.layers, slice(row, row + 1), request.length)
        return [output.logits[row, kept.index(end)][None] for row, end in enumerate(ends)]

    def _begin(self, request: Request, logits: torch.Tensor) -> None:
        """The first token of a text whose prompt has been read, and its place for the next ones."""
        try:
            _hand_out(logits, [(request, [0] * request.sequences)])
            if not request.running:
                request.cache = None
            elif self._can_join and self._joint.takes(request, self._room):
                self._joint.join(request)
            else:
                if self._can_join:
                    request.cache.batch_repeat_interleave(request.sequences)
                self._alone.append(request)
        except Exception as error:
            request.fail(error)

    def _step_alone(self) -> None:
        """The next token of the request whose turn it is, in a cache of its own."""
        import torch

        request = self._alone.popleft()
        try:
            newest = torch.tensor([[request.newest[one]] for one in request.cached])
            logits = self._forward(request, newest.to(self._loaded.device))
            _hand_out(logits, [(request, [request.cached.index(one) for one in request.running])])
        except Exception as error:
            request.fail(error)
        self._alone.append(request)

    def _step_joint(self) -> None:
        """The next token of all in the joint cache. Where that fails, each goes on alone."""
        failure = None
        try:
            self._joint.step(self._token, self._last_only)
        except Exception as error:
            failure = error
        if failure is None:
            return
        if len(self._joint.requests) == 1:
            self._joint.requests[0].fail(failure)
        else:
            log.warning("a step of %d texts together failed: %r", len(self._joint.requests), failure)
            failure.__traceback__ = None  # it holds the memory of the failed step
            self._alone.extend(self._joint.apart())

    def _forward(self, request: Request, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `[rows, length]` through a request's own cache -> the last logits `[rows, vocabulary]`."""
        named = {}
        if request.cache is not None:
            named[request.cache_name] = request.cache
        elif request.read:  # an architecture without a cache reads everything again
            tokens = request.ids[:, : request.length].to(self._loaded.device)
        output = self._loaded.model(input_ids=tokens, use_cache=True, **named, **self._last_only)
        for name in CACHES:
            if output.get(name) is not None:
                request.cache_name, request.cache = name, output[name]
        return output.logits[:, -1]


class Joint:
    """Requests that are written together, and their keys and values in one cache.

    Each sequence has a row, filled from the left; a step puts its new token behind each row's last one.
    So who joins or leaves moves nobody else. Columns that a row has not filled are masked.
    captured: does the steps where they are captured, with keys and values in memory of its own.
    """

    def __init__(self, captured: Texts | None = None) -> None:
        self.captured = captured
        self.requests: list[Request] = []
        self._joining: list[Request] = []  # those of them that have no rows yet
        self._rows: list[tuple[Request, int]] = []  # request and its sequence, row by row
        self._cache: Any = None
        self._filled: list[int] = []  # columns, row by row
        self._placed = False  # the cache is where captured steps have it

    def takes(self, request: Request, room: int) -> bool:
        """Whether it can be written here, and the cache stays within so many tokens to the end."""
        columns = max(one.total for one in (request, *self.requests))
        rows = len(self._rows) + sum(len(one.running) for one in self._joining)
        return _is_plain(request) and (rows + request.sequences) * columns <= room

    def join(self, request: Request) -> None:
        """Have it in the next step: its visitor has the first token before its cache is copied."""
        self.requests.append(request)
        self._joining.append(request)

    def _take_in(self, request: Request) -> None:
        """Copy the keys and values of a prompt into rows for the sequences that run."""
        columns = request.length - 1
        first, last = len(self._rows), len(self._rows) + len(request.running)
        layers = request.cache.layers
        if self._cache is None:
            self._cache, self._placed = _slots(len(layers)), self.captured is not None
        if self.captured and self._placed:
            longest = max(one.total for one in self.requests)
            self._placed = self.captured.place(last, longest, layers, first)
        if self.captured and self._placed:
            self.captured.lend(self._cache.layers)
            self.captured.write(first, last, layers)
        else:
            for layer, prompt in zip(self._cache.layers, layers, strict=True):
                layer.reserve(last, columns + 1, prompt)
                layer.keys[first:last, :, :columns] = prompt.keys
                layer.values[first:last, :, :columns] = prompt.values
        self._rows += [(request, sequence) for sequence in request.running]
        self._filled += [columns] * len(request.running)
        request.cache = None

    def shed(self) -> None:
        """Free the rows of sequences that do not run any more; the last rows move there."""
        import torch

        with torch.inference_mode():
            for row in reversed(range(len(self._rows))):
                request, sequence = self._rows[row]
                if sequence in request.running:
                    continue
                end = self._rows.pop()
                columns = self._filled.pop()
                if row == len(self._rows):
                    continue
                self._rows[row], self._filled[row] = end, columns
                if self.captured and self._placed:
                    self.captured.move(len(self._rows), row)
                else:
                    for layer in self._cache.layers:
                        layer.keys[row, :, :columns] = layer.keys[len(self._rows), :, :columns]
                        layer.values[row, :, :columns] = layer.values[len(self._rows), :, :columns]
        self.requests = [request for request in self.requests if request.running]
        self._joining = [request for request in self._joining if request.running]
        if not self._rows:
            self._cache = None
            if self.captured:
                self.captured.leave()

    def step(self, model: Any, options: dict[str, Any]) -> None:
        """The next token of all rows. Where it fails, it can be done again."""
        while self._joining:
            self._take_in(self._joining[0])
            del self._joining[0]
        tokens = [request.newest[sequence] for request, sequence in self._rows]
        best = None
        if self.captured and self._placed:
            logits, best = self.captured.step(
                tokens, self._filled, lambda: self._forward(model, options, tokens)
            )
        else:
            logits = self._forward(model, options, tokens)
        _hand_out(logits, [(request, self._rows_of(request)) for request in self.requests], best)
        self._filled = [columns + 1 for columns in self._filled]

    def _forward(self, model: Any, options: dict[str, Any], newest: list[int]) -> torch.Tensor:
        """Each row reads its newest token: logits `[rows, vocabulary]`."""
        import torch

        tokens = torch.tensor(newest, device=model.device)[:, None]
        positions = torch.tensor(self._filled, device=tokens.device)
        columns = max(self._filled)
        level = min(self._filled) == columns
        mask = None
        if not level:
            mask = (torch.arange(columns + 1, device=tokens.device) <= positions[:, None]).long()
        for layer in self._cache.layers:
            layer.reserve(len(self._rows), columns + 1, layer)
            layer.columns, layer.positions = columns, None if level else positions
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
            **options,
        )
        return output.logits[:, -1]

    def apart(self) -> list[Request]:
        """All requests that can be given a cache of their own; no longer here."""
        alone = []
        for request in self.requests:
            try:
                if request in self._joining:
                    request.cache.batch_repeat_interleave(request.sequences)
                else:
                    rows = self._rows_of(request)
                    request.cache = _cut(self._cache.layers, rows, self._filled[rows[0]])
                    request.cached = list(request.running)
                alone.append(request)
            except Exception as error:
                request.fail(error)
        self.requests, self._rows, self._filled, self._cache = [], [], [], None
        self._joining = []
        if self.captured:
            self.captured.leave()
        return alone

    def _rows_of(self, request: Request) -> list[int]:
        """In the order of its running sequences."""
        rows = {sequence: row for row, (one, sequence) in enumerate(self._rows) if one is request}
        return [rows[sequence] for sequence in request.running]


def _hand_out(
    logits: torch.Tensor, asked: Sequence[tuple[Request, list[int]]], best: torch.Tensor | None = None
) -> None:
    """Have each request choose from its rows of `[rows, vocabulary]`; an error there is its own alone.

    NotFinite is one, where the model gave NaN or infinity in its rows.
    best: `likeliest` of the logits, where it is known.
    """
    import torch

    logits = logits.float()
    # What is chosen comes to the host at once, because each time it waits for all that the device does.
    answers = [likeliest(logits) if best is None else best]
    at = len(logits)
    took: list[tuple[Request, Sequence[int]]] = []
    for request, rows in asked:
        try:
            if not request.plain:
                chosen = request.choose(some(logits, rows))
                answers.append(told(some(logits, rows), chosen))
                took.append((request, range(at, at + len(rows))))
                at += len(rows)
            else:
                took.append((request, rows))
        except Exception as error:
            request.fail(error)
    if not took:
        return
    ids, surely = torch.cat(answers, 1).tolist()
    for request, places in took:
        tokens = [Token(int(ids[place]), surely[place]) for place in places]
        # NaN and infinity among the logits are seen in the probability, which has to come here anyway.
        if all(math.isfinite(token.probability) for token in tokens):
            request.take(tokens)
        else:
            request.fail(NotFinite(finite.SENTENCE))


def _own(layers: Sequence[Any], rows: slice, columns: int) -> Any:
    """A cache of its own with a view of these rows."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    own: Any = DynamicCache()
    for layer in layers:
        view: Any = DynamicLayer()
        view.keys, view.values = layer.keys[rows, :, :columns], layer.values[rows, :, :columns]
        view.dtype, view.device, view.is_initialized = layer.dtype, layer.device, True
        own.layers.append(view)
    return own


def _cut(layers: Sequence[Any], rows: list[int], columns: int) -> Any:
    """A cache of its own with a copy of these rows."""
    from transformers import DynamicCache

    own = DynamicCache()
    for i, layer in enumerate(layers):
        own.update(layer.keys[rows, :, :columns], layer.values[rows, :, :columns], i)
    return own


def _slots(layers: int) -> Any:
    """A cache of Transformers whose layers keep rows of different lengths."""
    from transformers.cache_utils import Cache

    return Cache(layers=[_slot_layer()() for _ in range(layers)])


@cache
def _slot_layer() -> Any:
    import torch
    from transformers.cache_utils import DynamicLayer

    class Slots(DynamicLayer):
        """keys and values: `[rows, heads, columns, size]`, more than are in use; see Joint."""

        keys: Any
        values: Any
        columns = 0  # that the longest row has filled
        positions: torch.Tensor | None = None  # where each row's next token goes, if not there

        def reserve(self, rows: int, columns: int, like: Any) -> None:
            """Make room for so many rows and columns, of the shape and kind of another layer's."""
            if self.keys is not None and self.keys.shape[0] >= rows and self.keys.shape[2] >= columns:
                return
            self.keys, self.values = (
                _grown(old, rows, columns, new)
                for old, new in ((self.keys, like.keys), (self.values, like.values))
            )
            self.is_initialized = True

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            rows, end = key_states.shape[0], self.columns + 1
            if self.positions is None:
                self.keys[:rows, :, self.columns] = key_states[:, :, 0]
                self.values[:rows, :, self.columns] = value_states[:, :, 0]
            else:
                every = torch.arange(rows, device=key_states.device)
                self.keys[every, :, self.positions] = key_states[:, :, 0]
                self.values[every, :, self.positions] = value_states[:, :, 0]
            return self.keys[:rows, :, :end], self.values[:rows, :, :end]

        def get_seq_length(self) -> int:
            return self.columns

    return Slots


def _grown(old: torch.Tensor | None, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """A larger tensor with the content of the old one. Zeros, because 0 times what lies there must be 0."""
    had_rows, had_columns = (old.shape[0], old.shape[2]) if old is not None else (0, 0)
    rows = max(rows, 2 * had_rows) if rows > had_rows else had_rows
    columns = (columns * 5 // 4 // GROW + 1) * GROW if columns > had_columns else had_columns
    new = like.new_zeros(rows, like.shape[1], columns, like.shape[3])
    if old is not None:
        new[:had_rows, :, :had_columns] = old
    return new


def _is_plain(request: Request) -> bool:
    """Whether its cache holds the keys and values of each token in each layer, and nothing else."""
    from transformers.cache_utils import DynamicLayer

    return all(
        type(layer) is DynamicLayer and layer.get_seq_length() == request.length - 1
        for layer in request.cache.layers
    )


def _can_join(model: Any) -> bool:
    """Whether sequences of different lengths can share a step without changing each other's results."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    named = inspect.signature(model.forward).parameters
    if not {"attention_mask", "position_ids", "past_key_values"} <= set(named):
        return False
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(one.get("rope_type") for one in rope.values() if isinstance(one, dict))}
    layers = DynamicCache(config=model.config).layers
    return not kinds & LENGTH_DEPENDENT and all(type(layer) is DynamicLayer for layer in layers)
