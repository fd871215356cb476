"""A run as the page and the endpoints see it: what is shown while it goes on, Stop, the line, the end."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from components.errors import Cancelled, InputError
from components.models.status import Status
from components.page import ui
from components.page.demo import Demo
from components.progress import Progress, Report, Stopped, never
from components.server.line import Line
from components.weights.checkpoints import Checkpoint, Hub, Offer, Recipe

WAIT = 10  # seconds after which a test that hangs fails
RECIPE = Recipe("task", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
OFFER = Offer(Checkpoint("course", Hub("a/b"), RECIPE), Checkpoint("starter", Hub("a/c"), RECIPE))
DONE = Status("course", "hub", "CPU", "float32", 1.0, 0.1)


class Tab:
    """One tab with one text box, whose work is `act`; pressed by sessions."""

    def __init__(self, act: Callable[..., Any], call: Callable[..., Any] | None = None, **options: Any):
        self.line = options.pop("line", None) or Line()

        def build(demo: Demo, models: Any, settings: Any, line: Line) -> None:
            self.page = ui.Page(demo, line)
            with self.page.inputs():
                text = gr.Textbox(label="text")
            with self.page.results():
                answer = gr.HTML(label="answer")
            self.page.runs(act, [text], [answer])
            if call:
                self.page.endpoint(call, [text], [answer])

        self.demo = Demo("task", "Task", 1, "A task.", OFFER, build, **options)
        with gr.Blocks() as self.app:
            build(self.demo, None, None, self.line)
        self.functions = list(self.app.fns.values())

    def press(self, text: str = "", session: str = "a") -> Any:
        """The steps of a run: (answer, stop button, problem, status line)."""
        (run,) = [fn for fn in self.functions if fn.name == "handler"]
        return run.fn(SimpleNamespace(session_hash=session, username=None, client=None), text, "auto")

    def stop(self, session: str = "a") -> None:
        self.page._stop_now(SimpleNamespace(session_hash=session, username=None, client=None))  # type: ignore[arg-type]

    @property
    def endpoint(self) -> Any:
        (found,) = [fn.fn for fn in self.functions if fn.api_name == "call"]
        return found


def at_once(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
    return text.upper(), DONE


async def steps(run: Any) -> list[Any]:
    return [step async for step in run]


def words(markup: Any) -> str:
    return " ".join(re.sub("<[^>]+>", " ", markup).split()) if isinstance(markup, str) else ""


def visible(button: Any) -> bool | None:
    return button.get("visible")


def test_a_quick_answer_is_the_only_thing_shown(monkeypatch):
    monkeypatch.setattr(ui, "QUICK", WAIT)
    (only,) = asyncio.run(steps(Tab(at_once).press("hello")))
    answer, stop, problem, status = only
    assert answer == "HELLO" and problem == "" and visible(stop) is False
    assert "ran in 0.1 s" in words(status)


def test_who_waits_is_told_what_happens_and_may_stop():
    free = threading.Event()

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        report(Progress("downloading", 1_000_000, 2_000_000))
        assert free.wait(WAIT)
        return text, DONE

    async def watch() -> list[Any]:
        seen = []
        async for step in Tab(act).press("x"):
            seen.append(step)
            free.set()
        return seen

    first, *_, last = asyncio.run(watch())
    assert words(first[3]) == "Downloading 1 of 2 MB …"
    assert first[0] == gr.skip() and visible(first[1]) is True
    assert last[0] == "x" and visible(last[1]) is False


def test_of_answers_that_come_faster_than_they_are_shown_the_last_counts():
    def act(text: str, choice: str, report: Report, stopped: Stopped) -> Iterator[tuple[str, Status | None]]:
        for i in range(1000):
            yield str(i), None
        yield "end", DONE

    seen = asyncio.run(steps(Tab(act).press()))
    assert seen[-1][0] == "end"
    numbers = [int(step[0]) for step in seen[:-1] if isinstance(step[0], str)]
    assert numbers == sorted(numbers) and len(numbers) < 900


def test_stop_ends_a_stream_and_what_came_stays():
    ended = threading.Event()

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> Iterator[tuple[str, Status | None]]:
        count = 0
        while not stopped():
            count += 1
            yield "word " * count, None
            threading.Event().wait(0.005)
        ended.set()
        yield "word " * count, DONE

    tab = Tab(act)

    async def watch() -> Any:
        seen = []
        async for step in tab.press():
            seen.append(step)
            tab.stop()
        return seen[-1]

    last = asyncio.run(asyncio.wait_for(watch(), WAIT))
    assert ended.is_set() and last[0].startswith("word") and visible(last[1]) is False
    assert tab.page._visits == {}


def test_stop_before_there_is_an_answer_says_stopped():
    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        while not stopped():
            threading.Event().wait(0.005)
        raise Cancelled

    tab = Tab(act)

    async def watch() -> Any:
        seen = []
        async for step in tab.press():
            seen.append(step)
            tab.stop()
        return seen[-1]

    _, stop, problem, status = asyncio.run(asyncio.wait_for(watch(), WAIT))
    assert words(status) == "Stopped." and problem == "" and visible(stop) is False


def test_stop_of_one_visitor_leaves_the_others_alone():
    free = threading.Event()

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        while not free.wait(0.005):
            if stopped():
                raise Cancelled
        return text, DONE

    tab = Tab(act)

    async def both() -> tuple[Any, Any]:
        first, second = (asyncio.create_task(steps(tab.press(name, name))) for name in ("a", "b"))
        while len(tab.page._visits) < 2:
            await asyncio.sleep(0.005)
        tab.stop("a")
        stopped = await first
        free.set()
        return stopped[-1], (await second)[-1]

    one, other = asyncio.run(asyncio.wait_for(both(), WAIT))
    assert words(one[3]) == "Stopped."
    assert other[0] == "b"


def test_a_page_that_closes_ends_its_run():
    began, ended = threading.Event(), threading.Event()

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        began.set()
        while not stopped():
            threading.Event().wait(0.005)
        ended.set()
        raise Cancelled

    async def leave() -> None:
        run = Tab(act).press()
        await anext(run)
        await run.aclose()

    asyncio.run(asyncio.wait_for(leave(), WAIT))
    assert began.is_set() and ended.wait(WAIT)


def test_a_visitor_in_line_sees_the_place_and_can_leave():
    free = threading.Event()

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        assert free.wait(WAIT)
        return text, DONE

    tab = Tab(act, at_once=1)

    async def three() -> tuple[Any, Any, Any]:
        first = asyncio.create_task(steps(tab.press("1", "1")))
        while tab.line.counts() != (1, 0):
            await asyncio.sleep(0.005)
        second = tab.press("2", "2")
        waiting = await anext(second)
        third = asyncio.create_task(steps(tab.press("3", "3")))
        while tab.line.counts() != (1, 2):
            await asyncio.sleep(0.005)
        tab.stop("3")
        gone = (await third)[-1]
        free.set()
        rest = await steps(second)
        assert (await first)[-1][0] == "1"
        return waiting, gone, rest[-1]

    waiting, gone, answered = asyncio.run(asyncio.wait_for(three(), WAIT))
    assert words(waiting[3]) == "Waiting in line, number 1 …"
    assert words(gone[3]) == "Stopped."
    assert answered[0] == "2"


def test_a_full_line_is_a_sentence_above_the_button():
    free = threading.Event()

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        assert free.wait(WAIT)
        return text, DONE

    tab = Tab(act, at_once=1, line=Line(most=1))

    async def four() -> Any:
        runs = [asyncio.create_task(steps(tab.press(str(i), str(i)))) for i in range(2)]
        while tab.line.counts() != (1, 1):
            await asyncio.sleep(0.005)
        (refused,) = await steps(tab.press("late", "late"))
        free.set()
        assert [(await run)[-1][0] for run in runs] == ["0", "1"]
        return refused

    answer, stop, problem, status = asyncio.run(asyncio.wait_for(four(), WAIT))
    assert answer is None and visible(stop) is False and status == ""
    assert "1 runs are waiting already" in words(problem)


def test_an_error_is_shown_and_the_next_run_works():
    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[str, Status]:
        if not text:
            raise InputError("There is no text yet.")
        return text, DONE

    tab = Tab(act)
    assert words(asyncio.run(steps(tab.press("")))[-1][2]) == "There is no text yet."
    assert asyncio.run(steps(tab.press("x")))[-1][0] == "x"


def test_when_the_app_shuts_down_a_broken_off_run_is_told():
    def act(text: str, choice: str, report: Report, stopped: Stopped) -> Iterator[tuple[str, Status | None]]:
        while not stopped():
            yield "so far", None
            threading.Event().wait(0.005)
        yield "so far", DONE

    tab = Tab(act)

    async def watch() -> Any:
        run = asyncio.create_task(steps(tab.press()))
        while tab.line.counts() != (1, 0):
            await asyncio.sleep(0.005)
        finished = await asyncio.to_thread(tab.line.close, 0.05, WAIT)
        return finished, await run

    finished, seen = asyncio.run(asyncio.wait_for(watch(), WAIT))
    assert finished is False
    assert "shutting down" in words(seen[-1][2])


def test_an_endpoint_shows_its_parameters_and_hides_what_the_app_gives():
    def call(text: str, checkpoint: str = "auto", stopped: Stopped = never) -> str:
        """What it does."""
        return text

    endpoint = Tab(at_once, call).endpoint
    assert list(inspect.signature(endpoint).parameters) == ["text", "checkpoint", "request"]
    assert endpoint.__doc__ == "What it does."
    assert asyncio.run(endpoint("x", "auto")) == "x"


def test_an_endpoint_that_streams_ends_when_its_client_leaves():
    ended = threading.Event()

    def call(text: str, stopped: Stopped = never) -> Iterator[str]:
        while not stopped():
            yield text
            threading.Event().wait(0.005)
        ended.set()

    tab = Tab(at_once, call)

    async def leave() -> str:
        stream = tab.endpoint("x")
        first = await anext(stream)
        await stream.aclose()
        return first

    assert asyncio.run(asyncio.wait_for(leave(), WAIT)) == "x"
    assert ended.wait(WAIT)


def test_an_endpoint_that_is_cancelled_stops_its_work():
    began, ended = threading.Event(), threading.Event()

    def call(text: str, stopped: Stopped = never) -> str:
        began.set()
        while not stopped():
            threading.Event().wait(0.005)
        ended.set()
        raise Cancelled

    async def cancel() -> None:
        task = asyncio.create_task(Tab(at_once, call).endpoint("x"))
        await asyncio.to_thread(began.wait, WAIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(cancel(), WAIT))
    assert ended.wait(WAIT)


def test_an_endpoint_tells_errors_as_sentences():
    def call(text: str, stopped: Stopped = never) -> str:
        raise InputError("There is no text yet.")

    with pytest.raises(gr.Error, match="There is no text yet"):
        asyncio.run(Tab(at_once, call).endpoint(""))
