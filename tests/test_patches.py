"""What is replaced in Gradio: it does what it is for, and Gradio is still as it was when that was written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import gradio as gr
import pytest
from gradio_client import Client

from components.page import patches
from tests.serving import served

WAIT = 30  # seconds after which a test that hangs fails


@pytest.fixture
def address(monkeypatch) -> Iterator[str]:
    """A page whose queue hardly ever looks for work that nobody told it of."""
    monkeypatch.setattr(patches, "LOOK", 3600.0)
    with gr.Blocks() as page:
        text, answer = gr.Textbox(), gr.Textbox()
        text.submit(str.upper, text, answer, api_name="upper")
        text.submit(_slowly, text, answer, api_name="one", concurrency_limit=1)
        text.submit(_fails, text, answer, api_name="fails", concurrency_limit=1)
    page.queue()
    patches.rest_between_runs(page._queue)
    with served(page) as url:
        yield url


def _slowly(text: str) -> Iterator[str]:
    for end in range(1, len(text) + 1):
        yield text[:end]


def _fails(text: str) -> str:
    raise gr.Error(text)


def test_a_queue_at_rest_takes_the_next_event_at_once(address):
    visitor = Client(address, verbose=False)
    assert [visitor.submit(word, api_name="/upper").result(WAIT) for word in ("tea", "cake")] == [
        "TEA",
        "CAKE",
    ]


def test_those_who_wait_for_their_turn_come_when_one_before_them_ends(address):
    visitor = Client(address, verbose=False)
    jobs = [visitor.submit(f"tea {i}", api_name="/one") for i in range(6)]
    assert [job.result(WAIT) for job in jobs] == [f"tea {i}" for i in range(6)]


def test_they_come_as_well_when_it_fails_or_is_cancelled(address):
    visitor = Client(address, verbose=False)
    failing = [visitor.submit("no", api_name="/fails") for _ in range(3)]
    assert all(job.exception(WAIT) for job in failing)
    long = visitor.submit("x" * 20_000, api_name="/one")
    after = visitor.submit("tea", api_name="/one")
    next(iter(long))
    assert long.cancel()
    assert after.result(WAIT) == "tea"


def test_a_queue_at_rest_does_not_look_around(address, monkeypatch):
    looks: list[float] = []
    real = patches._Asyncio.sleep

    async def counted(delay: float, result: object = None) -> object:
        looks.append(delay)
        return await real(delay, result)

    monkeypatch.setattr(patches._Asyncio, "sleep", staticmethod(counted))
    visitor = Client(address, verbose=False)
    assert visitor.submit("tea", api_name="/upper").result(WAIT) == "TEA"
    assert any(isinstance(delay, patches._Rest) for delay in looks), (
        "Gradio's queue sleeps otherwise than it did"
    )
    time.sleep(0.1)  # the end of the run wakes it once more
    before = len(looks)
    threading.Event().wait(0.5)
    assert len(looks) - before < 5, "500 without the patch"
