"""The manager, with everything that touches the world replaced; and the real loader on tiny folders."""

from __future__ import annotations

import inspect
import json
import logging
import queue
import random
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.errors import Cancelled, CheckpointError, DemoError, InputError, ModelLoadError, OutOfMemory
from components.models import manager as module
from components.models.loading import load, move, place, read, stored_dtype, weights_bytes
from components.models.manager import (
    LOADED_ON_CPU,
    RAN_ON_CPU,
    Loaded,
    ModelManager,
    Place,
    Totals,
    survives_out_of_memory,
)
from components.progress import Progress, Report, Stopped, never, unreported
from components.weights import hub
from components.weights.checkpoints import Checkpoint, Hub, Offer, Recipe
from tests import tiny
from tests.hub_server import HubServer
from tests.test_hub import make_repository

MB = 1_000_000
WAIT = 20  # seconds after which a test that hangs fails
RECIPE = Recipe("task", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
CLASSIFIER = Recipe(
    "task", lambda config: "AutoModelForSequenceClassification", "AutoTokenizer", lambda config: None
)


def named(name: str) -> Checkpoint:
    return Checkpoint(name, Hub(f"tiny/{name}"), RECIPE)


OFFER = Offer(named("course"), named("starter"))


class Model:
    """Doubles a number; can be watched for being let go."""

    def __call__(self, number: int) -> int:
        return 2 * number


class Timers:
    """Timers that end when the test says so."""

    def __init__(self) -> None:
        self.running: list[tuple[float, Callable[[], None]]] = []

    def after(self, seconds: float, work: Callable[[], None]) -> Callable[[], None]:
        timer = (seconds, work)
        self.running.append(timer)
        return lambda: self.running.remove(timer) if timer in self.running else None

    def end(self) -> None:
        self.running.pop(0)[1]()


class World:
    """What surrounds the manager: sizes in bytes by name, a clock, a loader that can be held or fail."""

    def __init__(self, sizes: dict[str, int] | None = None, device: str = "cpu") -> None:
        self.sizes, self.now, self.device, self.timers = sizes or {}, 0.0, device, Timers()
        self.memory = 10**12
        self.fetched: list[str] = []
        self.loads: list[str] = []
        self.before_fetch: Callable[[Checkpoint, Report], None] = lambda checkpoint, report: None
        self.before_load: Callable[[Checkpoint], None] = lambda checkpoint: None
        self.alive: dict[str, weakref.ref[Model]] = {}

    def manager(self, **options: Any) -> ModelManager:
        return ModelManager(
            choose=lambda offer, choice: (named(choice), ""),
            fetch=self.fetch,
            load=self.load,
            size=lambda folder: self.size(folder.name),
            free=self.free,
            clock=lambda: self.now,
            after=self.timers.after,
            **{"cpu": self.beside, **options},
        )

    def beside(self) -> Place | None:
        """The CPU, where models are on another device."""
        return None if self.device == "cpu" else Place(self.load_on_cpu, self.size_of, self.free)

    def size_of(self, folder: Path) -> int:
        return self.size(folder.name)

    def size(self, name: str) -> int:
        return self.sizes.get(name, 100 * MB)

    def free(self) -> int:
        held = [name for name, model in self.alive.items() if model() is not None]
        return self.memory - sum(self.size(name) for name in held)

    def fetch(self, checkpoint: Checkpoint, report: Report) -> Path:
        self.fetched.append(checkpoint.name)
        self.before_fetch(checkpoint, report)
        return Path("/nowhere") / checkpoint.name

    def load(self, checkpoint: Checkpoint, folder: Path) -> Loaded:
        self.loads.append(checkpoint.name)
        self.before_load(checkpoint)
        return self.loaded(checkpoint, self.device)

    def load_on_cpu(self, checkpoint: Checkpoint, folder: Path) -> Loaded:
        self.loads.append(f"{checkpoint.name} on the CPU")
        return self.loaded(checkpoint, "cpu")

    def loaded(self, checkpoint: Checkpoint, device: str) -> Loaded:
        import torch

        model = Model()
        self.alive[checkpoint.name] = weakref.ref(model)
        return Loaded(
            checkpoint, model, None, torch.device(device), torch.float32, self.size(checkpoint.name), 0.5
        )


class Visitor:
    """Somebody who uses a model in a thread of their own, and can stop."""

    def __init__(self, models: ModelManager, name: str) -> None:
        self.stop, self.told = threading.Event(), queue.Queue[str]()
        self._answer = Future[int]()
        threading.Thread(target=self._visit, args=(models, name), daemon=True).start()

    def _visit(self, models: ModelManager, name: str) -> None:
        try:
            with models.use(OFFER, name, lambda p: self.told.put(str(p)), self.stop.is_set) as loaded:
                self._answer.set_result(loaded.model(21))
        except Exception as error:
            self._answer.set_exception(error)

    def sees(self, text: str) -> None:
        """Wait until this visitor is told that."""
        while self.told.get(timeout=WAIT) != text:
            pass

    def answer(self) -> int:
        return self._answer.result(WAIT)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, its loads and timers come to an end."""
    others = set(threading.enumerate())  # a manager that another module made may wait for its keep-alive time
    yield
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith(("load ", "keep-alive")):
            thread.join(WAIT)
            assert not thread.is_alive(), thread.name


def use(models: ModelManager, *names: str) -> None:
    for name in names:
        with models.use(OFFER, name):
            pass


def held(models: ModelManager) -> set[str]:
    return {row.name for row in models.snapshot()}


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives in each of `count` threads that run together; an exception counts as an answer."""

    def caught(i: int) -> Any:
        try:
            return work(i)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result(WAIT) for future in [pool.submit(caught, i) for i in range(count)]]


def held_until_all_wait(count: int, world: World) -> Callable[[Progress], None]:
    """Holds the fetch, which reports 1 of 2 MB, until `count` visitors have seen that; gives their report."""
    seen = threading.Semaphore(0)
    once = threading.local()

    def report(progress: Progress) -> None:
        if progress.stage == "downloading" and not getattr(once, "done", False):
            once.done = True
            seen.release()

    def hold(checkpoint: Checkpoint, tell: Report) -> None:
        tell(Progress("downloading", MB, 2 * MB))
        for _ in range(count):
            assert seen.acquire(timeout=WAIT)

    world.before_fetch = hold
    return report


def test_forty_first_clicks_one_load_and_forty_right_answers():
    world = World()
    models = world.manager()
    report = held_until_all_wait(40, world)

    def work(i: int) -> tuple[int, int]:
        with models.use(OFFER, "a", report) as loaded:
            return id(loaded.model), loaded.model(i)

    answers = at_once(40, work)
    assert [number for _, number in answers] == [2 * i for i in range(40)]
    assert len({model for model, _ in answers}) == 1
    assert world.fetched == world.loads == ["a"]
    assert [row.users for row in models.snapshot()] == [0]
    assert models.totals() == Totals(loads=1, hits=39, evictions=0)


def test_all_who_wait_see_the_progress_of_the_load():
    world = World()
    models = world.manager()
    first_report = held_until_all_wait(4, world)

    def work(i: int) -> list[str]:
        told: list[str] = []

        def report(progress: Progress) -> None:
            told.append(str(progress))
            first_report(progress)

        with models.use(OFFER, "a", report):
            return told

    for told in at_once(4, work):
        assert "downloading 1 of 2 MB" in told
        assert told[-1] == "running"


