"""Processes: the servers and workers that are compared, each started here and ended by its own handle."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Answer, Burst

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0  # seconds for a start, or for one answer of a worker
AT_REST = 0.05  # share of a core below which a process counts as idle
LOOK = 0.5  # seconds from one look at its work to the next
POLL = 0.02  # seconds from one look at its memory to the next


@dataclass(frozen=True)
class Server:
    """A server that answers. url: without a slash at the end."""

    url: str
    process: psutil.Process


def environment(**more: str) -> dict[str, str]:
    """Ours without settings for the app or for Gradio, which would reach one side only; no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "TOUR_"))}
    return kept | {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"} | more


@contextmanager
def server(command: Sequence[str], **variables: str) -> Iterator[Server]:
    """Python with these arguments and --port in the project's folder, once its page answers.

    Raises RuntimeError with its last words if it ends before that, or takes too long.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile() as log,
        _ended(
            subprocess.Popen(
                [sys.executable, *command, "--port", str(port)],
                cwd=ROOT,
                env=environment(**variables),
                stdout=log,
                stderr=log,
            )
        ) as child,
    ):
        until = time.monotonic() + PATIENCE
        while not _answers(url):
            if child.poll() is not None or time.monotonic() > until:
                log.seek(0)
                words = log.read().decode(errors="replace").strip()
                raise RuntimeError(f"{' '.join(command[:2])} did not start: {words[-500:]}")
            time.sleep(0.05)
        yield Server(url, psutil.Process(child.pid))


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/", timeout=PATIENCE) as page:  # noqa: S310 - our own address
            page.read()
        return True
    except urllib.error.URLError:
        return False


@contextmanager
def _ended(child: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Ends the child with the block, with force if it does not go by itself."""
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def busy() -> Iterator[None]:
    """While another process keeps one core at work."""
    with _ended(subprocess.Popen([sys.executable, "-c", "while True: pass"])):
        yield


class Worker:
    """A process of benchmarks/alone.py that is asked one thing after another."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def ask(self, measure: str, **values: Any) -> Burst:
        """What `measure` of benchmarks/alone.py takes and brings; seconds: of all items together.

        Raises RuntimeError if it ends in an error, whose traceback is on standard error, or takes too long.
        """
        if self._child.stdin is None or self._child.stdout is None:
            raise ValueError("a worker needs pipes")
        guard = threading.Timer(PATIENCE, self._child.kill)
        guard.start()
        try:
            self._child.stdin.write(json.dumps({"measure": measure, **values}) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        finally:
            guard.cancel()
        if not line:
            raise RuntimeError(f"{measure} could not be measured: its process ended")
        told = json.loads(line)
        pairs = zip(told["answers"], told["seconds"], strict=True)
        return Burst(sum(told["seconds"]), tuple(Answer(data, taken, taken) for data, taken in pairs))


@contextmanager
def worker() -> Iterator[Worker]:
    """A fresh worker; nothing heavy is imported yet."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.alone"]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with _ended(
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**quiet),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    ) as child:
        yield Worker(child)


def settle(process: psutil.Process) -> None:
    """Waits until a process has nothing more to do. Raises TimeoutError if it never rests."""
    until = time.monotonic() + PATIENCE
    before = _worked(process)
    while time.monotonic() < until:
        time.sleep(LOOK)
        now = _worked(process)
        if now - before < AT_REST * LOOK:
            return
        before = now
    raise TimeoutError(f"process {process.pid} was still at work after {PATIENCE:.0f} s")


def share_of_a_core(process: psutil.Process, span: float) -> float:
    """What a process takes of a core, 1 for all of it, in so many seconds from now on."""
    before, started = _worked(process), time.monotonic()
    time.sleep(span)
    return (_worked(process) - before) / (time.monotonic() - started)


def _worked(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


class Peak:
    """The most memory that a process was seen to hold. bytes: resident."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = process.memory_info().rss


@contextmanager
def peak_memory(process: psutil.Process) -> Iterator[Peak]:
    """Watches the resident memory of a process for as long as the block lasts."""
    peak, over = Peak(process), threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            peak.bytes = max(peak.bytes, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
