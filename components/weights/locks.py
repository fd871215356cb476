"""Locks: how does one process at a time do what several might, while those who wait hear of it?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.progress import Progress, Report

LOOK = 0.2  # seconds from one try to take a lock that another has to the next


@contextmanager
def alone(lock: Path, report: Report, waiting: str) -> Iterator[None]:
    """No other process or thread is inside with the same file. waiting: the stage told to who waits.

    What report raises ends the wait.
    """
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=LOOK))
                break
            except Timeout:
                report(Progress(waiting))
        yield
