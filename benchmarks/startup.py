"""Start-up: how soon is the page there, next to importing Gradio alone, and how soon the first answer?

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import drive
from benchmarks.processes import free_port

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
PATIENCE = 120.0  # seconds


def seconds_to_import_gradio() -> float:
    """Wall seconds of a fresh interpreter that imports Gradio and ends."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True, cwd=ROOT)
    return time.perf_counter() - started


def seconds_to_page() -> float:
    """Wall seconds from starting app.py until its page has been read in full."""
    with _begun() as (_, started):
        return time.perf_counter() - started


def seconds_to_answer() -> float:
    """Wall seconds from starting app.py until a visitor who asks as soon as the page is there has an answer.

    The weights are on the disk; torch, Transformers and the model are yet to be loaded.
    """
    with _begun() as (url, started):
        drive(url, "sentiment", [["I have been waiting for this.", "auto"]])
        return time.perf_counter() - started


@contextmanager
def _begun() -> Iterator[tuple[str, float]]:
    """A fresh app whose page is read: its address and when it was started; ended with the block."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "TOUR_CHECKPOINTS": "starter"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/", timeout=PATIENCE) as page:  # noqa: S310 - our own
                    page.read()
                break
            except OSError:
                if time.perf_counter() - started > PATIENCE:
                    raise TimeoutError(f"no page after {PATIENCE:.0f} s") from None
                time.sleep(0.01)
        yield url, started
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    seconds_to_import_gradio()  # so that all find their files in the disk cache
    rounds = [(seconds_to_import_gradio(), seconds_to_page(), seconds_to_answer()) for _ in range(ROUNDS)]
    imports, pages, answers = zip(*rounds, strict=True)
    ratio = statistics.median(page / alone for alone, page, _ in rounds)
    print(f"| import gradio | page up | ratio (median of {ROUNDS}) | first answer |\n|---|---|---|---|")
    medians = [f"{statistics.median(one):.2f} s" for one in (imports, pages, answers)]
    print(f"| {medians[0]} | {medians[1]} | {ratio:.2f} | {medians[2]} |")


if __name__ == "__main__":
    main()