def test_a_failure_is_told_to_all_who_wait_and_forgotten():
    world = World()
    models = world.manager()
    report = held_until_all_wait(5, world)

    def fail(checkpoint: Checkpoint) -> None:
        raise CheckpointError("It is incomplete. Choose another.")

    world.before_load = fail

    def work(i: int) -> None:
        with models.use(OFFER, "a", report):
            raise AssertionError("lent a model that did not load")

    for error in at_once(5, work):
        assert type(error) is CheckpointError
        assert str(error) == "It is incomplete. Choose another."
    assert models.snapshot() == []

    world.before_fetch, world.before_load = (lambda checkpoint, tell: None), (lambda checkpoint: None)
    with models.use(OFFER, "a") as loaded:
        assert loaded.model(3) == 6
    assert world.loads == ["a", "a"]


def test_those_who_wait_get_a_sentence_for_an_unexpected_failure(caplog):
    world = World()
    models = world.manager()
    report = held_until_all_wait(3, world)

    def fail(checkpoint: Checkpoint) -> None:
        raise ZeroDivisionError("division by zero")

    world.before_load = fail

    def work(i: int) -> None:
        with models.use(OFFER, "a", report):
            pass

    for error in at_once(3, work):
        assert type(error) is ModelLoadError
        assert "Try again" in str(error)
    (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "ZeroDivisionError: division by zero" in caplog.text
    assert logged.exc_info, "with its traceback"
    world.before_fetch, world.before_load = (lambda checkpoint, tell: None), (lambda checkpoint: None)
    use(models, "a")


def test_a_loader_that_fails_three_times_works_the_fourth_time():
    world = World()
    models = world.manager()

    def fail(checkpoint: Checkpoint) -> None:
        if len(world.loads) <= 3:
            raise ModelLoadError(f"Attempt {len(world.loads)} failed. Try again.")

    world.before_load = fail
    for attempt in (1, 2, 3):
        with pytest.raises(ModelLoadError, match=f"Attempt {attempt}"), models.use(OFFER, "a"):
            pass
        assert models.snapshot() == []
    with models.use(OFFER, "a") as loaded:
        assert loaded.model(3) == 6
    assert models.totals() == Totals(loads=1, hits=0, evictions=0)


def test_a_failed_download_is_tried_again():
    world = World()
    models = world.manager()

    def gone(checkpoint: Checkpoint, tell: Report) -> None:
        raise CheckpointError("The hub is gone. Try again.")

    world.before_fetch = gone
    with pytest.raises(CheckpointError, match="gone"), models.use(OFFER, "a"):
        pass
    world.before_fetch = lambda checkpoint, tell: None
    use(models, "a")
    assert world.fetched == ["a", "a"]


def test_what_was_used_least_recently_goes_first_under_a_budget():
    world = World()
    models = world.manager(budget=250 * MB)
    for name in ("a", "b"):
        world.now += 1
        use(models, name)
    world.now += 1
    use(models, "a")
    world.now += 1
    use(models, "c")
    assert held(models) == {"a", "c"}
    assert world.alive["b"]() is None, "the memory of what was evicted is given back"
    use(models, "a")
    assert world.loads == ["a", "b", "c"]


def test_as_many_go_as_are_needed():
    world = World({"large": 200 * MB})
    models = world.manager(budget=250 * MB)
    use(models, "a", "b", "large")
    assert held(models) == {"large"}
    assert models.totals().evictions == 2


def test_a_share_of_what_is_free_at_the_first_load_is_the_budget_where_none_is_given():
    world = World()
    world.memory = 310 * MB  # four fifths are 248: two models of 100 and their activations
    models = world.manager()
    use(models, "a")
    world.now += 1
    use(models, "b")
    assert held(models) == {"a", "b"}
    world.now += 1
    use(models, "c")
    assert held(models) == {"b", "c"}
    world.memory = 10**12
    use(models, "d")
    assert held(models) == {"c", "d"}, "measured once"


def test_what_is_free_now_decides_as_well():
    world = World()
    models = world.manager(budget=10**12)
    use(models, "a", "b")
    world.memory = 310 * MB  # something else took the rest
    world.now += 1
    use(models, "c")
    assert held(models) == {"b", "c"}


def test_what_is_in_use_is_never_evicted():
    world = World()
    models = world.manager(budget=250 * MB)
    with models.use(OFFER, "a") as busy:
        world.now += 1
        use(models, "b")
        world.now += 1
        use(models, "c")
        assert held(models) == {"a", "c"}
        assert busy.model(4) == 8
    use(models, "a")
    assert world.loads == ["a", "b", "c"]


def test_an_error_with_sizes_when_nothing_idle_can_go_and_nothing_else_is_disturbed():
    world = World({"b": 180 * MB})
    models = world.manager(budget=250 * MB)
    with models.use(OFFER, "a") as busy:
        with pytest.raises(ModelLoadError) as told, models.use(OFFER, "b"):
            pass
        assert "216 MB" in str(told.value)  # the weights and what a forward pass takes
        assert "130 MB" in str(told.value)
        assert "at work" in str(told.value)
        assert "smaller" in str(told.value)
        assert held(models) == {"a"}
        assert busy.model(5) == 10
    use(models, "b")
    assert held(models) == {"b"}


def test_what_can_never_fit_evicts_nothing():
    world = World({"huge": 900 * MB})
    models = world.manager(budget=250 * MB)
    use(models, "a")
    with pytest.raises(ModelLoadError) as told, models.use(OFFER, "huge"):
        pass
    assert "1080 MB" in str(told.value)
    assert "250 MB" in str(told.value)
    assert "at work" not in str(told.value), "no other model is"
    assert held(models) == {"a"}


def test_an_idle_model_goes_after_the_keep_alive_time():
    world = World()
    models = world.manager(keep_alive=60.0)
    use(models, "a")
    world.now = 59.0
    use(models, "b")
    assert held(models) == {"a", "b"}
    assert {row.name: row.idle_seconds for row in models.snapshot()} == {"a": 59.0, "b": 0.0}
    world.now = 61.0
    use(models, "b")
    assert held(models) == {"b"}
    assert world.alive["a"]() is None
    use(models, "a")
    assert world.loads == ["a", "b", "a"]


def test_keep_alive_counts_from_the_end_of_the_last_use():
    world = World()
    models = world.manager(keep_alive=60.0)
    with models.use(OFFER, "a") as busy:
        world.now = 100.0
        use(models, "b")
        assert held(models) == {"a", "b"}
        assert busy.model(1) == 2
    world.now = 159.0
    use(models, "b")
    assert held(models) == {"a", "b"}
    world.now = 161.0
    use(models, "c")
    assert held(models) == {"b", "c"}


def test_without_a_keep_alive_time_models_stay():
    world = World()
    models = world.manager()
    use(models, "a")
    world.now = 1e9
    use(models, "a")
    assert world.loads == ["a"]


@pytest.mark.parametrize("error", [ValueError("wrong"), InputError("Type a text."), KeyboardInterrupt()])
def test_a_model_is_released_after_an_error_in_the_block(error: BaseException):
    world = World()
    models = world.manager(budget=150 * MB)
    with pytest.raises(type(error)) as told, models.use(OFFER, "a"):
        raise error
    assert told.value is error
    assert [row.users for row in models.snapshot()] == [0]
    use(models, "b")
    assert held(models) == {"b"}


def test_a_model_is_released_when_a_generator_is_closed():
    world = World()
    models = world.manager()

    def steps():
        with models.use(OFFER, "a") as loaded:
            yield loaded.model(1)
            yield loaded.model(2)

    running = steps()
    assert next(running) == 2
    assert [row.users for row in models.snapshot()] == [1]
    # Gradio takes each step, and closes, in whatever thread is free.
    thread = threading.Thread(target=running.close)
    thread.start()
    thread.join(WAIT)
    assert [row.users for row in models.snapshot()] == [0]


def test_out_of_memory_in_the_block_is_said_in_a_sentence():
    import torch

    world = World()
    models = world.manager()
    with pytest.raises(OutOfMemory, match="shorter or smaller"), models.use(OFFER, "a"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert [row.users for row in models.snapshot()] == [0]
    use(models, "a")
    assert world.loads == ["a"]


def test_out_of_memory_on_the_cpu_is_said_as_well():
    import torch

    models = World().manager()
    with pytest.raises(OutOfMemory), models.use(OFFER, "a"):
        torch.empty(10**15)


def test_use_of_a_loaded_model_does_not_wait_for_another_load():
    world = World()
    models = world.manager()
    use(models, "a")
    loading, go_on = threading.Event(), threading.Event()

    def hold(checkpoint: Checkpoint) -> None:
        loading.set()
        assert go_on.wait(WAIT)

    world.before_load = hold
    other = threading.Thread(target=use, args=(models, "b"))
    other.start()
    try:
        assert loading.wait(WAIT)
        with ThreadPoolExecutor(1) as pool:

            def work() -> int:
                with models.use(OFFER, "a") as loaded:
                    return loaded.model(7)

            answer = pool.submit(work)
            try:
                assert answer.result(WAIT) == 14
            finally:
                go_on.set()
    finally:
        go_on.set()
        other.join(WAIT)
    assert held(models) == {"a", "b"}


def test_two_loads_never_overlap_and_the_second_visitor_is_told():
    world = World()
    models = world.manager()
    inside, most, guard = 0, 0, threading.Lock()
    all_fetched = threading.Barrier(4)
    another_waits = threading.Event()

    def tell(progress: Progress) -> None:
        if progress.stage == "waiting for another model to load":
            another_waits.set()

    def together(checkpoint: Checkpoint, tell: Report) -> None:
        all_fetched.wait(WAIT)

    def count(checkpoint: Checkpoint) -> None:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        # The first load goes on until another thread has come to the door.
        assert another_waits.wait(WAIT)
        with guard:
            inside -= 1

    world.before_fetch, world.before_load = together, count

    def work(i: int) -> int:
        with models.use(OFFER, f"model {i}", tell) as loaded:
            return loaded.model(i)

    assert at_once(4, work) == [0, 2, 4, 6]
    assert most == 1


def test_downloads_of_two_models_do_overlap():
    world = World()
    models = world.manager()
    both = threading.Barrier(2)
    world.before_fetch = lambda checkpoint, tell: (both.wait(WAIT), None)[1]
    assert at_once(2, lambda i: use(models, f"model {i}")) == [None, None]


def test_the_note_says_what_was_chosen_and_how_it_was_loaded():
    world = World()
    models = ModelManager(
        choose=lambda offer, choice: (named("a"), "The starter answers."),
        fetch=world.fetch,
        load=world.load,
        size=lambda folder: 1,
        free=lambda: 100,
    )
    with models.use(OFFER) as first, models.use(OFFER) as second:
        assert first.note == "The starter answers."
        assert first.lock is second.lock, "one tokenizer, one lock"
        assert [row.users for row in models.snapshot()] == [2]


def test_a_wrong_choice_leaves_nothing_behind():
    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        raise InputError("That is no name.")

    world = World()
    models = ModelManager(choose, world.fetch, world.load, lambda folder: 1, lambda: 100)
    with pytest.raises(InputError), models.use(OFFER, "?"):
        pass
    assert models.snapshot() == []
    assert world.fetched == []


# Loads that visitors join and leave


def holding(world: World) -> threading.Event:
    """The fetch reports 1 of 2 MB and goes on when the event is set."""
    go_on = threading.Event()

    def hold(checkpoint: Checkpoint, tell: Report) -> None:
        tell(Progress("downloading", MB, 2 * MB))
        assert go_on.wait(WAIT)
        tell(Progress("downloading", 2 * MB, 2 * MB))

    world.before_fetch = hold
    return go_on


def test_a_visitor_who_leaves_does_not_end_the_load_of_others():
    world = World()
    models = world.manager()
    go_on = holding(world)
    first = Visitor(models, "a")
    first.sees("downloading 1 of 2 MB")
    second = Visitor(models, "a")
    second.sees("downloading 1 of 2 MB")
    first.stop.set()
    with pytest.raises(Cancelled):
        first.answer()
    assert [row.users for row in models.snapshot()] == [1]
    go_on.set()
    assert second.answer() == 42
    assert world.fetched == world.loads == ["a"]


def test_a_load_that_nobody_waits_for_ends_and_a_new_click_goes_on_where_it_stopped():
    world = World()
    models = world.manager()
    on_disk: list[int] = []
    stop = threading.Event()

    def download(checkpoint: Checkpoint, tell: Report) -> None:
        while len(on_disk) < 4:
            tell(Progress("downloading", len(on_disk) * MB, 4 * MB))
            if len(on_disk) == 2 and not stop.is_set():
                assert stop.wait(WAIT)
                tell(Progress("downloading", len(on_disk) * MB, 4 * MB))
                raise AssertionError("it should have ended")
            on_disk.append(len(on_disk))

    world.before_fetch = download
    visitor = Visitor(models, "a")
    visitor.sees("downloading 2 of 4 MB")
    visitor.stop.set()
    with pytest.raises(Cancelled):
        visitor.answer()
    assert models.snapshot() == [], "forgotten at once"
    stop.set()
    for thread in threading.enumerate():
        if thread.name == "load a":
            thread.join(WAIT)
    use(models, "a")
    assert on_disk == [0, 1, 2, 3]
    assert (world.fetched, world.loads) == (["a", "a"], ["a"])


def test_a_download_from_the_hub_that_nobody_waits_for_is_kept_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    source = make_repository(tmp_path / "source")
    size = (source / "model.safetensors").stat().st_size
    left = threading.Event()
    world = World()

    def until_left(tell: Report) -> Report:
        """Lets the download go on past its half only when the visitor has left."""

        def report(progress: Progress) -> None:
            tell(progress)
            assert (progress.done or 0) < size / 2 or left.wait(WAIT)

        return report

    with HubServer({"a/b": source}) as server:

        def fetch(checkpoint: Checkpoint, tell: Report) -> Path:
            cache = tmp_path / "cache"
            return hub.fetch(hub.parse("a/b"), RECIPE, until_left(tell), endpoint=server.url, cache_dir=cache)

        models = ModelManager(lambda *_: (named("a"), ""), fetch, world.load, world.size_of, world.free)
        visitor = Visitor(models, "a")
        visitor.sees("downloading 1 of 2 MB")
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "load a"]
        visitor.stop.set()
        with pytest.raises(Cancelled):
            visitor.answer()
        left.set()
        thread.join(WAIT)
        (part,) = tmp_path.rglob("*.incomplete")
        arrived = part.stat().st_size
        assert size / 2 <= arrived < size
        use(models, "a")
        ranges = [request.range for request in server.requests("model.safetensors", "GET")]
        assert ranges == [None, f"bytes={arrived}-"]
    (whole,) = tmp_path.glob("cache/*/snapshots/*/model.safetensors")
    assert whole.read_bytes() == (source / "model.safetensors").read_bytes()


def standing_in(world: World, **options: Any) -> ModelManager:
    """A manager with "b" in the place of what "auto" stands for, should that not come."""

    def instead(offer: Offer, choice: str, checkpoint: Checkpoint, error: DemoError) -> Any:
        return (named("b"), f"b answers: {error}") if choice == "auto" else None

    return world.manager(instead=instead, **options)


@pytest.mark.parametrize("kind", [CheckpointError, ModelLoadError])
def test_what_does_not_come_is_stood_in_for_and_the_remark_says_why(kind):
    world = World()
    models = standing_in(world)

    def fail(checkpoint: Checkpoint, tell: Report) -> None:
        if checkpoint.name == "auto":
            raise kind("It is gone.")

    world.before_fetch = fail
    with models.use(OFFER, "auto") as loaded:
        assert (loaded.checkpoint.name, loaded.note) == ("b", "b answers: It is gone.")
    assert models.fetched(OFFER, "auto") == (named("b"), Path("/nowhere/b"))
    models.unload("b")
    models.preload(OFFER)
    (row,) = models.snapshot()
    assert (row.name, row.pinned, row.users) == ("b", True, 0)


def test_by_name_nothing_stands_in():
    world = World()
    models = standing_in(world)

    def fail(checkpoint: Checkpoint, tell: Report) -> None:
        raise CheckpointError(f"{checkpoint.name} is gone.")

    world.before_fetch = fail
    for lend in (lambda: use(models, "a"), lambda: models.fetched(OFFER, "a")):
        with pytest.raises(CheckpointError, match="a is gone"):
            lend()
    # Where nothing comes at all, the first is what was wanted.
    with pytest.raises(CheckpointError, match="auto is gone"):
        use(models, "auto")
    assert world.fetched == ["a", "a", "auto", "b"] and models.snapshot() == []


def test_who_stops_while_it_fails_gets_nothing_in_its_place():
    world = World()
    models = standing_in(world)
    stop = threading.Event()

    def fail(checkpoint: Checkpoint, tell: Report) -> None:
        stop.set()
        raise CheckpointError("It is gone.")

    world.before_fetch = fail
    with pytest.raises(Cancelled), models.use(OFFER, "auto", stopped=stop.is_set):
        pass
    stop.clear()
    with pytest.raises(Cancelled):
        models.fetched(OFFER, "auto", stopped=stop.is_set)
    assert "b" not in world.fetched and models.snapshot() == []


def test_who_stops_while_what_stands_in_loads_is_not_told_of_the_failure():
    world = World()
    models = standing_in(world)
    held = threading.Event()

    def fail(checkpoint: Checkpoint, tell: Report) -> None:
        if checkpoint.name == "auto":
            raise CheckpointError("It is gone.")

    world.before_fetch, world.before_load = fail, lambda checkpoint: held.wait(WAIT)
    try:
        with (
            pytest.raises(Cancelled),
            models.use(OFFER, "auto", stopped=lambda: world.loads == ["b"]),
        ):
            pass
    finally:
        held.set()


def test_a_failure_inside_is_no_reason_for_anything_else():
    world = World()
    models = standing_in(world)
    with pytest.raises(CheckpointError), models.use(OFFER, "auto"):
        raise CheckpointError("The run itself fails.")
    assert world.fetched == ["auto"]


def test_a_new_click_does_not_wait_for_the_end_of_an_abandoned_load():
    world = World()
    models = world.manager()
    first_goes_on = holding(world)
    visitor = Visitor(models, "a")
    visitor.sees("downloading 1 of 2 MB")
    visitor.stop.set()
    with pytest.raises(Cancelled):
        visitor.answer()
    world.before_fetch = lambda checkpoint, tell: None
    with models.use(OFFER, "a") as loaded:
        first_goes_on.set()
        assert loaded.model(4) == 8
    assert world.loads == ["a"]
    assert [row.name for row in models.snapshot()] == ["a"]


def test_what_an_abandoned_fetch_raises_does_not_reach_its_successor():
    world = World()
    models = world.manager()
    go_on = threading.Event()

    def stubborn(checkpoint: Checkpoint, tell: Report) -> None:
        tell(Progress("downloading", MB, 2 * MB))
        assert go_on.wait(WAIT)
        raise CheckpointError("The hub is gone. Try again.")

    world.before_fetch = stubborn
    visitor = Visitor(models, "a")
    visitor.sees("downloading 1 of 2 MB")
    (old,) = [thread for thread in threading.enumerate() if thread.name == "load a"]
    visitor.stop.set()
    with pytest.raises(Cancelled):
        visitor.answer()
    second_goes_on = holding(world)
    second = Visitor(models, "a")
    second.sees("downloading 1 of 2 MB")
    go_on.set()
    old.join(WAIT)
    assert [(row.name, row.users) for row in models.snapshot()] == [("a", 1)]
    second_goes_on.set()
    assert second.answer() == 42


def test_a_model_whose_weights_are_read_already_stays_when_the_last_one_leaves():
    world = World()
    models = world.manager()
    reading, go_on = threading.Event(), threading.Event()

    def hold(checkpoint: Checkpoint) -> None:
        reading.set()
        assert go_on.wait(WAIT)

    world.before_load = hold
    visitor = Visitor(models, "a")
    assert reading.wait(WAIT)
    visitor.stop.set()
    with pytest.raises(Cancelled):
        visitor.answer()
    assert [(row.state, row.users) for row in models.snapshot()] == [("loading", 0)]
    next_one = Visitor(models, "a")
    next_one.sees("loading weights")
    go_on.set()
    assert next_one.answer() == 42
    assert world.loads == ["a"]


def test_an_abandoned_load_does_not_wait_for_the_load_of_another():
    world = World()
    models = world.manager()
    reading, go_on = threading.Event(), threading.Event()

    def hold(checkpoint: Checkpoint) -> None:
        reading.set()
        assert go_on.wait(WAIT)

    world.before_load = hold
    first = Visitor(models, "a")
    assert reading.wait(WAIT)
    second = Visitor(models, "b")
    second.sees("waiting for another model to load")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "load b"]
    second.stop.set()
    with pytest.raises(Cancelled):
        second.answer()
    thread.join(WAIT)
    assert not thread.is_alive()
    go_on.set()
    assert first.answer() == 42
    assert world.loads == ["a"]


