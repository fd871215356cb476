"""Models: which ones are in memory, and who may use them now?

The manager lends a loaded model for the length of a `with` block. It loads each checkpoint once,
however many ask for it at the same time, and lets idle models go when memory or time is up. A load has
a thread of its own, so that it goes on for the others when one of those who wait for it leaves; an idle
model has a timer. Nothing else runs when nobody asks.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from components.errors import Cancelled, DemoError, ModelLoadError, NotFinite, OutOfMemory
from components.models.device import UNLIMITED, release_memory
from components.models.memory import is_out
from components.models.turns import Turns
from components.progress import Progress, Report, Stopped, never, unreported
from components.weights.checkpoints import Checkpoint, Offer

if TYPE_CHECKING:
    import torch

    from components.models.finite import Watch

log = logging.getLogger("tour")
T = TypeVar("T")
Run = TypeVar("Run", bound=Callable[..., Any])
Away = Callable[[Callable[..., Any], str, Mapping[str, Any], Report, Stopped], Iterator[Any]]

# Kept free for activations beside each model, as a share of its weights. Models of one device compute in
# turns, so that the one whose turn it is has the reserve of all.
RESERVE = 0.2
SHARE = 0.8  # of what is free at the first load: the budget where none is given
STALLED = 60  # seconds without progress after which those who wait are told
REPEAT = 10  # seconds after which they are told again
LOOK = 0.2  # seconds from one look at whether a waiting visitor has stopped to the next

LOOKING = Progress("looking for the checkpoint")
ANOTHER_LOADS = Progress("waiting for another model to load")
RAN_ON_CPU = "The accelerator ran out of memory: this ran on the CPU."
LOADED_ON_CPU = "The accelerator has no room for it: it runs on the CPU."
LOADED_IN_FULL = "In 16 bits its numbers became too large (NaN or infinity): it runs in float32."


class AcceleratorOutOfMemory(OutOfMemory):
    """As its parent says, and the device has the CPU beside it."""


class TooNarrow(NotFinite):
    """As its parent says, and the next time the model is lent in float32."""


class _NoRoom(ModelLoadError):
    """The weights do not fit at that place."""


class _Abandoned(BaseException):
    """Nobody waits for this load any more. No Exception: what fetches must not take it for its own."""


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
    quantized: str = "none"  # what the decoder's linear layers are in, "int8" or "int4", if not in dtype
    # Fast tokenizers keep truncation and padding as state: one thread at a time may set them.
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)  # those of the device
    # Bytes that may be taken on the device now beside the weights, and stay taken.
    left: Callable[[], int] = field(default=lambda: UNLIMITED, repr=False, compare=False)
    watch: Watch | None = field(default=None, repr=False, compare=False)
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def precision(self) -> str:
        """What its weights are kept in: "float32", "float16", "bfloat16", "int8" or "int4"."""
        return str(self.dtype).removeprefix("torch.") if self.quantized == "none" else self.quantized

    @property
    def kept(self) -> int:
        """Bytes on the device beside the weights, of what stays with the model for its next visitors."""
        return sum(getattr(one, "kept_bytes", 0) for one in tuple(self._shared.values()))

    def compute(self, step: Callable[[], T], checked: bool = False) -> T:
        """What `step()` gives on this visitor's turn on the device, in inference mode. It should be short.

        Raises NotFinite if the model gave NaN or infinity. checked: the step sees to that by itself, with
        numbers that it brings to the host anyway, so that the device is not waited for once more.
        """
        import torch

        def watched() -> T:
            with nullcontext() if checked else self.watching():
                return step()

        return self.turns.run(torch.inference_mode()(watched))

    def watching(self) -> AbstractContextManager[None]:
        """For passes on a turn of one's own: at the end of the block NotFinite is raised as by `compute`."""
        return self.watch.watching() if self.watch else nullcontext()

    def share(self, make: Callable[[Loaded], T]) -> T:
        """What all visitors of this model use together, made by the first who asks: `make(loaded)`."""
        if make not in self._shared:
            self._shared.setdefault(make, make(self))
        return self._shared[make]


