"""Pace: is a decoding step faster with all threads, or with one that waits for no other?

The threads of a product wait for the last of them, some two hundred times in a step. Where another
process has one of the cores, the thread there comes late each time, and one thread alone would be done
long before. Which it is changes while the app runs, so it is found out there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

TRY = 24  # steps of a kind after which the slower choice may be tried again
COST = 0.05  # share of the time of steps that trying it may take: a busy core can make it ten times slower
FAR = 480  # steps after which it is tried all the same
NEWEST = 0.3  # share of the newest step in what a choice is said to take
FIRST = 2  # steps of a choice that count less than later ones: threads begin, caches are cold


class Pace:
    """Calls `step` with the number of threads that has been the faster one for so many rows.

    choices: numbers of threads; use: sets one of them; clock: seconds; device: that of the step.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        choices: tuple[int, ...],
        use: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
        device: Any = None,
    ) -> None:
        self._step, self._choices, self._use, self._clock = step, choices, use, clock
        self.device = device
        self._kinds: dict[int, _Kind] = {}

    def __call__(self, **named: Any) -> Any:
        rows = named["input_ids"].shape[0]
        kind = self._kinds.setdefault(rows.bit_length(), _Kind(self._choices))
        chosen = kind.next()
        self._use(chosen)
        started = self._clock()
        try:
            result = self._step(**named)
        finally:
            self._use(max(self._choices))
        kind.took(chosen, self._clock() - started)
        return result


class _Kind:
    """What is known of steps with about so many rows."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self._seconds: dict[int, float] = {}
        self._untried = list(choices) * FIRST
        self._since = dict.fromkeys(choices, 0)  # steps since each was tried
        self._spent = dict.fromkeys(choices, 0.0)  # seconds since

    def next(self) -> int:
        if self._untried:
            return self._untried.pop(0)
        best = min(self._seconds, key=lambda choice: self._seconds[choice])
        oldest = max(self._since, key=lambda choice: self._since[choice])
        lost = self._seconds[oldest] - self._seconds[best]
        if self._since[oldest] >= FAR or (self._since[oldest] >= TRY and lost <= COST * self._spent[oldest]):
            return oldest
        return best

    def took(self, choice: int, seconds: float) -> None:
        known, old = self._seconds.get(choice), self._since[choice] >= TRY
        if known is None or self._untried or (old and seconds < known):
            self._seconds[choice] = seconds  # should that have been luck, the next steps tell
        else:
            # After a while without a try the newest says more than what was.
            self._seconds[choice] += (0.5 if old else NEWEST) * (seconds - known)
        for other in self._since:
            self._since[other] += 1
            self._spent[other] += seconds
        self._since[choice], self._spent[choice] = 0, 0.0


@cache
def all_threads() -> int:
    """How many torch computes with by itself; to be asked before the first step of a pace."""
    import torch

    return torch.get_num_threads()


def use_all() -> None:
    """Have this thread compute with all of them.

    torch has a number for each thread, and one that first computes during another's step keeps that step's.
    """
    import torch

    if torch.get_num_threads() != all_threads():
        torch.set_num_threads(all_threads())


def paced(step: Any, device: Any) -> Any:
    """A step of a model on this device with threads as its pace says; on the CPU, where there are several.

    To be called in the thread that does the steps: the number of another may be that of a step under way.
    """
    import torch

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return step
    return Pace(step, (threads, 1), torch.set_num_threads, device=device)