def test_a_load_without_progress_says_so_from_the_sixtieth_second_on():
    world = World()
    models = world.manager()
    go_on = holding(world)
    visitor = Visitor(models, "a")
    visitor.sees("downloading 1 of 2 MB")
    world.now = 59.0
    assert models.snapshot()[0].progress == "downloading 1 of 2 MB"
    world.now = 61.0
    visitor.sees("downloading 1 of 2 MB, no progress for 60 s: Stop ends it")
    latecomer = Visitor(models, "a")
    latecomer.sees("downloading 1 of 2 MB, no progress for 60 s: Stop ends it")
    world.now = 75.0
    visitor.sees("downloading 1 of 2 MB, no progress for 70 s: Stop ends it")
    assert visitor.told.empty(), "said once"
    reading, read_on = threading.Event(), threading.Event()

    def hold(checkpoint: Checkpoint) -> None:
        reading.set()
        assert read_on.wait(WAIT)

    world.before_load = hold
    go_on.set()
    assert reading.wait(WAIT)
    visitor.sees("loading weights")
    world.now = 200.0
    visitor.sees("loading weights, no progress for 120 s: Stop ends it")
    read_on.set()
    assert visitor.answer() == latecomer.answer() == 42


def test_bytes_that_move_are_no_stall():
    world = World()
    models = world.manager()
    steps = queue.Queue[int]()

    def download(checkpoint: Checkpoint, tell: Report) -> None:
        while (done := steps.get(timeout=WAIT)) < 9:
            tell(Progress("downloading", done * MB, 9 * MB))
            steps.task_done()

    world.before_fetch = download
    visitor = Visitor(models, "a")
    for done in (1, 2, 3):
        world.now += 50
        steps.put(done)
        visitor.sees(f"downloading {done} of 9 MB")
    world.now += 40
    steps.put(3)  # told again, but nothing has come
    steps.join()
    world.now += 40
    visitor.sees("downloading 3 of 9 MB, no progress for 80 s: Stop ends it")
    steps.put(9)
    assert visitor.answer() == 42


