"""Events: what a tab does in another thread, step by step, and what the page is told of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any

import gradio as gr
from gradio.context import Context

from components.errors import DemoError
from components.models.manager import TooNarrow
from components.page.demo import Demo
from components.progress import Stopped
from components.server.access import Visitor
from components.server.line import Line, Ticket
from components.show import markup

log = logging.getLogger("tour")

NOTHING_YET, FINISHED = object(), object()
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # events of the page's own
CLOSING = "The app is shutting down and did not finish this run. Try again in a minute."


class Told:
    """What a run in another thread has told so far, for the event loop that it was made in."""

    def __init__(self) -> None:
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._steps: deque[Any] = deque()

    def put(self, step: Any) -> None:
        """From any thread."""
        self._steps.append(step)
        # A closed loop has nobody to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def next(self, pause: float | None) -> Any:
        """The next step, or NOTHING_YET after so many seconds. Of several of a kind only the last."""
        try:
            async with asyncio.timeout(pause):
                while not self._steps:
                    self._arrived.clear()
                    # Between the two lines something may have come; it would set the event only later.
                    if not self._steps:
                        await self._arrived.wait()
        except TimeoutError:
            return NOTHING_YET
        step = self._steps.popleft()
        while self._steps and self._steps[0] is not FINISHED and type(self._steps[0]) is type(step):
            step = self._steps.popleft()
        return step


def guarded(name: str, act: Callable[[], Any], instead: tuple[Any, ...]) -> tuple[Any, ...]:
    """One value for each output and no problem; after a DemoError what is shown instead, and its sentence."""
    try:
        with shown(name):
            answer = _repeated(act)
            return (*(answer if len(instead) > 1 else (answer,)), "")
    except DemoError as error:
        return (*instead, markup.problem(str(error)))


def _repeated(act: Callable[[], Any]) -> Any:
    """What looks inside a run, once more for each model that it takes in float32; a run does so by itself."""
    while True:
        try:
            return act()
        except TooNarrow as error:
            logging.getLogger("tour").debug("once more: %s", error)


def changes(
    selector: Any,
    act: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    said: gr.HTML,
    name: str,
) -> Any:
    """Call `act` with the inputs' values when the visitor picks something in the tab `name`.

    said: where a DemoError is shown. Gives the event.
    """

    def handler(*values: Any) -> tuple[Any, ...]:
        return guarded(name, lambda: act(*values), (gr.skip(),) * len(outputs))

    # A file has no such event. A slider moves on while one move is being answered: the last one counts.
    moved = selector.change if isinstance(selector, gr.File) else selector.input
    return moved(
        handler,
        inputs,
        [*outputs, said],
        show_progress="minimal",
        trigger_mode="always_last",
        api_visibility="private",
    )


def on_arrival(
    act: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
) -> None:
    """Call `act` whenever somebody opens the page: for what should not keep the app from starting."""
    if isinstance(Context.root_block, gr.Blocks):
        Context.root_block.load(act, list(inputs), list(outputs), **QUIET)


def start(
    line: Line, demo: Demo, act: Callable[..., Any], values: tuple[Any, ...], told: Told, who: Visitor
) -> Ticket:
    """Enter the line with `act`, which tells each step, a DemoError as well, and at last FINISHED."""

    def work(stopped: Stopped) -> str | None:
        try:
            with shown(demo.name):
                for step in _steps(act(*values, stopped)):
                    told.put(step)
        except DemoError as error:
            told.put(error)
            return type(error).__name__
        finally:
            told.put(FINISHED)
        return None

    # Whose run it is: on ZeroGPU the time on the GPU is counted for who asks.
    context = copy_context()
    return line.enter(demo.name, demo.at_once, lambda stopped: context.run(work, stopped), who)


@contextmanager
def shown(name: str) -> Iterator[None]:
    """Lets errors with a message for visitors through; any other is logged and gets a number.

    Raises DemoError only.
    """
    try:
        yield
    except (DemoError, GeneratorExit):
        raise
    except Exception as error:
        reference = secrets.token_hex(3)
        log.exception("error %s in %s", reference, name)
        raise DemoError(
            "Something went wrong that should not have. Try again; if it happens again, report the "
            f"number {reference}."
        ) from error


def _steps(answer: Any) -> Iterator[Any]:
    """What a generator yields, or the one answer that was returned."""
    if isinstance(answer, Generator):
        yield from answer
    else:
        yield answer
