"""Models: which ones are in memory, and who may use them now?

The manager lends a loaded model for the length of a `with` block. It loads each checkpoint once,
however many ask for it at the same time, and lets idle models go when memory or time is up.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.checkpoints import Checkpoint, Offer
from components.errors import CheckpointError, DemoError, ModelLoadError, OutOfMemory
from components.progress import Progress, Report, Stopped, never, unreported
from components.turns import Turns

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tour")
T = TypeVar("T")

WAITING = Progress("waiting")
ACTIVATIONS = 1.2  # memory for a forward pass on top of the weights, as a factor


@dataclass(frozen=True)
class Loaded:
    """A model ready to run. bytes: of its weights in memory; seconds: that loading took, without download."""

    checkpoint: Checkpoint
    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    bytes: int
    seconds: float
    note: str = ""
    # Fast tokenizers keep truncation and padding as state: one thread at a time may set them.
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)  # those of the device
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """This visitor's turn on the device, in inference mode. Short: one step, never across a yield."""
        import torch

        with self.turns, torch.inference_mode():
            yield

    def share(self, make: Callable[[Loaded], T]) -> T:
        """What all visitors of this model use together, made by the first who asks: `make(loaded)`."""
        if make not in self._shared:
            self._shared.setdefault(make, make(self))
        return self._shared[make]


@dataclass(frozen=True)
class Snapshot:
    """One row of what the manager holds."""

    name: str
    bytes: int
    device: str
    users: int
    idle_seconds: float


@dataclass
class _Slot:
    """A checkpoint being loaded or lent. Guarded by the manager's condition."""

    loaded: Loaded | None = None
    error: BaseException | None = None
    users: int = 0
    last_used: float = 0.0
    progress: Progress = WAITING


