"""Start-up: how soon does the page answer, next to importing Gradio alone?

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "TOUR_CHECKPOINTS": "starter"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.perf_counter() - started < PATIENCE:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as page:
                    page.read()
                return time.perf_counter() - started
            except urllib.error.URLError:
                time.sleep(0.01)
        raise TimeoutError(f"no page after {PATIENCE:.0f} s")
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    seconds_to_import_gradio()  # so that both find their files in the disk cache
    pairs = [(seconds_to_import_gradio(), seconds_to_page()) for _ in range(ROUNDS)]
    imports, pages = zip(*pairs, strict=True)
    ratio = statistics.median(page / alone for alone, page in pairs)
    print(f"| import gradio | page up | ratio (median of {ROUNDS}) |\n|---|---|---|")
    print(f"| {statistics.median(imports):.2f} s | {statistics.median(pages):.2f} s | {ratio:.2f} |")


if __name__ == "__main__":
    main()
