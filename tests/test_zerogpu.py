"""Runs where the GPU is lent for one call at a time, with a `spaces` that forks processes but has no GPU."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.errors import Cancelled, DemoError, InputError
from components.models.manager import ModelManager, survives_out_of_memory
from components.models.zerogpu import WAITING, Away, placed
from components.progress import Progress, never, unreported
from demos import generation, sentiment
from tests import tiny

FORK = multiprocessing.get_context("fork")


def gpu(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """As `spaces.GPU` for a generator: a process for each call; arguments and answers are pickled."""

    def work(inbox: Any, outbox: Any, ended: Any) -> None:
        import torch

        torch.set_num_threads(1)  # the pool of the process it was forked from has no threads here
        args = inbox.get()
        steps = task(*args)
        for step in steps:
            if ended.is_set():
                steps.close()  # type: ignore[attr-defined]
                break
            outbox.put((True, step))
        outbox.put((False, None))

    def called(*args: Any) -> Iterator[Any]:
        inbox, outbox, ended = FORK.SimpleQueue(), FORK.SimpleQueue(), FORK.Event()
        process = FORK.Process(target=work, args=(inbox, outbox, ended), daemon=True)
        process.start()
        inbox.put(args)
        try:
            while (step := outbox.get())[0]:
                yield step[1]
        finally:
            ended.set()
            # What it puts while it is being closed has to be taken, or it would not end.
            while process.is_alive():
                if not outbox.empty():
                    outbox.get()
                process.join(0.02)

    return called


def nothing_here() -> ModelManager:
    """The manager of the page: whatever is loaded with it is a mistake."""

    def refuse(*given: Any) -> Any:
        raise AssertionError("this run was to be done elsewhere")

    return ModelManager(choose=refuse, fetch=refuse, load=refuse, size=refuse, free=lambda: 10**12)


def pair(folder: Path, decorate: Any = gpu) -> ModelManager:
    """The manager of the page, whose runs go to a process with another one, where the model is loaded."""
    here = nothing_here()
    here.away = Away(decorate, tiny.manager(folder))
    return here


# functions that can be pickled by name, as those of the tabs


@survives_out_of_memory
def whereabouts(text: str, models: ModelManager) -> tuple[str, int, bool]:
    return text, os.getpid(), models.away is None


@survives_out_of_memory
def counting(
    most: int, path: str, models: ModelManager, report: Any = unreported, stopped: Any = never
) -> Iterator[int]:
    try:
        yield from range(most)
    finally:
        Path(path).write_text("closed")


@survives_out_of_memory
def complaining(models: ModelManager) -> None:
    raise InputError("There is no text yet.")


@survives_out_of_memory
def broken(models: ModelManager) -> None:
    raise KeyError("a mistake of ours")


def test_a_run_is_done_in_another_process():
    text, process, home = whereabouts("words", pair(tiny.distilbert()))
    assert text == "words" and process != os.getpid() and home


def test_without_it_a_run_is_done_here():
    assert whereabouts("words", models=nothing_here()) == ("words", os.getpid(), True)


def test_a_tab_gives_the_same_answer_from_there():
    there = sentiment.run("this is fine\nthis is not", "auto", pair(tiny.distilbert()))
    here = sentiment.run("this is fine\nthis is not", "auto", tiny.manager(tiny.distilbert()))
    assert [row.text for row in there.rows] == [row.text for row in here.rows]
    for one, other in zip(there.rows, here.rows, strict=True):
        assert dict(one.scores) == pytest.approx(dict(other.scores), abs=1e-5)
    assert there.status.checkpoint == here.status.checkpoint


def test_a_stream_comes_step_by_step():
    request = generation.validate("go", 4, 1, 0.0)
    steps = list(generation.run(request, "auto", pair(tiny.llama())))
    alone = list(generation.run(request, "auto", tiny.manager(tiny.llama())))
    assert len(steps) > 1
    assert steps[-1].sequences == alone[-1].sequences
    assert steps[-1].status is not None


def test_waiting_is_told():
    told: list[Progress] = []
    sentiment.run("fine", "auto", pair(tiny.distilbert()), told.append)
    assert told == [WAITING]


def test_an_error_for_the_visitor_comes_as_it_is():
    with pytest.raises(InputError, match=r"^There is no text yet\.$"):
        complaining(pair(tiny.distilbert()))


def test_an_error_of_ours_is_none_for_the_visitor():
    with pytest.raises(RuntimeError, match="a mistake of ours") as told:
        broken(pair(tiny.distilbert()))
    assert not isinstance(told.value, DemoError)


def test_stop_ends_the_run_there(tmp_path):
    seen: list[int] = []
    with pytest.raises(Cancelled):
        for number in counting(
            10**9, str(tmp_path / "end"), pair(tiny.distilbert()), stopped=lambda: len(seen) > 2
        ):
            seen.append(number)
    assert seen == [0, 1, 2]
    assert (tmp_path / "end").read_text() == "closed"


def test_who_leaves_a_stream_ends_it(tmp_path):
    steps = counting(10**9, str(tmp_path / "end"), pair(tiny.distilbert()))
    assert next(steps) == 0
    steps.close()  # type: ignore[attr-defined]
    assert (tmp_path / "end").read_text() == "closed"


class Refused(Exception):
    """As Gradio's error, which `spaces` raises."""

    def __init__(self, message: str) -> None:
        self.message = message