def test_the_way_onto_the_device_is_told():
    world = World()
    seen = threading.Event()

    def tell_and_move(loaded: Loaded, report: Report) -> Loaded:
        report(Progress("moving to the device"))
        assert seen.wait(WAIT)
        return loaded

    models = world.manager(move=tell_and_move)
    visitor = Visitor(models, "a")
    visitor.sees("moving to the device")
    seen.set()
    assert visitor.answer() == 42


def test_a_fetch_may_ask_that_no_load_goes_on_meanwhile():
    world = World()
    models = world.manager()
    told: list[str] = []
    with models.alone(unreported):
        visitor = Visitor(models, "a")
        visitor.sees("waiting for another model to load")
        assert world.loads == []
    assert visitor.answer() == 42
    with models.alone(lambda progress: told.append(str(progress))):
        assert told == []


class Keeps:
    """Stands for what the visitors of a model share, with memory of its own on the device."""

    kept_bytes = 0

    def __init__(self, loaded: Loaded) -> None:
        pass


def test_what_stays_beside_the_weights_counts_and_goes_with_the_model():
    world = World()
    models = world.manager(budget=300 * MB)
    with models.use(OFFER, "a") as a:
        assert a.left() == 180 * MB
        a.share(Keeps).kept_bytes = 70 * MB
        assert a.left() == 110 * MB
        with pytest.raises(ModelLoadError, match="120 MB, and 110 MB are left"), models.use(OFFER, "b"):
            pass
    with models.use(OFFER, "b") as b:
        assert b.left() == 180 * MB


