"""Patches: members of Gradio that are replaced, each with its reason.

A test fails for each when Gradio changes under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from gradio import queueing

LOOK = 1.0  # seconds after which a queue looks for work that nobody told it of


class _Rest(float):
    """The seconds that a queue sleeps when there is nothing for it to do; it is woken when there is."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.woken = asyncio.Event()


class _Asyncio(ModuleType):
    """asyncio as Gradio's queue sees it: a sleep that is a rest ends with the next work."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float, result: Any = None) -> Any:
        if not isinstance(delay, _Rest):
            return await asyncio.sleep(delay, result)
        delay.woken = asyncio.Event()  # of this loop; nothing comes between the queue's look and this line
        with suppress(TimeoutError):  # it may have been told to stop
            await asyncio.wait_for(delay.woken.wait(), LOOK)
        return result


def rest_between_runs(queue: queueing.Queue) -> None:
    """Have a queue wait for events instead of looking for them a thousand times a second.

    Gradio's queue looks for new events every millisecond, and takes 5 to 28 % of a core in an app that nobody
    uses; it has no setting that does not make the first event wait as well. What can end its waiting is a
    new event, or the end of one.
    """
    rest = _Rest(queue.sleep_when_free)

    def waking(work: Callable[..., Awaitable[Any]]) -> Any:
        async def done(*arguments: Any, **named: Any) -> Any:
            try:
                return await work(*arguments, **named)
            finally:
                rest.woken.set()

        return done

    queue.push = waking(queue.push)  # type: ignore[method-assign]
    queue.process_events = waking(queue.process_events)  # type: ignore[method-assign]
    queue.sleep_when_free = rest
    queue.progress_update_sleep_when_free = LOOK  # it serves gr.Progress, which no tab uses
    queueing.asyncio = _Asyncio("asyncio")  # type: ignore[attr-defined]
