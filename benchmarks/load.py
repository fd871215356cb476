"""Load: so many clients at once against a Gradio app, over HTTP, as lightly as can be.

The load generator shares the machine with the servers that it measures. All clients are therefore
coroutines of one thread, with connections that stay open.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 600.0  # seconds for all requests of a burst together


@dataclass(frozen=True)
class Answer:
    """What a request brought; seconds: until it was complete; first: until the first of it had come."""

    data: list[Any]
    seconds: float
    first: float


@dataclass(frozen=True)
class Burst:
    """Several requests. seconds: from the first question to the last answer; answers: in order of asking."""

    seconds: float
    answers: tuple[Answer, ...]


async def events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    """Name and data of each server-sent event, told apart by blank lines."""
    name, data = "message", []
    async for line in lines:
        field, _, value = line.partition(":")
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
        elif field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))


async def ask(client: httpx.AsyncClient, name: str, values: Sequence[Any]) -> Answer:
    """Call an endpoint in two steps, as Gradio's documentation has it for curl: ask, then listen.

    Raises RuntimeError with what the app says if it answers with an error, or not at all.
    """
    started = time.perf_counter()
    path = f"/gradio_api/call/{name}"
    asked = await client.post(path, json={"data": list(values)})
    if asked.is_error:
        raise RuntimeError(f"{name} was refused: {asked.text[:200]}")
    first, complete = None, None
    async with client.stream("GET", f"{path}/{asked.json()['event_id']}") as response:
        # Read to its end, because only then does the connection serve the next request.
        async for event, data in events(response.aiter_lines()):
            if event == "error":
                raise RuntimeError(f"{name} answered with an error: {data[:200]}")
            if event in ("generating", "complete"):
                first = first or time.perf_counter() - started
                complete = data if event == "complete" else complete
    if complete is None or first is None:
        raise RuntimeError(f"{name} ended without an answer")
    return Answer(json.loads(complete), time.perf_counter() - started, first)


def drive(url: str, name: str, requests: Sequence[Sequence[Any]], clients: int = 1) -> Burst:
    """Send the requests from so many clients at once; each sends its next when it has its answer.

    requests: the values of the endpoint's inputs. Raises what `ask` raises, and TimeoutError.
    """
    return asyncio.run(_drive(url, name, requests, clients))


async def _drive(url: str, name: str, requests: Sequence[Sequence[Any]], clients: int) -> Burst:
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(requests))
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits, verify=False) as client:  # noqa: S113, S501 - bounded below; no TLS

        async def visitor() -> None:
            for place, values in waiting:
                answers[place] = await ask(client, name, values)

        started = time.perf_counter()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for _ in range(min(clients, len(requests))):
                group.create_task(visitor())
        seconds = time.perf_counter() - started
    return Burst(seconds, tuple(answers[place] for place in range(len(requests))))


def upload(url: str, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Bring files to an app; what it takes as the value of a file input, in the same order."""
    return list(_upload(url, paths))


def _upload(url: str, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    with httpx.Client(base_url=url, timeout=60) as client:
        for path in paths:
            answer = client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
            answer.raise_for_status()
            yield {
                "path": answer.json()[0],
                "orig_name": path.name,
                "meta": {"_type": "gradio.FileData"},
            }
