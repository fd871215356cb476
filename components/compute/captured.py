"""Captured: how does a decoder's step on a GPU take as long as its kernels, and not as their launches?

A step of a small model is hundreds of kernels of a few microseconds each; Python needs ten times as long
to launch them. A CUDA graph launches all of them at once, in the same memory each time: so the tokens, the
positions, the keys and values and the logits have places that never move, for a few numbers of rows and
columns ("buckets"). What does not bear it is stepped through as before; see decoding.py and windows.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from components.models.memory import is_out

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tour")

ROWS = (1, 2, 4, 8, 12, 16, 24, 32)  # numbers of rows that steps are captured for; then multiples of 32
COLUMNS = 256  # the least number of columns; then its doubles
MOST_GRAPHS = 16  # of one model; the least recently used ones go
WARM_UP = 2  # steps before a capture: libraries make their plans and take their workspace then
SHARE = 0.5  # of the memory that is left, which keys and values may take
# How far the logits of a captured step may be from the model's own, as a share of their spread. Rounding
# alone makes 0.01 to 0.02 in half precision; a position or a mask that is wrong makes 0.1 and more.
APART = {"float64": 1e-3, "float32": 1e-3}
APART_IN_HALF = 0.05

Step = Callable[[], None]


class NotCapturable(RuntimeError):
    """A step that does not do the same each time, or asks the device for a number in between."""


class Capture(Protocol):
    """Records what a step does on the device."""

    def __call__(self, step: Step) -> Step:
        """What does the same again, in the same memory. May raise anything; the step is done meanwhile."""

    def bytes(self) -> int:
        """Memory that all that was recorded holds on the device."""


class CudaGraphs:
    """Capture by CUDA graphs, which share one memory for what is not needed after a step."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device, self._checked = device, False
        # All that outlives a step lies outside, so that the graphs may be replayed in any order.
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _stream(device)

    def __call__(self, step: Step) -> Step:
        import torch

        # A capture that breaks leaves torch's allocator in disorder, so what would break it is found before.
        if not self._checked:
            check(step, self._device)
            self._checked = True
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                step()
        usual.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads load models and move inputs meanwhile; only what this one does may break it.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                step()
        finally:
            torch.cuda.set_stream(usual)  # torch.cuda.graph leaves its own where the capture fails
        return graph.replay

    def bytes(self) -> int:
        import torch

        segments = torch.cuda.memory_snapshot(self._pool, include_traces=False)
        return sum(segment["total_size"] for segment in segments)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for the captures of all models, since libraries keep a workspace for each stream."""
    import torch

    return torch.cuda.Stream(device)


def capturer(device: torch.device) -> Capture | None:
    """How steps are captured there; None where they are not."""
    return CudaGraphs(device) if device.type == "cuda" else None


def check(step: Step, device: torch.device) -> None:
    """Do a step. Raises NotCapturable where it reads the device's numbers or brings new ones there."""
    with _watch()(device):
        step()


@cache
def _watch() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    aten = torch.ops.aten
    reading = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    more_reading = {aten.item, aten.is_nonzero, aten.equal, aten.allclose}
    indexing = {aten.index, aten.index_put, aten.index_put_}
    draws = torch.Tag.nondeterministic_seeded

    def reads(func: Any, args: Any) -> bool:
        if func.overloadpacket in indexing:  # by a mask: how many there are is read first
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return bool(reading & set(func.tags)) or func.overloadpacket in more_reading

    class Watch(TorchDispatchMode):
        def __init__(self, device: torch.device) -> None:
            super().__init__()
            self._type = device.type

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if reads(func, args):
                raise NotCapturable(f"{func} reads what is on the device")
            if draws in func.tags and not _is_certain(func, args, kwargs or {}):
                raise NotCapturable(f"{func} draws random numbers")
            if func.overloadpacket is aten.lift_fresh:
                raise NotCapturable("a tensor is made of Python's numbers")
            outputs = func(*args, **(kwargs or {}))
            for leaf in tree_leaves((args, kwargs, outputs)):
                # A single number on the CPU is part of the kernel's call.
                if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.device.type != self._type:
                    raise NotCapturable(f"{func} has a tensor on {leaf.device.type}")
            return outputs

    return Watch