@dataclass(frozen=True)
class Snapshot:
    """One row of what the manager holds. state: "loaded", or "loading" with how far it is in `progress`.

    bytes: of its weights, 0 while loading; users: who use it or wait for it; idle_seconds: 0 while in use;
    loads, hits: how often this checkpoint was loaded since the start, and lent without that.
    """

    name: str
    task: str
    bytes: int
    device: str
    dtype: str
    users: int
    idle_seconds: float
    loads: int
    hits: int
    pinned: bool
    state: str
    progress: str = ""


@dataclass(frozen=True)
class Totals:
    """Since the start. evictions: idle models that went because memory was needed, not time was up."""

    loads: int
    hits: int
    evictions: int


def _stays(loaded: Loaded, report: Report) -> Loaded:
    return loaded


@dataclass(frozen=True)
class Place:
    """A device that models are loaded onto.

    load: a checkpoint and its folder -> a Loaded; move: brings that onto the device where it is not
    there yet, and reports if so; size: a folder -> bytes its weights will take; free: -> bytes free now;
    spare: -> those that libraries beside torch could take, as `free` if not given.
    load and move may raise OutOfMemory or torch's own error.
    """

    load: Callable[[Checkpoint, Path], Loaded]
    size: Callable[[Path], int]
    free: Callable[[], int]
    move: Callable[[Loaded, Report], Loaded] = _stays
    spare: Callable[[], int] | None = None

    def is_out(self, error: BaseException) -> bool:
        """Whether the error says that there is no memory here."""
        return isinstance(error, OutOfMemory) or is_out(error, self.spare or self.free)


@dataclass
class _Slot:
    """A checkpoint being loaded or lent. Guarded by the manager's condition."""

    since: float  # when its progress last changed
    loaded: Loaded | None = None
    error: BaseException | None = None
    users: int = 0
    last_used: float = 0.0
    progress: Progress = LOOKING
    on_cpu: bool = False  # beside an accelerator
    pinned: bool = False
    reading: bool = False  # its weights, which is soon over: it is no longer abandoned
    abandoned: bool = False
    fresh: bool = False  # loaded, not lent yet

    @property
    def idle(self) -> bool:
        """Whether it may be let go."""
        return self.loaded is not None and not self.users and not self.pinned

    def shown(self, now: float) -> Progress:
        """Its progress, and for how long there has been none."""
        stalled = int((now - self.since) // REPEAT * REPEAT)
        return replace(self.progress, stalled=stalled) if stalled >= STALLED else self.progress


@dataclass
class _Counts:
    loads: int = 0
    hits: int = 0


# A checkpoint, whether it is the copy on the CPU beside an accelerator, and whether it is in float32 because
# fewer bits do not do.
_Key = tuple[Checkpoint, bool, bool]


def _nowhere() -> Place | None:
    return None


def _nothing(offer: Offer, choice: str, checkpoint: Checkpoint, error: DemoError) -> None:
    return None


def _timer(seconds: float, work: Callable[[], None]) -> Callable[[], None]:
    """Have `work` done after so many seconds; gives what cancels it."""
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), work)
    timer.name, timer.daemon = "keep-alive", True
    timer.start()
    return timer.cancel


