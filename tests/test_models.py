"""The manager, with everything that touches the world replaced; and the real loader on tiny folders."""

from __future__ import annotations

import json
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.errors import CheckpointError, InputError, ModelLoadError, OutOfMemory
from components.models import Loaded, ModelManager, load, weights_bytes
from components.progress import Progress, Report
from tests import tiny

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


class World:
    """What surrounds the manager: sizes in bytes by name, a clock, a loader that can be held or fail."""

    def __init__(self, sizes: dict[str, int] | None = None) -> None:
        self.sizes, self.now = sizes or {}, 0.0
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
            **options,
        )

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
        import torch

        self.loads.append(checkpoint.name)
        self.before_load(checkpoint)
        model = Model()
        self.alive[checkpoint.name] = weakref.ref(model)
        return Loaded(
            checkpoint, model, None, torch.device("cpu"), torch.float32, self.size(checkpoint.name), 0.5
        )


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
    """Holds the fetch, which reports 1 of 2 MB, until `count` visitors have seen a report; gives theirs."""
    seen = threading.Semaphore(0)
    once = threading.local()

    def report(progress: Progress) -> None:
        if not getattr(once, "done", False):
            once.done = True
            seen.release()

    def hold(checkpoint: Checkpoint, tell: Report) -> None:
        tell(Progress("downloading", MB, 2 * MB))
        for _ in range(count):
            assert seen.acquire(timeout=WAIT)

    world.before_fetch = hold
    return report


def test_eight_threads_one_load_and_eight_right_answers():
    world = World()
    models = world.manager()
    report = held_until_all_wait(8, world)

    def work(i: int) -> tuple[int, int]:
        with models.use(OFFER, "a", report) as loaded:
            return id(loaded.model), loaded.model(i)

    answers = at_once(8, work)
    assert [number for _, number in answers] == [2 * i for i in range(8)]
    assert len({model for model, _ in answers}) == 1
    assert world.fetched == world.loads == ["a"]
    assert [row.users for row in models.snapshot()] == [0]


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


def test_those_who_wait_get_a_sentence_for_an_unexpected_failure():
    world = World()
    models = world.manager()
    report = held_until_all_wait(3, world)

    def fail(checkpoint: Checkpoint) -> None:
        raise ZeroDivisionError("division by zero")

    world.before_load = fail

    def work(i: int) -> None:
        with models.use(OFFER, "a", report):
            pass

    kinds = sorted(type(error).__name__ for error in at_once(3, work))
    assert kinds == ["ModelLoadError", "ModelLoadError", "ZeroDivisionError"]
    use_again = world.manager()
    world.before_fetch, world.before_load = (lambda checkpoint, tell: None), (lambda checkpoint: None)
    use(use_again, "a")
    use(models, "a")


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
    world = World({"large": 240 * MB})
    models = world.manager(budget=250 * MB)
    use(models, "a", "b", "large")
    assert held(models) == {"large"}


def test_free_memory_decides_where_there_is_no_budget():
    world = World()
    world.memory = 250 * MB
    models = world.manager()
    use(models, "a")
    world.now += 1
    use(models, "b")
    assert held(models) == {"a", "b"}
    world.now += 1
    use(models, "c")
    # 250 MB less two models leave 50; a third needs 100 and its activations.
    assert "c" in held(models)
    assert "a" not in held(models)


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
        assert "150 MB" in str(told.value)
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


def test_load_goes_to_the_cpu_where_the_accelerator_has_no_room(monkeypatch):
    import torch
    import transformers

    plain = transformers.DistilBertForSequenceClassification.to

    def full(model: Any, device: Any, *more: Any) -> Any:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, device, *more)

    monkeypatch.setattr(transformers.DistilBertForSequenceClassification, "to", full)
    checkpoint = Checkpoint("a", Hub("a/b"), CLASSIFIER)
    loaded = load(checkpoint, tiny.distilbert(), torch.device("cuda"), torch.float16)
    assert loaded.device.type == "cpu"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert "runs on the CPU" in loaded.note


def test_weights_bytes_counts_numbers_in_the_given_format(tmp_path):
    folder = tiny.distilbert()
    loaded = load(Checkpoint("a", Hub("a/b"), CLASSIFIER), folder, *cpu())
    assert weights_bytes(folder) == loaded.bytes
    assert weights_bytes(folder, 2) == loaded.bytes // 2
    loaded.model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weights_bytes(tmp_path) == loaded.bytes


def test_damaged_weights_are_said_in_a_sentence_through_the_manager(tmp_path):
    folder = copy(tiny.distilbert(), tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    offer = Offer(Checkpoint("a", Hub("a/b"), CLASSIFIER), named("starter"))
    with pytest.raises(ModelLoadError), tiny.manager(folder).use(offer, "course"):
        pass