@pytest.mark.parametrize("error", [Refused("You have exceeded your quota."), OSError("a broken pipe")])
def test_no_gpu_is_said_and_a_fault_is_not(error):
    def refusing(task: Any) -> Any:
        def called(*args: Any) -> Iterator[Any]:
            raise error
            yield

        return called

    expected = DemoError if isinstance(error, Refused) else OSError
    with pytest.raises(expected) as told:
        whereabouts("words", pair(tiny.distilbert(), refusing))
    if expected is DemoError:
        assert str(told.value) == "This run got no GPU: You have exceeded your quota."


def manager(loaded: list[str], failing: str = "") -> ModelManager:
    """Loads without threads; notes which thread it was."""
    import torch

    from components.models.loading import load

    def load_it(checkpoint: Any, folder: Path) -> Any:
        loaded.append(threading.current_thread().name)
        return load(checkpoint, folder, torch.device("cpu"), torch.float32)

    def fetch(checkpoint: Any, report: Any) -> Path:
        if checkpoint.recipe.task == failing:
            raise DemoError("it is gone")
        return tiny.distilbert()

    return ModelManager(
        choose=lambda offer, choice: (offer.course, ""),
        fetch=fetch,
        load=load_it,
        size=lambda folder: 10**6,
        free=lambda: 10**12,
        start=lambda name, work: work(),
    )


def test_models_are_put_there_in_this_thread():
    loaded: list[str] = []
    models = placed(manager(loaded), [sentiment.OFFER])
    assert loaded == [threading.current_thread().name]
    (row,) = models.snapshot()
    assert (row.state, row.pinned, row.users) == ("loaded", True, 0)
    with models.use(sentiment.OFFER):
        assert len(loaded) == 1


def test_one_that_does_not_load_is_left_out():
    loaded: list[str] = []
    models = placed(manager(loaded, "generation"), [generation.OFFER, sentiment.OFFER])
    assert [row.task for row in models.snapshot()] == ["sentiment"]


def test_the_app_there(monkeypatch):
    """What the tabs offer is loaded before the page opens, runs go away, and the rest is on the CPU."""
    import app
    from components.settings import Settings
    from components.weights.hub import HubStatus

    made: list[dict[str, Any]] = []
    preloaded: list[str] = []

    def create(settings: Any, hub: Any, device: Any = None, **options: Any) -> ModelManager:
        made.append({"device": device, "budget": settings.memory_budget, **options})
        models = nothing_here()
        models.preload = lambda offer: preloaded.append(offer.recipe.task)  # type: ignore[method-assign]
        return models

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    monkeypatch.setattr(app, "create_manager", create)
    models = app.create_lent(Settings(memory_budget=10.3), HubStatus())
    there, here = made
    assert isinstance(models.away, Away)
    assert sorted(preloaded) == ["generation", "image", "sentiment", "speech", "translation", "zero_shot"]
    assert there["device"] is None and there["budget"] == 0
    assert here["device"]().type == "cpu" and here["budget"] == 10.3
    done: list[str] = []
    there["start"]("load", lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]
    assert whereabouts("words", models)[1] != os.getpid()


def test_a_run_knows_who_asked():
    """The time on the GPU is counted for the visitor whose request Gradio keeps in the context."""
    from components.page import events
    from components.server.access import NOBODY
    from components.server.line import Line

    asked: ContextVar[str] = ContextVar("asked", default="nobody")

    async def visit() -> Any:
        asked.set("somebody")
        told = events.Told()
        events.start(Line(), sentiment.DEMO, lambda stopped: asked.get(), (), told, NOBODY)
        return await told.next(10)

    assert asyncio.run(visit()) == "somebody"


def test_nobody_else_needs_the_package():
    assert "spaces" not in sys.modules
    requirements = (Path(__file__).parent.parent / "requirements.txt").read_text()
    assert not [line for line in requirements.splitlines() if line.startswith("spaces")]
