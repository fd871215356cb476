"""Patches: members of Gradio that are replaced, each with its reason.

A test fails for each when Gradio changes under it.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
from gradio import queueing, route_utils

from components.errors import DemoError
from components.server.fetching import fetch

log = logging.getLogger("tour")

UNTAKEN = "One of the values sent is not of the kind that is asked for. The API page tells the kinds."
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


class Root(str):
    """The path of the app, which Gradio puts before those of files; by `str()`, for people, its address."""

    whole: str

    def __str__(self) -> str:
        return self.whole

    def __format__(self, spec: str) -> str:
        return format(super().__str__(), spec)


def relative_addresses() -> None:
    """Have the addresses of files and of the app in its page begin with its path, without scheme and host.

    Gradio takes those from the request, and a proxy that sends no Host, drops the port or ends HTTPS without
    saying so makes them lead elsewhere; the browser knows better. Who asks for /config is told all. Without a
    Host, Gradio would also answer with an error to what a browser says the origin of.
    """
    whole, valid = route_utils.get_root_url, route_utils.CustomCORSMiddleware.is_valid_origin
    if getattr(whole, "is_relative", False):
        return

    def root_url(request: Any, route_path: str, root_path: str | None) -> str:
        address = whole(request, route_path, root_path)
        if route_path == "/config" or str(root_path).startswith(("http://", "https://")):
            return address
        # An empty one would stand for the page's own address, with all that is behind its question mark.
        root = Root(root_path or "/.")
        root.whole = address
        return root

    def valid_origin(middleware: Any, request_headers: Any) -> bool:
        return "host" in request_headers and valid(middleware, request_headers)

    root_url.is_relative = True  # type: ignore[attr-defined]
    route_utils.get_root_url = root_url
    route_utils.CustomCORSMiddleware.is_valid_origin = valid_origin  # type: ignore[method-assign, assignment]


def keep_runs(app: gr.Blocks) -> None:
    """Have a browser find its history of runs again when the app is started anew, unless the page differs.

    Call it when the page is complete. A run is filed with the numbers of what it ran and was given.
    """
    parts = [
        (number, type(block).__name__, getattr(block, "label", None)) for number, block in app.blocks.items()
    ]
    app.app_id = zlib.crc32(repr(parts).encode())


def as_uploaded(image: gr.Image) -> gr.Image:
    """The same component, handing the file over unread: a damaged one is the tab's to explain."""
    read = image.preprocess

    def preprocess(payload: Any) -> Any:
        return payload.path if payload and payload.path else read(payload)

    image.preprocess = preprocess  # type: ignore[method-assign]
    return image


def forgiving(app: gr.Blocks) -> None:
    """Have what clients send and no component can take answered with a sentence.

    Gradio's own words would name types of Python, and its log would hold what was sent.
    """
    read = app.preprocess_data

    async def preprocess_data(*given: Any, **named: Any) -> list[Any]:
        try:
            return await read(*given, **named)
        except Exception as error:
            if isinstance(error, DemoError):
                log.info("a client sent what cannot be used: %s", type(error).__name__)
                raise gr.Error(str(error), print_exception=False) from error
            if isinstance(error, gr.Error) and not error.print_exception:
                raise  # a sentence of ours
            log.info("a client sent what no component takes: %s", type(error).__name__)
            raise gr.Error(UNTAKEN, print_exception=False) from error

    app.preprocess_data = preprocess_data  # type: ignore[method-assign]


def fetches(app: gr.Blocks, most: float) -> None:
    """Have files that clients name by an address fetched by `fetching.fetch`; most: bytes of one.

    Gradio would keep all of it in memory, whatever its size, and ask a name server of its own for names that
    this machine does not know.
    """
    for block in app.blocks.values():
        _block_fetches(block, most)


def _block_fetches(block: Any, most: float) -> None:
    keep = block.async_move_resource_to_block_cache

    async def kept(place: str | Path | None) -> str | None:
        if not str(place).startswith(("http://", "https://")):
            return await keep(place)
        path = str(await fetch(str(place), Path(block.GRADIO_CACHE), most))
        block.temp_files.add(path)  # deleted as uploads are
        return path

    block.async_move_resource_to_block_cache = kept
