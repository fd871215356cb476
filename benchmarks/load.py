"""Load: so many clients at once against a Gradio app, over HTTP, as lightly as can be.

The load generator shares the machine with the servers that it measures, so each client is a thread with
one connection that stays open and the standard library's own HTTP: a sixth of the work of httpx.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

PATIENCE = 300.0  # seconds without a sign of life from the server; Gradio sends one every 15


@dataclass(frozen=True)
class Answer:
    """What a request brought; seconds: until it was complete; first: until the first of it had come."""

    data: Any
    seconds: float
    first: float


@dataclass(frozen=True)
class Burst:
    """Several requests. seconds: from the first question to the last answer; answers: in order of asking."""

    seconds: float
    answers: tuple[Answer, ...]


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and data of each server-sent event; events are told apart by blank lines."""
    name, data = "message", list[bytes]()
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data.append(value)
        elif not field and not value:
            if data:
                yield name, b"\n".join(data)
            name, data = "message", []


def ask(connection: http.client.HTTPConnection, name: str, values: Sequence[Any], session: str) -> Answer:
    """Call an endpoint in two steps, as Gradio's documentation has it for curl: ask, then listen.

    session: as a browser and gradio_client have one; without it Gradio makes a new one for each call.
    Raises RuntimeError with what the app says if it answers with an error, or not at all.
    """
    started = time.perf_counter()
    path = f"/gradio_api/call/{name}"
    body = json.dumps({"data": list(values), "session_hash": session})
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    told = response.read()
    if response.status != 200:
        raise RuntimeError(f"{name} was refused: {told[:200].decode(errors='replace')}")
    connection.request("GET", f"{path}/{json.loads(told)['event_id']}")
    first, complete = None, None
    # To its end, because only then does the connection serve the next request.
    for event, data in events(connection.getresponse()):
        if event == "error":
            raise RuntimeError(f"{name} answered with an error: {data[:200].decode(errors='replace')}")
        if event in ("generating", "complete"):
            first = first or time.perf_counter() - started
            complete = data if event == "complete" else complete
    if complete is None or first is None:
        raise RuntimeError(f"{name} ended without an answer")
    return Answer(json.loads(complete), time.perf_counter() - started, first)


def drive(url: str, name: str, requests: Sequence[Sequence[Any]], clients: int = 1) -> Burst:
    """Send the requests from so many clients at once; each sends its next when it has its answer.

    A client has the same session each time, as a page that stays open.
    requests: the values of the endpoint's inputs. Raises what `ask` raises for the first that fails.
    """
    answers: dict[int, Answer] = {}
    waiting, turn, over = enumerate(requests), threading.Lock(), threading.Event()

    def visitor(session: str) -> None:
        with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)) as connection:
            while not over.is_set():
                with turn:
                    place, values = next(waiting, (None, ()))
                if place is None:
                    return
                answers[place] = ask(connection, name, values, session)

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        visitors = [pool.submit(visitor, f"client-{i}") for i in range(min(clients, len(requests)))]
        try:
            done, _ = wait(visitors, return_when=FIRST_EXCEPTION)
        finally:
            seconds = time.perf_counter() - started
            over.set()
        for one in done:
            one.result()
    return Burst(seconds, tuple(answers[place] for place in range(len(requests))))


def upload(url: str, paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Bring files to an app; what it takes as the values of a file input, in the same order."""
    taken = []
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        for path in paths:
            answer = client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
            answer.raise_for_status()
            taken.append(
                {"path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
            )
    return taken
