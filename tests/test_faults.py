"""The whole app under many visitors, and when it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import psutil
import pytest

import app
from components.models.manager import ModelManager
from components.server.line import Line
from components.settings import parse
from components.weights.hub import HubStatus
from tests import where
from tests.serving import served
from tests.test_app import ROOT, free_port

SEED = 3
VISITORS = 100
SESSIONS = 60  # that are kept, more than are there at the same time
PRESENT = 16  # visitors at the same time: who comes next waits until one has left
TEXTS = [
    f"{opinion} number {i}" for i in range(12) for opinion in ("I love film", "I hate song", "A dull day")
]
LABELS = ["sport, weather, music", "praise, blame", "one, two, three, four"]


@dataclass
class Running:
    """The app, served from this process."""

    page: gr.Blocks
    models: ModelManager
    line: Line
    url: str

    def run_button(self, tab: str) -> int:
        """The number of the function behind the Run button of a tab."""
        order = [demo.name for demo in app.demos.discover()]
        handlers = [
            number for number, fn in self.page.fns.items() if fn.name == "handler" and fn.show_progress_on
        ]
        return handlers[order.index(tab)]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Running]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = replace(parse([], os.environ), checkpoints="starter", keep_alive=-1)
    models, line = where.manager(settings), Line(settings.queue)
    page = app.create_app(models, settings, HubStatus(), line)
    with served(page, max_threads=app.MOST_EVENTS, state_session_capacity=SESSIONS) as url:
        yield Running(page, models, line, url)


async def ask(client: httpx.AsyncClient, name: str, values: list[Any]) -> list[Any]:
    """What an endpoint answers. Raises RuntimeError with what it says instead."""
    joined = await client.post(f"/gradio_api/call/{name}", json={"data": values})
    joined.raise_for_status()
    event, answer = "", None
    async with client.stream("GET", f"/gradio_api/call/{name}/{joined.json()['event_id']}") as response:
        async for line in response.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                event = value
            elif field == "data" and event == "error":
                raise RuntimeError(value)
            elif field == "data" and event in ("generating", "complete"):
                answer = json.loads(value)
    if answer is None or event != "complete":
        raise RuntimeError(f"{name} ended with {event!r}")
    return answer


def upload(url: str, path: Path) -> dict[str, Any]:
    """Bring a file to the app; what it takes as the value of a file input."""
    answer = httpx.post(
        f"{url}gradio_api/upload", files={"files": (path.name, path.read_bytes())}, timeout=60
    )
    answer.raise_for_status()
    return {"path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def scores(answer: Any) -> dict[str, float]:
    return {row["label"]: row["confidence"] for row in answer[0]["confidences"]}


def alike(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[name] - other[name]) < 1e-4 for name in one)


def test_forty_first_clicks_on_a_cold_app_load_once_and_are_all_answered(running):
    expected = serve_alone(TEXTS[:40])

    async def all_at_once() -> list[Any]:
        async with httpx.AsyncClient(base_url=running.url, timeout=120) as client:
            return await asyncio.gather(
                *(ask(client, "sentiment", [text, "auto"]) for text in TEXTS[:36] + TEXTS[:4])
            )

    answers = asyncio.run(all_at_once())
    assert running.models.totals().loads == 1
    for text, answer in zip(TEXTS[:36] + TEXTS[:4], answers, strict=True):
        assert alike(scores(answer), expected[text])
    assert until(lambda: all(row.users == 0 for row in running.models.snapshot()), 5)


def serve_alone(texts: list[str]) -> dict[str, dict[str, float]]:
    """What each text gets when nobody else is there."""
    from demos import sentiment

    settings = replace(parse([], os.environ), checkpoints="starter", keep_alive=-1)
    models = where.manager(settings)
    return {text: dict(sentiment.run(text, "auto", models).rows[0].scores) for text in texts}


def says(text: str, answer: Any) -> bool:
    return answer[0] == text


def writes(sequences: list[str], answer: Any) -> bool:
    return answer[0]["sequences"] == sequences


def fits(right: dict[str, float], answer: Any) -> bool:
    return alike(scores(answer), right)


@dataclass(frozen=True)
class Question:
    """What a visitor asks, and whether an answer is one to it."""

    endpoint: str
    values: list[Any]
    fits: Callable[[Any], bool]


def questions(running: Running, picture: Path) -> list[Question]:
    """Questions with the answers that a visitor gets who is alone."""

    async def alone(name: str, values: list[Any]) -> Any:
        async with httpx.AsyncClient(base_url=running.url, timeout=300) as client:
            return await ask(client, name, values)

    file = upload(running.url, picture)
    asked: list[tuple[str, list[Any]]] = [("sentiment", [text, "auto"]) for text in TEXTS]
    asked += [
        ("zero_shot", [TEXTS[i], labels, False, "This is about {}.", "auto"])
        for i, labels in enumerate(LABELS)
    ]
    asked += [("classify_image", [file, k, "auto"]) for k in (3, 5)]
    asked += [("translate", ["Two dogs are running on the beach.", "auto"])]
    found = []
    for name, values in asked:
        answer = asyncio.run(alone(name, values))
        if name == "translate":
            found.append(Question(name, values, partial(says, answer[0])))
        else:
            found.append(Question(name, values, partial(fits, scores(answer))))
    for beginning in ("Once upon a time", "The weather is", "My name"):
        # Greedy, so that everyone gets the same; seeds and neighbours do not matter.
        values = [beginning, 12, 1, 0, 0, 1, 0, "auto"]
        answer = asyncio.run(alone("generate", values))
        text = answer[0]["sequences"]
        found.append(Question("generate", values, partial(writes, text)))
    return found


async def click_and_leave(client: httpx.AsyncClient, running: Running, chance: random.Random) -> None:
    """Press Run of a tab as the page does, listen for a while, and close the page."""
    session = f"{chance.getrandbits(48):x}"
    tab = chance.choice(["generation", "sentiment"])
    data: list[Any] = ["A long story about", 200, 2, 0.7, 50, 0.95, 1, 0, "completion", "auto"]
    body = {
        "data": data if tab == "generation" else ["Good.", None, "auto"],
        "fn_index": running.run_button(tab),
        "session_hash": session,
        "event_data": None,
    }
    joined = await client.post("/gradio_api/queue/join", json=body)
    joined.raise_for_status()
    messages = 0
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as response:
        async for line in response.aiter_lines():
            messages += line.startswith("data:")
            if messages > chance.randrange(6):
                return


async def visitor(
    running: Running,
    asked: list[Question],
    chance: random.Random,
    door: asyncio.Semaphore,
    tally: Counter[str],
) -> None:
    async with door, httpx.AsyncClient(base_url=running.url, timeout=120) as client:
        (await client.get("/")).raise_for_status()
        tally["opened"] += 1
        for _ in range(chance.randrange(4)):
            question = chance.choice(asked)
            kind = chance.random()
            if kind < 0.2:
                await click_and_leave(client, running, chance)
                tally["left the page"] += 1
            elif kind < 0.35:
                try:
                    async with asyncio.timeout(0.1 * chance.random()):
                        await ask(client, question.endpoint, question.values)
                    tally["quicker than expected"] += 1
                except TimeoutError:
                    tally["hung up"] += 1
                except RuntimeError as refused:
                    tally[told(refused)] += 1
            else:
                try:
                    answer = await ask(client, question.endpoint, question.values)
                except RuntimeError as refused:
                    tally[told(refused)] += 1
                else:
                    tally["right" if question.fits(answer) else f"wrong {question.endpoint}"] += 1


def told(refused: RuntimeError) -> str:
    """A full line says so; any other error is one."""
    return "refused" if "are waiting already" in str(refused) else f"error {refused}"


def files_below(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def test_a_hundred_visitors_come_and_go_and_nothing_is_lost(running, tmp_path):
    """Every answer belongs to its question, and afterwards threads, memory and files are what they were."""
    asked = questions(running, Path(gr.media.get_image("lion.jpg")))
    chance, tally = random.Random(SEED), Counter[str]()

    async def come_and_go(visitors: int) -> None:
        door = asyncio.Semaphore(PRESENT)
        await asyncio.gather(
            *(visitor(running, asked, random.Random(chance.random()), door, tally) for _ in range(visitors))
        )

    # So that caches and pools are filled before anything is counted, and as many sessions kept as will be.
    asyncio.run(come_and_go(SESSIONS))
    assert until(lambda: running.line.counts() == (0, 0), 60)
    tally.clear()
    before, threads, memory = files_below(tmp_path), run_threads(), memory_now()
    asyncio.run(come_and_go(VISITORS))
    print(dict(tally))
    assert not [name for name in tally if name.startswith(("wrong", "error"))]
    assert tally["opened"] == VISITORS and tally["right"] > VISITORS / 2
    assert tally["left the page"] > 10 and tally["hung up"] > 10
    assert until(lambda: running.line.counts() == (0, 0), 30)
    assert until(lambda: all(row.users == 0 for row in running.models.snapshot()), 5)
    assert until(lambda: run_threads() <= threads, 15), run_threads()
    assert files_below(tmp_path) <= before
    assert memory_now() < 1.1 * memory


def run_threads() -> int:
    """Threads other than the server's own pool, which keeps its workers for a while."""
    names = [thread.name for thread in threading.enumerate()]
    return len([name for name in names if not name.startswith(("AnyIO", "asyncio"))])