def _is_certain(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation that may draw random numbers, for dropout, does not."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return not given.get("dropout_p", 0.0) if "dropout_p" in names else given.get("train") is False


class Graphs:
    """The captured steps of one model, by what tells them apart, such as rows and columns."""

    def __init__(self, capture: Capture, dtype: torch.dtype) -> None:
        self._capture = capture
        self._apart = APART.get(str(dtype).removeprefix("torch."), APART_IN_HALF)
        self._replays: OrderedDict[Hashable, Step | None] = OrderedDict()  # None: no memory for it
        self.refused = False  # no step of this model is captured
        self.bytes = 0  # on the device

    def clear(self) -> None:
        """Forget all of them, since the memory they are for goes."""
        self._replays.clear()
        self.bytes = 0

    def get(self, key: Hashable) -> Step | None:
        """The step of that key as it was captured; None where it was not."""
        step = self._replays.get(key)
        if step is not None:
            self._replays.move_to_end(key)
        return step

    def wants(self, key: Hashable) -> bool:
        """Whether this one should be captured now."""
        return not self.refused and key not in self._replays

    def capture(
        self, key: Hashable, prepare: Callable[[], tuple[Step, torch.Tensor]], expected: torch.Tensor
    ) -> None:
        """Capture a step that can be done several times, if its logits are then those expected.

        prepare: makes the place for the logits, and gives the step and that. Not now, where those expected
        are no numbers. Where it cannot be captured, or gives others, no step of this model is captured any
        more; where memory is short, this one is not.
        """
        if not bool(expected.isfinite().all()):
            return
        try:
            step, logits = prepare()
            replay = self._capture(step)
            replay()
            distance = float((logits - expected).std(correction=0) / expected.std(correction=0))
            if not distance <= self._apart:
                raise NotCapturable(f"its logits are {distance:.3f} of their spread apart from the model's")
        except Exception as error:
            if _is_out_of_memory(error):
                log.warning("no memory to capture a step of %s: %s", key, error)
                self._replays[key] = None
            else:
                log.warning("the steps of this model are not captured: %r", error)
                self.refused = True
                self.clear()
            return
        self._replays[key] = replay
        if len(self._replays) > MOST_GRAPHS:
            self._replays.popitem(last=False)
        self.bytes = self._capture.bytes()


class Steps:
    """Steps of one model, captured where they can be: what they read and answer, and the graphs between."""

    def __init__(self, capture: Capture, dtype: torch.dtype) -> None:
        self._graphs = Graphs(capture, dtype)
        self._inputs: Any = None  # Inputs, once there was a step
        self._outputs: Any = None

    @property
    def refused(self) -> bool:
        """Whether no step of this model is captured."""
        return self._graphs.refused

    def bytes(self) -> int:
        """On the device, between steps."""
        return self._graphs.bytes + (self._outputs.logits.nbytes if self._outputs else 0)

    def clear(self) -> None:
        """Forget what was captured, since the keys and values that it is for go elsewhere."""
        self._graphs.clear()

    def do(
        self,
        key: tuple[int, ...],
        tokens: list[int],
        places: list[int],
        make: Callable[[Inputs, Outputs], Step],
        eager: Callable[[], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Each row reads its token, of such a place: logits `[rows, vocabulary]`.

        And `likeliest` of them, where it is known. key: the number of rows, and what else tells steps apart;
        make: the step to capture, which reads these inputs, keeps its logits in these outputs, and can be
        done several times; eager: gives the logits of the same step as the model itself does it, likewise.
        """
        count = len(tokens)
        if not self._graphs.wants(key):
            replay = self._graphs.get(key)
            if replay is None:
                return eager().float(), None
            self._inputs.tell(tokens, places)
            replay()
            return self._outputs.logits[:count], self._outputs.likeliest[:, :count]
        logits = eager().float()

        def prepare() -> tuple[Step, torch.Tensor]:
            self._prepare(key[0], logits)
            self._inputs.tell(tokens, places)
            return make(self._inputs, self._outputs), self._outputs.logits[:count]

        self._graphs.capture(key, prepare, logits)
        if self.refused:
            self._inputs = self._outputs = None
            logits = eager().float()  # once more, for the keys and values that the other step left
        return logits, None

    def _prepare(self, rows: int, logits: torch.Tensor) -> None:
        """Places for what a step of so many rows reads and writes."""
        if self._outputs is None or len(self._outputs.logits) < rows:
            self._graphs.clear()
            rows = max(rows, ROWS[-1])
            self._inputs, self._outputs = Inputs(rows, logits.device), Outputs(rows, logits)


class Texts:
    """Keys and values of the texts of a causal language model in memory that does not move, and its steps.

    Each text has a row, which is filled from the left, and a step adds a token to all of them; see Joint.
    left: bytes that may be taken on the device now; options: more arguments of the model.
    """

    def __init__(
        self, model: Any, capture: Capture, left: Callable[[], int], options: dict[str, Any] | None = None
    ) -> None:
        self._model, self._left, self._options = model, left, options or {}
        self._steps = Steps(capture, model.dtype)
        self._memory: Any = None  # [keys and values of the layers, numbers]
        self._rows: Any = None  # the same as [..., rows, heads, columns, size]

    def bytes(self) -> int:
        """On the device, between steps and while nobody writes."""
        memory = self._memory
        return self._steps.bytes() + (0 if memory is None else memory.nbytes)

    def place(self, rows: int, columns: int, like: Sequence[Any], used: int) -> bool:
        """Have room for so many texts of such a length; `used` rows hold some. Whether there is any.

        like: layers with keys and values of that shape. What lies here stays if there is none.
        """
        if self._steps.refused:
            return False
        rows, columns = rows_for(rows), columns_for(columns)
        now = self._rows
        if now is not None and rows <= now.shape[1] and columns <= now.shape[3]:
            return True
        shapes = {(*one.shape[1::2], one.dtype) for layer in like for one in (layer.keys, layer.values)}
        if len(shapes) > 1:  # heads or their sizes differ from layer to layer
            return False
        if now is not None:
            columns = max(columns, now.shape[3])
        ((heads, size, _),) = shapes
        kept = None if now is None else now[:, :used].clone()
        if not self._take(2 * len(like), rows * columns * heads * size, like[0].keys):
            return False
        # All rows that there is memory for; those in use are a part of them.
        rows = self._memory.shape[1] // (columns * heads * size)
        memory = self._memory[:, : rows * columns * heads * size]
        self._rows = memory.view(-1, rows, heads, columns, size)
        if kept is not None:
            self._rows[:, :used, :, : kept.shape[3]] = kept
            self._rows[:, :used, :, kept.shape[3] :] = 0
        return True

    def _take(self, count: int, numbers: int, like: torch.Tensor) -> bool:
        """Have `[count, numbers]` at least; whether there are."""
        if self._memory is not None and self._memory.shape[1] >= numbers:
            return True
        needed = count * numbers * like.element_size()
        if needed > SHARE * self._left():
            log.info("no room for %.0f MB of keys and values that stay", needed / 1e6)
            return False
        try:
            memory = like.new_zeros(count, numbers)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            log.warning("no memory for keys and values that stay: %s", error)
            return False
        self._steps.clear()  # they read and write the old one
        self._memory = memory
        return True

    def lend(self, layers: Sequence[Any]) -> None:
        """Have these layers of a cache keep what they have here."""
        for i, layer in enumerate(layers):
            layer.keys, layer.values, layer.is_initialized = self._rows[2 * i], self._rows[2 * i + 1], True

    def write(self, first: int, last: int, layers: Sequence[Any]) -> None:
        """Copy a prompt's keys and values `[1, heads, columns, size]` of each layer into these rows."""
        import torch

        prompt = torch.stack([one for layer in layers for one in (layer.keys, layer.values)])
        columns = prompt.shape[3]
        self._rows[:, first:last, :, :columns] = prompt
        # Masked, but what is not a number would come through a mask.
        self._rows[:, first:last, :, columns:] = 0

    def move(self, source: int, target: int) -> None:
        """Copy a row to another place."""
        self._rows[:, target] = self._rows[:, source]

    def leave(self) -> None:
        """Nobody writes any more: the next one may have other rows and columns in the same memory."""
        self._rows = None
        if self._steps.refused:
            self._memory = None

    def step(
        self, tokens: list[int], filled: list[int], eager: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Each row reads its token behind so many others; see Steps."""
        width = self._rows.shape[3]
        rows, columns = rows_for(len(tokens)), min(columns_for(max(filled) + 1), width)

        def make(inputs: Inputs, outputs: Outputs) -> Step:
            return self._step(self._rows[:, :rows, :, :columns], inputs, outputs)

        return self._steps.do((rows, columns, width), tokens, filled, make, eager)

    def _step(self, texts: torch.Tensor, inputs: Inputs, outputs: Outputs) -> Step:
        from transformers import Cache

        model, options, (pairs, rows, _, columns, _) = self._model, self._options, texts.shape
        layers = [fixed((texts[i], texts[i + 1]), inputs.places[:rows]) for i in range(0, pairs, 2)]
        past = Cache(layers=layers)
        mask = texts.new_zeros(rows, 1, 1, columns)

        def step() -> None:
            inputs.mask(mask)
            logits = model(
                input_ids=inputs.tokens[:rows, None],
                attention_mask=mask,
                position_ids=inputs.places[:rows, None],
                past_key_values=past,
                use_cache=True,
                **options,
            ).logits
            outputs.keep(logits[:, -1])

        return step


class Inputs:
    """What a step is told: for each row its token, and the place of it among the row's, both `[rows]`.

    Rows that are not in use read the first token of the vocabulary as their first.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        import torch

        # From pinned memory it is copied without waiting, and so not written before it was copied.
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._told = torch.zeros(2, rows, dtype=torch.long, pin_memory=self._copied is not None)
        self._there = self._told.to(device, copy=True)
        self.tokens, self.places = self._there

    def tell(self, tokens: list[int], places: list[int]) -> None:
        import torch

        if self._copied:
            self._copied.synchronize()
        self._told[:, : len(tokens)] = torch.tensor([tokens, places])
        self._told[:, len(tokens) :] = 0
        self._there.copy_(self._told, non_blocking=True)
        if self._copied:
            self._copied.record()

    def mask(self, mask: torch.Tensor) -> None:
        """Write into `[rows, 1, 1, columns]` 0 where a row may look, and the lowest number elsewhere."""
        import torch

        rows, _, _, columns = mask.shape
        unread = torch.arange(columns, device=mask.device) > self.places[:rows, None]
        mask.zero_().masked_fill_(unread[:, None, None], torch.finfo(mask.dtype).min)


class Outputs:
    """What a step answers: logits `[rows, vocabulary]` in float32, and `likeliest` of them."""

    def __init__(self, rows: int, like: torch.Tensor) -> None:
        import torch

        self.logits = like.new_zeros(rows, like.shape[1], dtype=torch.float32)
        self.likeliest = like.new_zeros(2, rows, dtype=torch.float32)

    def keep(self, logits: torch.Tensor) -> None:
        rows = len(logits)
        self.logits[:rows].copy_(logits)
        self.likeliest[:, :rows].copy_(likeliest(self.logits[:rows]))


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Each row's likeliest token and its probability, `[2, rows]` in float32, from `[rows, vocabulary]`."""
    return told(logits, logits.argmax(-1))


def told(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """A token of each row and its probability, `[2, rows]` in float32, which holds any token's number."""
    import torch

    shares = (logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)).exp()
    return torch.stack((ids.to(shares.dtype), shares))


def some(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """These rows. Where they lie together, their numbers need not go to the device, which waits for that."""
    together = slice(rows[0], rows[0] + len(rows))
    return logits[together] if rows == list(range(together.start, together.stop)) else logits[rows]


def _is_out_of_memory(error: Exception) -> bool:
    # An unclear one as well: to go without a captured step costs speed only.
    return is_out(error, lambda: 0)


def rows_for(count: int) -> int:
    """The least number of rows captured for so many."""
    return next((rows for rows in ROWS if rows >= count), -(-count // ROWS[-1]) * ROWS[-1])


def columns_for(count: int) -> int:
    """Likewise of columns."""
    columns = COLUMNS
    while columns < count:
        columns *= 2
    return columns


def fixed(pair: tuple[torch.Tensor, torch.Tensor], places: torch.Tensor) -> Any:
    """A layer of Transformers' cache in which each row writes at a place that the device alone knows.

    pair: keys and values `[rows, heads, columns, size]`, which stay where they are; places: `[rows]`.
    """
    return _fixed_layer()(*pair, places)


@cache
def _fixed_layer() -> Any:
    import torch
    from transformers.cache_utils import DynamicLayer

    class Fixed(DynamicLayer):
        keys: Any
        values: Any

        def __init__(self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> None:
            super().__init__()
            self.keys, self.values, self.is_initialized = keys, values, True
            self.dtype, self.device = keys.dtype, keys.device
            self._places, self._rows = places, torch.arange(len(keys), device=keys.device)

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.keys[self._rows, :, self._places] = key_states[:, :, 0]
            self.values[self._rows, :, self._places] = value_states[:, :, 0]
            return self.keys, self.values

        def get_seq_length(self) -> int:
            # The rows differ, and a number would be captured. What builds on it is found out by its logits.
            return 0

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.keys.shape[2], 0

    return Fixed