def test_what_may_be_taken_is_no_more_than_what_is_free():
    world = World()
    models = world.manager(budget=300 * MB)
    with models.use(OFFER, "a") as a:
        world.memory = 150 * MB
        assert a.left() == 50 * MB
        world.memory = 90 * MB
        assert a.left() == 0


def test_room_is_what_a_model_could_take_if_everything_idle_went():
    world = World()
    models = world.manager(budget=300 * MB)
    assert models.room() == 250 * MB
    use(models, "a")
    assert models.room() == 250 * MB
    with models.use(OFFER, "a"):
        assert models.room() == 150 * MB
    world.memory = 160 * MB
    assert models.room() == pytest.approx(160 * MB / 1.2, abs=1)


# Time


def test_an_idle_model_goes_by_a_timer_when_nobody_comes():
    world = World()
    timers, models = world.timers, world.manager(keep_alive=60.0)
    with models.use(OFFER, "a"):
        assert timers.running == [], "nothing is idle"
    assert [seconds for seconds, _ in timers.running] == [60.0]
    world.now = 20.0
    use(models, "b")
    assert len(timers.running) == 1, "one timer is enough"
    world.now = 60.0
    timers.end()
    assert {row.name for row in models.snapshot()} == {"b"}
    assert world.alive["a"]() is None
    assert [seconds for seconds, _ in timers.running] == [20.0]
    world.now = 80.0
    timers.end()
    assert models.snapshot() == []
    assert timers.running == []
    assert models.totals().evictions == 0, "it was not for its memory"


def test_a_timer_that_ends_while_the_model_is_in_use_is_set_again_when_it_is_idle():
    world = World()
    timers, models = world.timers, world.manager(keep_alive=60.0)
    use(models, "a")
    world.now = 50.0
    with models.use(OFFER, "a"):
        world.now = 60.0
        timers.end()
        assert [row.users for row in models.snapshot()] == [1]
        assert timers.running == []
    assert [seconds for seconds, _ in timers.running] == [60.0]
    world.now = 90.0
    use(models, "a")
    world.now = 120.0
    timers.end()
    assert [row.name for row in models.snapshot()] == ["a"]
    assert [seconds for seconds, _ in timers.running] == [30.0]


def test_no_timer_runs_when_nothing_is_loaded():
    world = World()
    timers, models = world.timers, world.manager(keep_alive=60.0)
    use(models, "a")
    assert len(timers.running) == 1
    assert models.unload("a")
    assert timers.running == []


def test_without_keep_alive_a_model_goes_as_soon_as_nobody_uses_it():
    world = World()
    timers, models = world.timers, world.manager(keep_alive=0.0)
    with models.use(OFFER, "a"), models.use(OFFER, "a"):
        assert [row.users for row in models.snapshot()] == [2]
    assert models.snapshot() == []
    assert world.alive["a"]() is None
    assert timers.running == []


def test_the_timer_is_a_real_one():
    world = World()
    gone = threading.Event()

    def watch(loaded: Loaded, report: Report) -> Loaded:
        weakref.finalize(loaded.model, gone.set)
        return loaded

    models = ModelManager(
        choose=lambda offer, choice: (named(choice), ""),
        fetch=world.fetch,
        load=world.load,
        size=world.size_of,
        free=world.free,
        keep_alive=0.01,
        move=watch,
    )
    use(models, "a")
    assert gone.wait(WAIT)


# Models that stay, and those that are let go by hand


def test_a_preloaded_model_is_there_for_the_first_visitor_and_stays():
    world = World()
    timers = world.timers
    models = ModelManager(
        choose=lambda offer, choice: (named("pinned" if choice == "auto" else choice), ""),
        fetch=world.fetch,
        load=world.load,
        size=world.size_of,
        free=world.free,
        budget=250 * MB,
        keep_alive=60.0,
        clock=lambda: world.now,
        after=timers.after,
    )
    models.preload(OFFER)
    assert [(row.name, row.pinned, row.users) for row in models.snapshot()] == [("pinned", True, 0)]
    assert timers.running == []
    world.now = 1000.0
    use(models, "b")
    use(models, "c")
    assert {row.name for row in models.snapshot()} == {"pinned", "c"}
    world.sizes["large"] = 150 * MB
    with pytest.raises(ModelLoadError, match="beside the models that stay loaded"):
        use(models, "large")
    use(models, "auto")
    assert world.loads == ["pinned", "b", "c"]
    assert models.unload("pinned")
    use(models, "large")
    assert {row.name: row.pinned for row in models.snapshot()} == {"large": False}


def test_a_preload_that_fails_says_why_and_leaves_nothing():
    world = World()
    models = world.manager()

    def gone(checkpoint: Checkpoint, tell: Report) -> None:
        raise CheckpointError("The hub is gone. Try again.")

    world.before_fetch = gone
    with pytest.raises(CheckpointError, match="The hub is gone"):
        models.preload(OFFER)
    assert models.snapshot() == []
    world.before_fetch = lambda checkpoint, tell: None
    use(models, "auto")
    assert [row.pinned for row in models.snapshot()] == [False]


def test_a_preload_goes_on_when_a_visitor_who_joined_it_leaves():
    world = World()
    models = world.manager()
    go_on = holding(world)
    with ThreadPoolExecutor(1) as pool:
        preload = pool.submit(models.preload, OFFER)
        visitor = Visitor(models, "auto")
        visitor.sees("downloading 1 of 2 MB")
        visitor.stop.set()
        with pytest.raises(Cancelled):
            visitor.answer()
        go_on.set()
        preload.result(WAIT)
    assert [(row.pinned, row.state) for row in models.snapshot()] == [(True, "loaded")]
    assert world.loads == ["auto"]


def test_unload_lets_go_what_is_idle_and_nothing_else():
    world = World()
    models = world.manager()
    use(models, "a", "b")
    with models.use(OFFER, "a") as busy:
        assert not models.unload("a")
        assert models.unload("b")
        assert not models.unload("b")
        assert not models.unload("never heard of")
        assert busy.model(4) == 8
    assert world.alive["b"]() is None
    assert models.unload("a")
    assert models.snapshot() == []