def _thread(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


class ModelManager:
    """Lends models. Everything that touches the world is an argument, so that tests can replace it.

    choose: an offer and what the visitor picked -> the checkpoint and a remark for the status line;
    instead: an offer, what was picked, the checkpoint that it stood for and why that did not come -> the same
    for what stands in for it, None where nothing does;
    fetch: a checkpoint -> its local folder, told through its report, from which an error may come that
    ends it; load, size, free, move, spare: see Place; cpu: the CPU where that is not the place of all
    models, else None; full: the place of all models in float32 where they are in 16 bits, else None;
    budget: bytes that all models may take together with their reserve for activations, None
    for a share of what is free at the first load;
    keep_alive: seconds an idle model stays, None for as long as there is room;
    after: starts a timer and gives what cancels it; start: does the work of a load, named, elsewhere or here.

    away: where runs that survive out-of-memory are done if not in this process, see zerogpu.py.
    """

    away: Away | None = None

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
        *,
        move: Callable[[Loaded, Report], Loaded] = _stays,
        spare: Callable[[], int] | None = None,
        cpu: Callable[[], Place | None] = _nowhere,
        instead: Callable[[Offer, str, Checkpoint, DemoError], tuple[Checkpoint, str] | None] = _nothing,
        full: Callable[[], Place | None] = _nowhere,
        after: Callable[[float, Callable[[], None]], Callable[[], None]] = _timer,
        start: Callable[[str, Callable[[], None]], None] = _thread,
    ) -> None:
        self._choose, self._fetch, self._clock, self._after = choose, fetch, clock, after
        self._instead, self._start = instead, start
        self._main, self._cpu, self._full = Place(load, size, free, move, spare), cpu, full
        self._narrow: set[Checkpoint] = set()  # those that need float32
        self._budget, self._keep_alive = budget, keep_alive
        self._measured: dict[bool, int] = {}  # budgets of the main place and of the CPU beside it
        self._slots: dict[_Key, _Slot] = {}
        self._counts: dict[_Key, _Counts] = {}
        self._evictions = 0
        self._turns: dict[str, Turns] = {}  # by device
        self._cancel_timer: Callable[[], None] | None = None
        self._changed = threading.Condition()
        # Two loads at once have corrupted each other inside Transformers.
        self._one_load = threading.Lock()

    def use(
        self,
        offer: Offer,
        choice: str = "auto",
        report: Report = unreported,
        stopped: Stopped = never,
    ) -> AbstractContextManager[Loaded]:
        """Lend the model of what the visitor chose: "auto", "course", "starter" or a repository id.

        Raises CheckpointError or ModelLoadError if it cannot be had, Cancelled if the visitor stops while
        waiting for it, OutOfMemory if the work inside the block does not fit on the device; what was idle
        has made room then.
        """
        return self._lend(offer, choice, report, stopped, on_cpu=False)

    def on_cpu(self) -> OnCPU | None:
        """A view that lends copies on the CPU; None where the models run there anyway."""
        return OnCPU(self) if self._cpu() else None

    def preload(self, offer: Offer) -> None:
        """Load what "auto" stands for and keep it: it is never let go but by `unload`. Returns when done.

        Raises CheckpointError or ModelLoadError.
        """
        key, slot, note = self._come(offer, "auto", unreported, never, pin=True)
        self._leave(key, slot)
        if note:
            log.warning("%s: %s", offer.recipe.task, note)

    def fetched(
        self,
        offer: Offer,
        choice: str = "auto",
        report: Report = unreported,
        stopped: Stopped = never,
        fetch: Callable[[Checkpoint, Report], Path] | None = None,
    ) -> tuple[Checkpoint, Path]:
        """The checkpoint of what the visitor chose and its folder; nothing of it is loaded.

        fetch: how the folder comes here, if not as for a model, such as without its weights.
        Raises CheckpointError if it cannot be had, Cancelled if the visitor stops while it is on its way.
        """
        checkpoint, _ = self._choose(offer, choice)

        def tell(progress: Progress) -> None:
            if stopped():
                raise Cancelled("Stopped while files were on their way.")
            report(progress)

        get = fetch or self._fetch
        try:
            return checkpoint, get(checkpoint, tell)
        except DemoError as error:
            other = self._stand_in(offer, choice, checkpoint, error, stopped)
            if other is None:
                raise
        return other[0], get(other[0], tell)

    def unload(self, name: str) -> bool:
        """Let go what is idle of the checkpoint of that name, pinned or not; whether there was any.

        What is in use or being loaded is left alone.
        """
        with self._changed:
            found = [
                key
                for key, slot in self._slots.items()
                if key[0].name == name and slot.loaded and not slot.users
            ]
            for key in found:
                self._drop(key)
        if found:
            release_memory()
        return bool(found)

    def snapshot(self) -> list[Snapshot]:
        """What is in memory now or being loaded."""
        with self._changed:
            now = self._clock()
            return [self._row(key, slot, now) for key, slot in self._slots.items()]

    def totals(self) -> Totals:
        with self._changed:
            counts = self._counts.values()
            return Totals(sum(c.loads for c in counts), sum(c.hits for c in counts), self._evictions)

    def batches(self) -> Counter[int]:
        """How many batches of each size were computed since the start, on all devices."""
        with self._changed:
            # Copied at once: the device's thread counts on.
            return sum((Counter(dict(turns.sizes)) for turns in self._turns.values()), Counter())

    def room(self) -> int:
        """Bytes that the weights of one more model may take now, if everything idle goes for it.

        In the number format of the accelerator where there is one, also of what will go beside it.
        """
        with self._changed:
            most = self._room(on_cpu=False)[1]
            if self._cpu():
                most = max(most, self._room(on_cpu=True)[1] // 2)  # float32 there takes twice as many
        return max(0, int(most / (1 + RESERVE)))

    @contextmanager
    def alone(self, report: Report) -> Iterator[None]:
        """No other load goes on inside; says so where it has to wait for one."""
        if not self._one_load.acquire(blocking=False):
            report(ANOTHER_LOADS)
            while not self._one_load.acquire(timeout=LOOK):
                report(ANOTHER_LOADS)  # this is where a load ends that nobody waits for any more
        try:
            yield
        finally:
            self._one_load.release()

    # Visitors

    @contextmanager
    def _lend(
        self, offer: Offer, choice: str, report: Report, stopped: Stopped, on_cpu: bool
    ) -> Iterator[Loaded]:
        key, slot, note = self._come(offer, choice, report, stopped, on_cpu)
        try:
            # No name for what is lent: it would outlive the count of users by a moment.
            yield self._lent(key, slot, report, (note, RAN_ON_CPU if on_cpu else ""))
        except NotFinite as error:
            if not self._widens(key, slot):
                raise
            raise TooNarrow(str(error)) from error
        except (RuntimeError, MemoryError, OSError) as error:
            if not self._place(slot.on_cpu).is_out(error):
                raise
            self._evict_idle()
            accelerated = slot.loaded is not None and slot.loaded.device.type != "cpu"
            raise (AcceleratorOutOfMemory if accelerated else OutOfMemory)(
                "The device ran out of memory on this input. Try a shorter or smaller one, "
                "or a smaller checkpoint."
            ) from error
        finally:
            self._leave(key, slot)

    def _come(
        self,
        offer: Offer,
        choice: str,
        report: Report,
        stopped: Stopped,
        on_cpu: bool = False,
        pin: bool = False,
    ) -> tuple[_Key, _Slot, str]:
        """Count one more user of what the choice means and wait for its load; gives the remark on it as well.

        What stands in for a checkpoint that does not come is waited for in its place; if that does not come
        either, the first error is the one that is told.
        """
        checkpoint, note = self._choose(offer, choice)
        first: DemoError | None = None
        while True:
            key = self._key(checkpoint, on_cpu)
            slot = self._enter(key, pin)
            try:
                self._wait(slot, report, stopped)
                return key, slot, note
            except BaseException as error:
                self._leave(key, slot)
                if first and not isinstance(error, Cancelled):
                    raise first from error
                if not isinstance(error, DemoError):
                    raise
                other = self._stand_in(offer, choice, checkpoint, error, stopped)
                if other is None:
                    raise
                first = error.with_traceback(None)
            checkpoint, note = other

    def _stand_in(
        self, offer: Offer, choice: str, checkpoint: Checkpoint, error: DemoError, stopped: Stopped
    ) -> tuple[Checkpoint, str] | None:
        """What to lend in place of a checkpoint that did not come, with a remark; nothing once stopped."""
        if isinstance(error, Cancelled):
            return None
        if stopped():
            raise Cancelled("Stopped while the model was loading.") from error
        return self._instead(offer, choice, checkpoint, error)

    def _key(self, checkpoint: Checkpoint, on_cpu: bool) -> _Key:
        return checkpoint, on_cpu, not on_cpu and checkpoint in self._narrow

    def _widens(self, key: _Key, slot: _Slot) -> bool:
        """Whether a model that gave no numbers can be had in float32; it is lent so from now on."""
        loaded, (checkpoint, on_cpu, full) = slot.loaded, key
        narrow = loaded is not None and loaded.dtype.itemsize < 4
        if on_cpu or full or not narrow or not self._full():
            return False
        with self._changed:
            self._narrow.add(checkpoint)
        log.warning("%s gives no finite numbers in %s", checkpoint.name, loaded and loaded.precision)
        return True

    def _enter(self, key: _Key, pin: bool = False) -> _Slot:
        """Count one more user; the first one starts the load."""
        with self._changed:
            slot = self._slots.get(key)
            new = slot is None
            if slot is None:
                slot = self._slots[key] = _Slot(self._clock(), on_cpu=key[1])
            slot.users += 1
            slot.pinned = slot.pinned or pin
            if new:
                try:
                    self._start(f"load {key[0].name}", lambda: self._fill(key, slot))
                except RuntimeError:  # no more threads
                    del self._slots[key]
                    raise
            return slot

    def _wait(self, slot: _Slot, report: Report, stopped: Stopped) -> None:
        """Wait for the load, passing its progress on."""
        told: Progress | None = None
        while True:
            with self._changed:
                if not slot.loaded and not slot.error and slot.shown(self._clock()) == told:
                    self._changed.wait(LOOK)
                loaded, error, progress = bool(slot.loaded), slot.error, slot.shown(self._clock())
            if loaded:
                return
            if isinstance(error, DemoError):
                raise type(error)(str(error)) from error
            if error is not None:
                raise ModelLoadError("The checkpoint could not be loaded. Try again.") from error
            if stopped():
                raise Cancelled("Stopped while the model was loading.")
            if progress != told:
                report(progress)
                told = progress

    def _lent(self, key: _Key, slot: _Slot, report: Report, notes: tuple[str, str]) -> Loaded:
        """What is lent of a slot that is loaded, with remarks on the choice and on the place."""
        report(Progress("running"))
        with self._changed:
            self._counts[key].hits += not slot.fresh
            slot.fresh = False
            # A user has been counted, so that it is there.
            loaded = cast(Loaded, slot.loaded)
        return replace(loaded, note=" ".join(filter(None, (notes[0], loaded.note, notes[1]))))

    def _leave(self, key: _Key, slot: _Slot) -> None:
        """Count one user less; a load that nobody waits for ends, a model that nobody uses is idle."""
        with self._changed:
            slot.users -= 1
            slot.last_used = self._clock()
            loading = not slot.loaded and not slot.error and not slot.reading
            if loading and not slot.users:
                slot.abandoned = True
                del self._slots[key]
            dropped = self._drop_expired()
        if dropped:
            release_memory()

    # The thread of a load

    def _fill(self, key: _Key, slot: _Slot) -> None:
        """Fetch and load, telling all who wait; a failure is told to them and forgotten at once."""

        def tell(progress: Progress) -> None:
            with self._changed:
                if slot.abandoned:
                    raise _Abandoned
                if progress != slot.progress:
                    slot.progress, slot.since = progress, self._clock()
                    self._changed.notify_all()

        try:
            folder = self._fetch(key[0], tell)
            with self.alone(tell):
                with self._changed:
                    if slot.abandoned:
                        raise _Abandoned
                    slot.reading = True
                self._keep(key, slot, self._read(key, slot, folder, tell))
        except _Abandoned:
            log.info("nobody waits for %s any more", key[0].name)
        except BaseException as error:
            if not isinstance(error, DemoError):
                log.exception("%s does not load", key[0].name)
            with self._changed:
                if not slot.abandoned:
                    # Its traceback would keep what was read so far alive.
                    slot.error = error.with_traceback(None)
                    del self._slots[key]
                    self._changed.notify_all()

    def _read(self, key: _Key, slot: _Slot, folder: Path, tell: Report) -> Loaded:
        """Load onto the device; out of memory, once more without what is idle, and then onto the CPU.

        Where there is no room to begin with, onto the CPU at once. Raises ModelLoadError if that has none.
        """
        checkpoint, on_cpu, full = key
        if full:
            self._supersede(checkpoint, slot)
        attempts = [on_cpu, on_cpu]
        if not on_cpu and self._cpu():
            attempts.append(True)
        while attempts:
            attempt = attempts.pop(0)
            place = self._place(attempt, full)
            try:
                self._make_room(checkpoint, place.size(folder), attempt)
            except _NoRoom as error:
                if attempt or True not in attempts:
                    raise ModelLoadError(str(error)) from error
                log.warning("%s goes to the CPU: %s", checkpoint.name, error)
                attempts = [True]
                continue
            slot.on_cpu = attempt
            tell(Progress("loading weights"))
            try:
                loaded = place.move(place.load(checkpoint, folder), tell)
                notes = (LOADED_IN_FULL if full else "", LOADED_ON_CPU if attempt and not on_cpu else "")
                return replace(loaded, note=" ".join(filter(None, notes)))
            except (RuntimeError, MemoryError, OSError, OutOfMemory) as error:
                if not place.is_out(error):
                    raise
                log.warning("no memory to load %s: %s", checkpoint.name, error)
            # After the except block: its traceback holds what was loaded so far.
            self._evict_idle()
        raise ModelLoadError(
            f"The device ran out of memory while {checkpoint.name} was loaded. Choose a smaller checkpoint."
        )

    def _supersede(self, checkpoint: Checkpoint, slot: _Slot) -> None:
        """Let the copy in fewer bits go, now or with its last user; what kept it loaded keeps the new one."""
        key = (checkpoint, False, False)
        with self._changed:
            old = self._slots.get(key)
            if old:
                slot.pinned, old.pinned = slot.pinned or old.pinned, False
                if old.idle:
                    self._drop(key)
        release_memory()

    def _keep(self, key: _Key, slot: _Slot, loaded: Loaded) -> None:
        with self._changed:
            turns = self._turns.setdefault(str(loaded.device), Turns())
            slot.loaded = replace(loaded, turns=turns, left=partial(self._left, slot.on_cpu))
            slot.fresh, slot.last_used = True, self._clock()
            self._counts.setdefault(key, _Counts()).loads += 1
            self._changed.notify_all()
            dropped = self._drop_expired()
        if dropped:
            release_memory()

    # Memory

    def _place(self, on_cpu: bool, full: bool = False) -> Place:
        return (self._cpu() if on_cpu else self._full() if full else None) or self._main

    def _room(self, on_cpu: bool) -> tuple[int, int]:
        """Bytes left at that place now, and if everything idle went. Call it with the condition held."""
        free = self._place(on_cpu).free()
        # Measured at the first load, when nothing of ours is there.
        budget = (
            self._measured.setdefault(on_cpu, int(SHARE * free)) if self._budget is None else self._budget
        )
        held = [
            (slot, slot.loaded.bytes, slot.loaded.kept) for _, slot in self._counted(on_cpu) if slot.loaded
        ]
        in_all = sum(_with_reserve(size) + kept for _, size, kept in held)
        to_go = sum(_with_reserve(size) + kept for slot, size, kept in held if slot.idle)
        gained = sum(size + kept for slot, size, kept in held if slot.idle and slot.on_cpu == on_cpu)
        return min(free, budget - in_all), min(free + gained, budget - in_all + to_go)

    def _left(self, on_cpu: bool) -> int:
        """Bytes that a model there may take now beside its weights, without any other going for it."""
        with self._changed:
            return max(0, self._room(on_cpu)[0])

    def _counted(self, on_cpu: bool) -> list[tuple[_Key, _Slot]]:
        """What shares the budget of that place: a given one is for everything, a measured one for itself."""
        given = self._budget is not None
        return [(k, s) for k, s in self._slots.items() if s.loaded and (given or s.on_cpu == on_cpu)]

    def _make_room(self, checkpoint: Checkpoint, weights: int, on_cpu: bool) -> None:
        """Let idle models go, least recently used first, until `weights` bytes and their reserve fit.

        Raises _NoRoom with the sizes if they would not fit with all of them gone: then none goes.
        """
        needed = _with_reserve(weights)
        while True:
            with self._changed:
                now, at_most = self._room(on_cpu)
                if needed <= now:
                    return
                idle = [key for key, slot in self._counted(on_cpu) if slot.idle]
                if not idle or needed > at_most:
                    raise _NoRoom(self._no_room(checkpoint, needed, max(now, at_most), on_cpu))
                self._drop(min(idle, key=lambda key: self._slots[key].last_used))
                self._evictions += 1
            release_memory()

    def _no_room(self, checkpoint: Checkpoint, needed: int, left: int, on_cpu: bool) -> str:
        kept = [slot for _, slot in self._counted(on_cpu) if not slot.idle]
        if any(slot.users for slot in kept):
            advice = "while other models are at work. Try again later, or choose a smaller checkpoint."
        elif kept:
            advice = "beside the models that stay loaded. Choose a smaller checkpoint."
        else:
            advice = "on this device. Choose a smaller checkpoint."
        sizes = f"{needed / 1e6:.0f} MB, and {max(0, left) / 1e6:.0f} MB are left"
        return f"{checkpoint.name} needs {sizes} {advice}"

    def _evict_idle(self) -> None:
        """Let everything go that may."""
        with self._changed:
            idle = [key for key, slot in self._slots.items() if slot.idle]
            for key in idle:
                self._drop(key)
            self._evictions += len(idle)
        release_memory()

    def _drop(self, key: _Key) -> None:
        """Forget a model that nobody uses. Call it with the condition held."""
        self._slots.pop(key).loaded = None
        if self._cancel_timer and not any(slot.loaded for slot in self._slots.values()):
            self._cancel_timer()
            self._cancel_timer = None

    # Time

    def _drop_expired(self) -> bool:
        """Forget what nobody has used for the keep-alive time, and have a timer for what is left.

        Whether there was any. Call it with the condition held.
        """
        if self._keep_alive is None:
            return False
        now = self._clock()
        ends = {key: slot.last_used + self._keep_alive for key, slot in self._slots.items() if slot.idle}
        expired = [key for key, end in ends.items() if end <= now]
        for key in expired:
            self._drop(key)
        left = [end for end in ends.values() if end > now]
        # One that runs already ends no later: the next end is looked for then.
        if left and not self._cancel_timer:
            self._cancel_timer = self._after(min(left) - now, self._on_time)
        return bool(expired)

    def _on_time(self) -> None:
        with self._changed:
            if self._cancel_timer:
                self._cancel_timer()
            self._cancel_timer = None
            dropped = self._drop_expired()
        if dropped:
            release_memory()

    def _row(self, key: _Key, slot: _Slot, now: float) -> Snapshot:
        checkpoint, loaded = key[0], slot.loaded
        counts = self._counts.get(key, _Counts())
        return Snapshot(
            name=checkpoint.name,
            task=checkpoint.recipe.task,
            bytes=loaded.bytes if loaded else 0,
            device=str(loaded.device) if loaded else "",
            dtype=loaded.precision if loaded else "",
            users=slot.users,
            idle_seconds=now - slot.last_used if loaded and not slot.users else 0.0,
            loads=counts.loads,
            hits=counts.hits,
            pinned=slot.pinned,
            state="loaded" if loaded else "loading",
            progress="" if loaded else str(slot.progress),
        )


class OnCPU:
    """Lends the manager's models as copies on the CPU, and their note says why."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    def use(
        self,
        offer: Offer,
        choice: str = "auto",
        report: Report = unreported,
        stopped: Stopped = never,
    ) -> AbstractContextManager[Loaded]:
        """As ModelManager.use."""
        return self._models._lend(offer, choice, report, stopped, on_cpu=True)


def survives_out_of_memory(run: Run) -> Run:
    """For a function or generator function that takes a ModelManager, and `stopped` if it likes.

    When it runs out of memory, it begins once more, now that what was idle is gone; if that fails too and
    it was on an accelerator, once more with models on the CPU. Where 16 bits gave no finite numbers, it
    begins once more with the model in float32. What a generator yields must stand for all that it has
    yielded before. Raises OutOfMemory or NotFinite if nothing helped or the visitor has stopped.
    """
    signature = inspect.signature(run)

    @wraps(run)
    def once(*args: Any, **options: Any) -> Any:
        attempts = _Attempts(signature.bind(*args, **options))
        if (elsewhere := attempts.away(once)) is not None:
            *_, answer = elsewhere
            return answer
        while True:
            try:
                return run(*attempts.bound.args, **attempts.bound.kwargs)
            except (OutOfMemory, TooNarrow) as error:
                if not attempts.another(error):
                    raise
            # The next one is outside of the except block, whose traceback holds the tensors of this one.

    @wraps(run)
    def steps(*args: Any, **options: Any) -> Iterator[Any]:
        attempts = _Attempts(signature.bind(*args, **options))
        if (elsewhere := attempts.away(steps)) is not None:
            yield from elsewhere
            return
        while True:
            try:
                return (yield from run(*attempts.bound.args, **attempts.bound.kwargs))
            except (OutOfMemory, TooNarrow) as error:
                if not attempts.another(error):
                    raise

    return cast(Run, steps if inspect.isgeneratorfunction(run) else once)


class _Attempts:
    """The arguments of a run: first as given, then the same again, then with models on the CPU."""

    def __init__(self, bound: inspect.BoundArguments) -> None:
        given = bound.arguments
        self.bound = bound
        self._name = next(
            (name for name, value in given.items() if isinstance(value, ModelManager)), "models"
        )
        self._stopped: Stopped = given.get("stopped", never)
        self._failed = 0

    def away(self, run: Callable[..., Any]) -> Iterator[Any] | None:
        """What `run` with these arguments yields where the manager sends it, None if that is here."""
        given = dict(self.bound.arguments)
        models = given.pop(self._name, None)
        if not isinstance(models, ModelManager) or models.away is None:
            return None
        report, _ = given.pop("report", unreported), given.pop("stopped", None)
        return models.away(run, self._name, given, report, self._stopped)

    def another(self, error: OutOfMemory | TooNarrow) -> bool:
        """Whether to try again after this error."""
        if isinstance(error, TooNarrow):
            # Once for each model: in float32 it raises another error.
            return not self._stopped()
        self._failed += 1
        if self._stopped() or self._failed > 2:
            return False
        if self._failed == 2:
            if not isinstance(error, AcceleratorOutOfMemory):
                return False
            models = self.bound.arguments[self._name].on_cpu()
            self.bound.arguments[self._name] = models
            return models is not None
        return True


def _with_reserve(weights: int) -> int:
    return int(weights * (1 + RESERVE))
