"""Turns: who computes on a device now, and in which thread? One at a time, in the order of asking.

Two computations at once on one device slow each other down by more than they gain, so visitors take
turns for short steps: one batch, one decoding step, one window of sound. And each thread that computes
has an OpenMP pool of its own, so that many of them are slow: a device has one thread for all steps.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Turns:
    """A lock that is handed on in the order of asking, so that nobody with many steps keeps it.

    `run` waits for the turn, and does a step in the thread of the device. `with turns:` is for long work
    that gives way between its steps: it computes in the caller's thread. Not reentrant.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False
        self._thread = ThreadPoolExecutor(1, "device")  # started by its first step
        self.sizes: Counter[int] = Counter()  # how many batches of each size there were

    def run(self, step: Callable[[], T]) -> T:
        """What `step()` gives on this turn. It must not give way."""
        with self:
            return self._thread.submit(step).result()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        called.acquire()  # released by the one before

    def give_way(self) -> None:
        """Between two steps of long work: those who wait go first, then it is this one's turn again."""
        self.__exit__()
        self.__enter__()

    def __exit__(self, *error: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