def test_unload_leaves_a_load_alone():
    world = World()
    models = world.manager()
    go_on = holding(world)
    visitor = Visitor(models, "a")
    visitor.sees("downloading 1 of 2 MB")
    assert not models.unload("a")
    go_on.set()
    assert visitor.answer() == 42


def test_the_snapshot_has_a_row_for_each_model_loaded_or_loading():
    world = World()
    models = world.manager()
    use(models, "a", "a", "a")
    world.now = 7.0
    go_on = holding(world)
    visitor = Visitor(models, "b")
    visitor.sees("downloading 1 of 2 MB")
    a, b = models.snapshot()
    assert (a.name, a.task, a.bytes, a.device, a.dtype) == ("a", "task", 100 * MB, "cpu", "float32")
    assert (a.users, a.idle_seconds, a.loads, a.hits, a.pinned) == (0, 7.0, 1, 2, False)
    assert (a.state, a.progress) == ("loaded", "")
    assert (b.name, b.bytes, b.device, b.users, b.loads) == ("b", 0, "", 1, 0)
    assert (b.state, b.progress) == ("loading", "downloading 1 of 2 MB")
    go_on.set()
    assert visitor.answer() == 42
    models.unload("a")
    use(models, "a")
    assert {row.name: (row.loads, row.hits) for row in models.snapshot()} == {"a": (2, 2), "b": (1, 0)}
    assert models.totals() == Totals(loads=3, hits=2, evictions=0)


def test_models_of_one_device_take_turns_together():
    world = World()
    models = world.manager()
    with models.use(OFFER, "a") as a, models.use(OFFER, "b") as b:
        assert a.turns is b.turns
    world.device = "cuda"
    with models.use(OFFER, "a") as a, models.use(OFFER, "c") as c:
        assert a.turns is not c.turns


def test_the_budget_holds_under_random_use_from_eight_threads(monkeypatch):
    monkeypatch.setattr(module, "release_memory", lambda: None)  # hundreds of times would take long
    names = [f"model {i}" for i in range(10)]
    draw = random.Random(20)
    world = World({name: draw.randrange(20, 120) * MB for name in names})
    models = world.manager(budget=400 * MB)
    guard, now_held, most = threading.Lock(), 0, 0

    def change(size: int) -> None:
        nonlocal now_held, most
        with guard:
            now_held += size
            most = max(most, now_held)

    plain = world.loaded

    def counted(checkpoint: Checkpoint, device: str) -> Loaded:
        loaded = plain(checkpoint, device)
        taken = int(1.2 * loaded.bytes)
        change(taken)
        weakref.finalize(loaded.model, change, -taken)
        return loaded

    world.loaded = counted  # type: ignore[method-assign]

    def visit(i: int) -> int:
        draw, refused = random.Random(i), 0
        for step in range(60):
            try:
                with models.use(OFFER, draw.choice(names)) as loaded:
                    answer = loaded.model(step)
                    del loaded  # as it goes out of scope in a function
                assert answer == 2 * step
            except ModelLoadError as error:
                assert "are left while other models are at work" in str(error)
                refused += 1
        return refused

    refused = at_once(8, visit)
    assert all(isinstance(count, int) for count in refused), refused
    assert sum(refused) < 8 * 60 / 2
    assert 300 * MB < most <= 400 * MB
    totals = models.totals()
    assert totals.loads + totals.hits == 8 * 60 - sum(refused)
    assert totals.evictions >= totals.loads - len(names)
    assert [row.users for row in models.snapshot()] == [0] * len(models.snapshot())


# Out of memory


