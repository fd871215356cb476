"""Turns: who computes on a device now? One at a time, in the order of asking.

Two computations at once on one device slow each other down by more than they gain, so visitors take
turns for short steps: one batch, one decoding step, one window of sound.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that is handed on in the order of asking, so that nobody with many steps keeps it.

    `with turns:` waits for the turn and passes it on. Not reentrant.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

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