class ModelManager:
    """Lends models. Everything that touches the world is an argument, so that tests can replace it.

    choose: an offer and what the visitor picked -> the checkpoint and a remark for the status line;
    fetch: a checkpoint -> its local folder; load: a checkpoint and its folder -> a Loaded;
    size: a folder -> bytes its weights will take; free: -> bytes free on the device now;
    budget: bytes that all models may take together, None for no limit but `free`;
    keep_alive: seconds an idle model stays, None for as long as there is room.
    """

    def __init__(
        self,
        choose: Callable[[Offer, str], tuple[Checkpoint, str]],
        fetch: Callable[[Checkpoint, Report], Path],
        load: Callable[[Checkpoint, Path], Loaded],
        size: Callable[[Path], int],
        free: Callable[[], int],
        budget: int | None = None,
        keep_alive: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._choose, self._fetch, self._load = choose, fetch, load
        self._size, self._free, self._clock = size, free, clock
        self._budget, self._keep_alive = budget, keep_alive
        self._slots: dict[Checkpoint, _Slot] = {}
        self._changed = threading.Condition()
        # Two loads at once have corrupted each other inside Transformers.
        self._one_load = threading.Lock()

    @contextmanager
    def use(
        self,
        offer: Offer,
        choice: str = "auto",
        report: Report = unreported,
        stopped: Stopped = never,
    ) -> Iterator[Loaded]:
        """Lend the model of what the visitor chose: "auto", "course", "starter" or a repository id.

        Raises CheckpointError or ModelLoadError if it cannot be had, OutOfMemory if the work inside
        the block does not fit on the device.
        """
        checkpoint, note = self._choose(offer, choice)
        with self._changed:
            self._drop_expired()
            slot = self._slots.get(checkpoint)
            first = slot is None
            if slot is None:
                slot = self._slots[checkpoint] = _Slot()
            slot.users += 1
        try:
            loaded = self._fill(checkpoint, slot, report) if first else self._wait(slot, report)
            report(Progress("running"))
            with _memory_errors():
                yield replace(loaded, note=f"{note} {loaded.note}".strip())
        finally:
            with self._changed:
                slot.users -= 1
                slot.last_used = self._clock()
                self._drop_expired()

    def snapshot(self) -> list[Snapshot]:
        """What is in memory now."""
        with self._changed:
            return [
                Snapshot(
                    checkpoint.name,
                    slot.loaded.bytes,
                    str(slot.loaded.device),
                    slot.users,
                    self._clock() - slot.last_used if not slot.users else 0.0,
                )
                for checkpoint, slot in self._slots.items()
                if slot.loaded
            ]

    def _fill(self, checkpoint: Checkpoint, slot: _Slot, report: Report) -> Loaded:
        """Fetch and load, telling this visitor and all who wait; a failure is forgotten at once."""

        def tell(progress: Progress) -> None:
            with self._changed:
                slot.progress = progress
                self._changed.notify_all()
            report(progress)

        try:
            folder = self._fetch(checkpoint, tell)
            with self._alone(tell):
                tell(Progress("loading weights"))
                self._make_room(checkpoint, self._size(folder))
                loaded = self._load(checkpoint, folder)
        except BaseException as error:
            with self._changed:
                slot.error = error
                del self._slots[checkpoint]
                self._changed.notify_all()
            raise
        with self._changed:
            slot.loaded = loaded
            self._changed.notify_all()
        return loaded

    @contextmanager
    def _alone(self, tell: Report) -> Iterator[None]:
        """No other load goes on inside; says so where it has to wait for one."""
        if not self._one_load.acquire(blocking=False):
            tell(Progress("waiting for another model to load"))
            self._one_load.acquire()
        try:
            yield
        finally:
            self._one_load.release()

    def _wait(self, slot: _Slot, report: Report) -> Loaded:
        """Wait for somebody else's load, passing its progress on."""
        seen = None
        while True:
            with self._changed:
                while not (slot.loaded or slot.error or slot.progress != seen):
                    self._changed.wait()
                loaded, error, seen = slot.loaded, slot.error, slot.progress
            if loaded is not None:
                return loaded
            if isinstance(error, DemoError):
                raise type(error)(str(error)) from error
            if error is not None:
                raise ModelLoadError("The checkpoint could not be loaded. Try again.") from error
            report(seen)

    def _make_room(self, checkpoint: Checkpoint, weights: int) -> None:
        """Let idle models go, least recently used first, until `weights` bytes fit; else say the sizes.

        If it would not fit with all of them gone, none goes.
        """
        needed = int(weights * ACTIVATIONS)
        while True:
            with self._changed:
                used = sum(slot.loaded.bytes for slot in self._slots.values() if slot.loaded)
                over_budget = self._budget is not None and used + weights > self._budget
                if not over_budget and needed <= self._free():
                    return
                idle = [(s.last_used, c) for c, s in self._slots.items() if s.loaded and not s.users]
                at_work = sum(s.loaded.bytes for s in self._slots.values() if s.loaded and s.users)
                left = self._free() + used - at_work
                enough = needed <= left
                if self._budget is not None:
                    left = min(left, self._budget - at_work)
                    enough = enough and weights <= left
                if not idle or not enough:
                    sizes = f"{needed / 1e6:.0f} MB, and {max(0, left) / 1e6:.0f} MB are left"
                    advice = (
                        "while other models are at work. Try again later, or choose a smaller checkpoint."
                        if at_work
                        else "on this device. Choose a smaller checkpoint."
                    )
                    raise ModelLoadError(f"{checkpoint.name} needs {sizes} {advice}")
                del self._slots[min(idle, key=lambda pair: pair[0])[1]]
            _release_memory()

    def _drop_expired(self) -> None:
        """Forget models that nobody has used for the keep-alive time. Call it with the condition held."""
        if self._keep_alive is None:
            return
        now = self._clock()
        expired = [
            checkpoint
            for checkpoint, slot in self._slots.items()
            if slot.loaded and not slot.users and now - slot.last_used >= self._keep_alive
        ]
        for checkpoint in expired:
            del self._slots[checkpoint]
        if expired:
            _release_memory()


def _release_memory() -> None:
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Torch's own out-of-memory error, in a sentence a visitor can act on."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # For the CPU torch has no class of its own: "DefaultCPUAllocator: can't allocate memory".
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate" not in str(error):
            raise
        _release_memory()
        raise OutOfMemory(
            "The device ran out of memory on this input. Try a shorter or smaller one, "
            "or a smaller checkpoint."
        ) from error


def weights_bytes(folder: Path, dtype_bytes: int = 4) -> int:
    """Bytes that the safetensors of a folder take in memory, each number in `dtype_bytes`.

    Raises ModelLoadError if a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no dictionary, it has keys() only
                    total += math.prod(weights.get_slice(name).get_shape()) * dtype_bytes
        except SafetensorError as error:
            raise ModelLoadError(
                "The weights of this checkpoint are damaged on this disk. Choose another checkpoint."
            ) from error
    return total


def load(checkpoint: Checkpoint, folder: Path, device: torch.device, dtype: torch.dtype) -> Loaded:
    """Load model and processor from a local Hugging Face folder onto the device, in evaluation mode.

    On an accelerator without room for it, once more on the CPU, which the note says.
    Raises ModelLoadError if a part is missing: a head of random weights would answer at random.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    started = time.perf_counter()
    recipe = checkpoint.recipe
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        processor = getattr(transformers, recipe.processor).from_pretrained(folder, trust_remote_code=False)
        # A tokenizer without files loads with its special tokens only, and everything is unknown to it.
        if recipe.processor == "AutoTokenizer" and len(processor) <= len(processor.all_special_tokens):
            raise ValueError("the tokenizer has no vocabulary")
        model_class = getattr(transformers, recipe.model(config.to_dict()))
        model, info = model_class.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=recipe.attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
        if info["mismatched_keys"]:
            raise ValueError(f"sizes differ from config.json: {sorted(info['mismatched_keys'])[0]}")
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        log.warning("%s does not load", checkpoint.name, exc_info=True)
        raise ModelLoadError(
            f"{checkpoint.name} could not be loaded: its files do not make a complete model. "
            "Choose another checkpoint."
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.name} lacks weights that this task needs ({len(info['missing_keys'])} tensors, "
            f"such as {sorted(info['missing_keys'])[0]}). Choose a checkpoint fine-tuned for it."
        )
    if recipe.processor == "AutoTokenizer" and processor.pad_token is None:
        # Many decoders have none; what stands there is masked.
        processor.pad_token = processor.eos_token
        model.config.pad_token_id = processor.pad_token_id
    model.eval()
    note = ""
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        device, dtype = torch.device("cpu"), torch.float32
        model.to(device, dtype)
        _release_memory()
        note = "The accelerator has no room for it: it runs on the CPU."
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    return Loaded(checkpoint, model, processor, device, dtype, size, time.perf_counter() - started, note)