class Scarce:
    """A forward pass that runs out of memory a number of times, by device."""

    def __init__(self, **times: int) -> None:
        self.left, self.seen = times, list[str]()
        self.before: Callable[[Loaded], None] = lambda loaded: None

    def __call__(self, loaded: Loaded) -> None:
        import torch

        device = loaded.device.type
        self.seen.append(device)
        self.before(loaded)
        self.left[device] = self.left.get(device, 0) - 1
        if self.left[device] >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def runs(forward: Callable[[Loaded], None]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A tab's story as a function and as a generator function: doubles 1 and 2, gives the notes."""

    @survives_out_of_memory
    def run(
        choice: str, models: ModelManager, report: Report = unreported, stopped: Stopped = never
    ) -> list[Any]:
        with models.use(OFFER, choice, report, stopped) as loaded:
            forward(loaded)
            return [2, 4, loaded.note]

    @survives_out_of_memory
    def steps(
        choice: str, models: ModelManager, report: Report = unreported, stopped: Stopped = never
    ) -> Iterator[Any]:
        with models.use(OFFER, choice, report, stopped) as loaded:
            yield loaded.model(1)
            forward(loaded)
            yield loaded.model(2)
            yield loaded.note

    return run, steps


def test_a_run_that_is_out_of_memory_begins_again_without_what_is_idle():
    forward = Scarce(cuda=1)
    world = World(device="cuda")
    models = world.manager()
    use(models, "a", "b")
    idle: list[set[str]] = []
    forward.before = lambda loaded: idle.append({row.name for row in models.snapshot()})
    run, _ = runs(forward)
    assert run("a", models) == [2, 4, ""]
    assert forward.seen == ["cuda", "cuda"]
    assert idle == [{"a", "b"}, {"a"}]
    assert world.loads == ["a", "b"], "what it needs itself stays"
    assert models.totals().evictions == 1


def test_a_run_that_is_out_of_memory_twice_goes_to_the_cpu_and_says_so():
    forward = Scarce(cuda=2)
    world = World(device="cuda")
    models = world.manager()
    run, _ = runs(forward)
    assert run("a", models=models) == [2, 4, RAN_ON_CPU]
    assert forward.seen == ["cuda", "cuda", "cpu"]
    assert world.loads == ["a", "a on the CPU"]
    assert [row.device for row in models.snapshot()] == ["cuda", "cpu"]
    assert run("a", models) == [2, 4, ""], "the next one is on the accelerator again"
    assert forward.seen[3:] == ["cuda"]


def test_a_generator_begins_again_as_well():
    forward = Scarce(cuda=2)
    models = World(device="cuda").manager()
    _, steps = runs(forward)
    assert inspect.isgeneratorfunction(steps)
    assert list(steps("a", models)) == [2, 2, 2, 4, RAN_ON_CPU]
    assert [row.users for row in models.snapshot()] == [0, 0]


def test_a_generator_that_is_closed_gives_its_model_back():
    models = World(device="cuda").manager()
    _, steps = runs(Scarce())
    running = steps("a", models)
    assert next(running) == 2
    running.close()
    assert [row.users for row in models.snapshot()] == [0]


@pytest.mark.parametrize("kind", [0, 1], ids=["function", "generator"])
def test_out_of_memory_to_the_end_is_an_error(kind):
    forward = Scarce(cuda=9, cpu=9)
    models = World(device="cuda").manager()
    with pytest.raises(OutOfMemory, match="shorter or smaller"):
        list(runs(forward)[kind]("a", models))
    assert forward.seen == ["cuda", "cuda", "cpu"]
    assert not any(row.users for row in models.snapshot())


def test_on_the_cpu_there_is_nowhere_else_to_go():
    forward = Scarce(cpu=9)
    models = World().manager()
    with pytest.raises(OutOfMemory):
        runs(forward)[0]("a", models)
    assert forward.seen == ["cpu", "cpu"]
    assert models.on_cpu() is None


def test_nothing_is_tried_again_for_a_visitor_who_has_stopped():
    forward, stop = Scarce(cuda=9), threading.Event()
    forward.before = lambda loaded: stop.set()
    models = World(device="cuda").manager()
    with pytest.raises(OutOfMemory):
        runs(forward)[0]("a", models, unreported, stop.is_set)
    assert forward.seen == ["cuda"]


def test_other_errors_are_not_tried_again():
    seen: list[str] = []

    def wrong(loaded: Loaded) -> None:
        seen.append(loaded.device.type)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        runs(wrong)[0]("a", World(device="cuda").manager())
    assert seen == ["cuda"]


def test_what_the_failed_attempt_held_is_gone_before_the_next():
    held: list[weakref.ref[Model]] = []
    alive: list[int] = []
    scarce = Scarce(cuda=2)

    def forward(loaded: Loaded) -> None:
        alive.append(sum(one() is not None for one in held))
        activations = Model()
        held.append(weakref.ref(activations))
        scarce(loaded)

    runs(forward)[0]("a", World(device="cuda").manager())
    assert alive == [0, 0, 0]


@pytest.mark.parametrize(
    "sentence",
    [
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_devices_say_in_their_own_words_that_memory_is_out(sentence):
    with pytest.raises(OutOfMemory), World().manager().use(OFFER, "a"):
        raise RuntimeError(sentence)


def test_an_unclear_error_is_one_of_memory_where_little_is_free():
    for spare, kind in ((700 * MB, OutOfMemory), (10**12, RuntimeError)):
        models = World(device="cuda").manager(spare=lambda spare=spare: spare)
        with pytest.raises(kind), models.use(OFFER, "a"):
            raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")


def scarce_load(world: World, times: int) -> None:
    """Loading onto the accelerator runs out of memory so many times."""
    import torch

    left = iter(range(times))

    def fail(checkpoint: Checkpoint) -> None:
        if next(left, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    world.before_load = fail


def test_a_load_that_is_out_of_memory_is_tried_again_without_what_is_idle():
    world = World(device="cuda")
    models = world.manager()
    use(models, "a", "b")
    scarce_load(world, 1)
    with models.use(OFFER, "b"), models.use(OFFER, "c") as loaded:
        assert (loaded.device.type, loaded.note) == ("cuda", "")
        assert {row.name for row in models.snapshot()} == {"b", "c"}
    assert world.loads == ["a", "b", "c", "c"]


def test_a_load_that_is_out_of_memory_twice_goes_to_the_cpu_and_says_so():
    world = World(device="cuda")
    models = world.manager()
    scarce_load(world, 2)
    with models.use(OFFER, "a") as loaded:
        assert (loaded.device.type, loaded.note) == ("cpu", LOADED_ON_CPU)
    assert world.loads == ["a", "a", "a on the CPU"]
    use(models, "a")
    assert len(world.loads) == 3


def test_a_load_for_which_the_cpu_has_no_memory_is_an_error_in_a_sentence():
    world = World()
    models = world.manager()
    scarce_load(world, 2)
    with pytest.raises(ModelLoadError, match=r"ran out of memory while a was loaded.*smaller"):
        use(models, "a")
    assert models.snapshot() == []
    use(models, "a")


def beside(world: World, accelerator: int, **options: Any) -> ModelManager:
    """The manager of a machine whose accelerator has so many bytes and whose main memory has plenty."""
    world.memory = accelerator
    rest = Place(world.load_on_cpu, lambda folder: 2 * world.size_of(folder), lambda: 10**12)
    return world.manager(**options, cpu=lambda: rest)


def test_a_model_that_does_not_fit_the_accelerator_goes_to_the_cpu_and_says_so():
    world = World({"large": 300 * MB}, device="cuda")
    models = beside(world, 250 * MB)
    use(models, "a")
    with models.use(OFFER, "large") as loaded:
        assert (loaded.device.type, loaded.note) == ("cpu", LOADED_ON_CPU)
    assert world.loads == ["a", "large on the CPU"]
    assert held(models) == {"a", "large"}, "nothing had to go for it"


def test_a_model_goes_to_the_cpu_while_others_are_at_work_on_the_accelerator():
    world = World(device="cuda")
    models = beside(world, 250 * MB)
    with models.use(OFFER, "a") as busy, models.use(OFFER, "b") as loaded:
        assert (busy.device.type, loaded.device.type) == ("cuda", "cpu")
    del busy, loaded
    use(models, "c")
    assert world.loads == ["a", "b on the CPU", "c"], "idle ones make room"


def test_what_has_no_room_on_the_cpu_either_is_an_error_with_sizes():
    world = World({"huge": 900 * MB}, device="cuda")
    world.memory = 310 * MB
    models = world.manager()
    use(models, "a")
    with pytest.raises(ModelLoadError, match=r"1080 MB.*smaller") as told, models.use(OFFER, "huge"):
        pass
    assert type(told.value) is ModelLoadError
    assert held(models) == {"a"}


def test_a_given_budget_is_for_the_cpu_as_well():
    world = World({"large": 300 * MB}, device="cuda")
    models = beside(world, 10**12, budget=250 * MB)
    with pytest.raises(ModelLoadError, match="250 MB"), models.use(OFFER, "large"):
        pass
    assert world.loads == []


def test_room_for_one_more_is_the_larger_of_both_places():
    world = World(device="cuda")
    assert beside(world, 240 * MB).room() == int(0.4 * 10**12 / 1.2), "float32 takes twice as much there"
    assert world.manager(budget=120 * MB).room() == 100 * MB


def test_copies_on_the_cpu_have_a_budget_of_their_own_unless_one_is_given():
    for budget, kept in ((None, ["cuda", "cpu"]), (150 * MB, ["cpu"])):
        world = World(device="cuda")
        models = world.manager(budget=budget)
        use(models, "a")
        beside = models.on_cpu()
        assert beside is not None
        with beside.use(OFFER, "a") as loaded:
            assert (loaded.device.type, loaded.note) == ("cpu", RAN_ON_CPU)
        assert [row.device for row in models.snapshot()] == kept


def test_a_folder_can_be_had_without_loading_what_is_in_it():
    world = World()
    models = world.manager()
    told: list[Progress] = []
    world.before_fetch = lambda checkpoint, report: report(Progress("downloading", 1, 2))
    checkpoint, folder = models.fetched(OFFER, "a", told.append)
    assert (checkpoint, folder) == (named("a"), Path("/nowhere/a"))
    assert told == [Progress("downloading", 1, 2)]
    assert world.fetched == ["a"] and world.loads == [] and models.snapshot() == []


def test_a_folder_can_come_another_way():
    world = World()
    way = world.manager().fetched(
        OFFER, "a", fetch=lambda checkpoint, report: Path("/light") / checkpoint.name
    )
    assert way == (named("a"), Path("/light/a"))
    assert world.fetched == []


def test_a_visitor_who_stops_ends_the_way_of_a_folder():
    world = World()
    world.before_fetch = lambda checkpoint, report: report(Progress("downloading", 1, 2))
    with pytest.raises(Cancelled):
        world.manager().fetched(OFFER, "a", stopped=lambda: True)


# The real loader


def cpu() -> Any:
    import torch

    return torch.device("cpu"), torch.float32


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_load_gives_model_and_processor_ready_to_run():
    import torch

    loaded = load(named("a"), tiny.sentence_encoder(), *cpu())
    assert not loaded.model.training
    assert loaded.model.dtype == loaded.dtype == torch.float32
    assert loaded.bytes == 4 * sum(p.numel() for p in loaded.model.parameters())
    assert loaded.seconds > 0
    assert loaded.note == ""
    assert loaded.processor("so much")["input_ids"]


def test_load_takes_the_number_format_it_is_told():
    import torch

    loaded = load(named("a"), tiny.sentence_encoder(), torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.bytes == 2 * sum(p.numel() for p in loaded.model.parameters())


def test_load_refuses_a_checkpoint_without_the_weights_of_its_head():
    checkpoint = Checkpoint("tiny/encoder", Hub("tiny/encoder"), CLASSIFIER)
    with pytest.raises(CheckpointError, match=r"tiny/encoder lacks weights .*classifier"):
        load(checkpoint, tiny.sentence_encoder(), *cpu())


def test_load_says_that_weights_are_damaged(tmp_path):
    folder = copy(tiny.distilbert(), tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelLoadError, match="a could not be loaded"):
        load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())


def test_load_says_that_weights_do_not_fit_the_configuration(tmp_path):
    folder = copy(tiny.distilbert(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dim": 64, "hidden_dim": 64}))
    with pytest.raises(ModelLoadError, match="a could not be loaded"):
        load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "tokenizer"])
def test_load_says_that_a_file_is_missing(tmp_path, lost):
    folder = copy(tiny.distilbert(), tmp_path)
    for path in folder.glob(f"{lost}*"):
        path.unlink()
    with pytest.raises(ModelLoadError, match="a could not be loaded"):
        load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())


def test_load_says_that_a_tokenizer_is_damaged(tmp_path):
    folder = copy(tiny.distilbert(), tmp_path)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 5}')
    with pytest.raises(ModelLoadError, match="a could not be loaded"):
        load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())


def test_load_never_unpickles_weights(tmp_path):
    import torch

    folder = copy(tiny.distilbert(), tmp_path)
    model = load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu()).model
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError):
        load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())