def memory_now() -> int:
    from components.models.device import release_memory

    gc.collect()
    release_memory()
    return psutil.Process().memory_info().rss


@pytest.fixture
def started() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The app as a process of its own."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), "--checkpoints", "starter"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        assert until(up, 60)
        yield process, url
    finally:
        process.kill()
        process.wait()


def generating(url: str, tokens: int) -> Iterator[str]:
    """The lines of a generation that is under way."""
    values = ["A long story about", tokens, 1, 0.7, 50, 0.95, 0, "auto"]
    with httpx.Client(base_url=url, timeout=120) as client:
        event = client.post("/gradio_api/call/generate", json={"data": values}).json()["event_id"]
        with client.stream("GET", f"/gradio_api/call/generate/{event}") as response:
            yield from response.iter_lines()


@pytest.mark.parametrize(("tokens", "ending"), [(8, "complete"), (1024, "error")])
def test_terminated_with_work_under_way_it_finishes_or_says_so(started, tokens, ending):
    process, url = started
    list(generating(url, 1))  # the model is loaded
    lines = generating(url, tokens)
    assert next(line for line in lines if line.startswith("event: "))
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest = list(lines)
    assert process.wait(15) == 0
    assert time.monotonic() - told < 10
    events = [line.removeprefix("event: ") for line in rest if line.startswith("event: ")]
    assert events[-1] == ending
    if ending == "error":
        assert "shutting down" in json.loads(rest[-2 if not rest[-1] else -1].removeprefix("data: "))["error"]