def test_load_never_asks_to_run_code_of_a_checkpoint(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(str(question)) or "n")
    folder = copy(tiny.distilbert(), tmp_path)
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    own = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "made-up", "auto_map": own}))
    with pytest.raises(ModelLoadError):
        load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())
    assert asked == []


def test_move_brings_a_model_to_a_device_and_says_so():
    import torch

    told: list[str] = []
    report: Report = lambda progress: told.append(str(progress))  # noqa: E731
    loaded = read(named("a"), tiny.sentence_encoder(), torch.float16)
    assert move(loaded, torch.device("cpu"), report) is loaded
    assert told == []
    moved = move(loaded, torch.device("meta"), report)
    assert (moved.device.type, told) == ("meta", ["moving to the device"])
    assert {p.device.type for p in moved.model.parameters()} == {"meta"}
    assert moved.bytes == loaded.bytes


def test_a_model_goes_to_the_cpu_where_the_accelerator_has_no_room(monkeypatch):
    import torch
    import transformers

    plain = transformers.DistilBertForSequenceClassification.to

    def full(model: Any, device: Any, *more: Any) -> Any:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, device, *more)

    monkeypatch.setattr(transformers.DistilBertForSequenceClassification, "to", full)
    monkeypatch.setattr("components.models.loading.free_memory", lambda device: 10**12)
    folder = tiny.distilbert()
    gpu, beside = place(lambda: torch.device("cuda")), place(lambda: torch.device("cpu"))
    models = ModelManager(
        choose=lambda offer, choice: (Checkpoint("a", Hub("a/b"), CLASSIFIER), ""),
        fetch=lambda checkpoint, report: folder,
        load=gpu.load,
        size=gpu.size,
        free=gpu.free,
        move=gpu.move,
        cpu=lambda: beside,
    )
    with models.use(OFFER) as loaded:
        assert loaded.device.type == "cpu"
        assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
        assert loaded.note == LOADED_ON_CPU
        assert loaded.bytes == weights_bytes(folder) == 2 * gpu.size(folder)


@pytest.mark.parametrize(
    ("task", "quantize", "fits", "precision"),
    [
        ("translation", "int8", True, "int8"),
        ("translation", "int4", True, "int4"),
        ("translation", "int8", False, "float32"),
        ("translation", "none", True, "float32"),
        ("sentiment", "int8", True, "float32"),
    ],
)
def test_decoders_are_quantized_where_it_is_asked_for(monkeypatch, task, quantize, fits, precision):
    monkeypatch.setattr("components.models.loading.quantize_decoder", lambda model, kind: fits)
    recipe = Recipe(task, lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
    checkpoint = Checkpoint("a", Hub("a/b"), recipe)
    loaded = load(checkpoint, tiny.sentence_encoder(), *cpu(), quantize)
    assert loaded.precision == precision
    assert str(loaded.dtype) == "torch.float32"


def test_nothing_is_quantized_beside_the_cpu():
    import torch

    recipe = Recipe("speech", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
    checkpoint = Checkpoint("a", Hub("a/b"), recipe)
    loaded = load(checkpoint, tiny.sentence_encoder(), torch.device("meta"), torch.float16, "int8")
    assert loaded.precision == "float16"


def test_weights_bytes_counts_numbers_in_the_given_format(tmp_path):
    folder = tiny.distilbert()
    loaded = load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())
    assert weights_bytes(folder) == loaded.bytes
    assert weights_bytes(folder, 2) == loaded.bytes // 2
    loaded.model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weights_bytes(tmp_path) == loaded.bytes


def in_format(folder: Path, to: Path, dtype: Any) -> Path:
    """A copy whose weights are stored in another number format, but for one small one."""
    from safetensors.torch import load_file, save_file

    folder = copy(folder, to)
    weights = load_file(folder / "model.safetensors")
    first = min(weights, key=lambda name: weights[name].numel())
    stored = {name: one if name == first else one.to(dtype) for name, one in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_stored_dtype_is_that_of_most_weights_whatever_the_configuration_says(tmp_path):
    import torch

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        folder = in_format(tiny.distilbert(), tmp_path / str(dtype), dtype)
        assert '"dtype": "float32"' in (folder / "config.json").read_text()
        assert stored_dtype(folder) == dtype
    assert stored_dtype(tmp_path / "nothing") == torch.float32


@pytest.mark.parametrize("has", [True, False])
def test_a_place_keeps_bfloat16_where_the_device_has_it(tmp_path, monkeypatch, has):
    import torch

    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return has

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    brain = in_format(tiny.distilbert(), tmp_path, torch.bfloat16)
    checkpoint = Checkpoint("a", Hub("a/b"), CLASSIFIER)
    expected = torch.bfloat16 if has else torch.float16
    assert place(lambda: gpu).load(checkpoint, brain).dtype == expected
    assert asked and not any(asked), "emulated is slower than float16"
    for folder in (brain, tiny.distilbert()):
        assert place(lambda: gpu).size(folder) * 2 == weights_bytes(folder)
        assert place(lambda: gpu, full=True).size(folder) == weights_bytes(folder)
        assert place(lambda: gpu, full=True).load(checkpoint, folder).dtype == torch.float32
        assert place(lambda: cpu).load(checkpoint, folder).dtype == torch.float32
    assert place(lambda: gpu).load(checkpoint, tiny.distilbert()).dtype == torch.float16


def test_memory_that_is_out_while_files_are_read_is_not_taken_for_a_damaged_file(monkeypatch):
    import errno

    import transformers

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", full)
    with pytest.raises(MemoryError):
        load(named("a"), tiny.sentence_encoder(), *cpu())


def test_damaged_weights_are_said_in_a_sentence_through_the_manager(tmp_path):
    folder = copy(tiny.distilbert(), tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    offer = Offer(Checkpoint("a", Hub("a/b"), CLASSIFIER), named("starter"))
    with pytest.raises(ModelLoadError), tiny.manager(folder).use(offer, "course"):
        pass
