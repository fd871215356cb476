"""Batching: which visitors' texts or pictures go through a model together, and who does the work?

No thread of its own: the visitor who finds nobody at work computes the next batch for all who wait, and
hands the lead on when their own request is done. Who finds the model idle goes at once; nobody waits
for company.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from components.errors import Cancelled
from components.progress import Stopped, never

log = logging.getLogger("tour")

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Turn = Callable[[Callable[[], None]], None]  # does a step when its turn has come
Cost = Callable[[int, int], float]  # of a batch of so many items, the longest of such a size

MOST = 32  # items in a batch
LOOK = 0.2  # seconds from one look of a waiting visitor at `stopped` to the next


def _at_once(step: Callable[[], None]) -> None:
    step()


def cuts(counts: Sequence[int], sizes: Sequence[int], most: int, cost: Cost) -> list[slice]:
    """The cheapest way to cut what is sorted by size into batches of at most `most` items.

    counts: items that stay together; sizes: of the longest of them, in rising order.
    """
    # The least for all before each place, and where the last batch of it begins.
    least, begins = [0.0], [0]
    for end in range(1, len(counts) + 1):
        options, items = [], 0
        for begin in range(end - 1, -1, -1):
            items += counts[begin]
            if items > most and begin < end - 1:
                break
            options.append((least[begin] + cost(items, sizes[end - 1]), begin))
        best, begin = min(options)
        least.append(best)
        begins.append(begin)
    batches, end = [], len(counts)
    while end:
        batches.append(slice(begins[end], end))
        end = begins[end]
    return batches[::-1]


class _Part(Generic[Item, Answer]):
    """What one request has in the line: items of one kind and, when done, their answers."""

    def __init__(self, items: list[Item], kind: Hashable, size: int, stopped: Stopped) -> None:
        self.items, self.kind, self.size = items, kind, size  # of the longest
        self.stopped, self.gone = stopped, False  # gone: nobody takes the answers
        self.alone = False  # after an error in a batch with others
        self.answers: list[Answer] | None = None
        self.called = threading.Event()  # done, or to take the lead


class Batcher(Generic[Item, Answer]):
    """Requests of several threads, computed together in batches.

    compute: items -> one answer for each, in their order, the same whoever else is in the batch;
    size: what padding makes equal, such as the number of tokens; cost: says where one batch more is worth
    less padding; kind: only items of one kind go together; turn: `Loaded.compute`, for each batch; sizes:
    where batches are counted by the number of their items. A batch is chosen when its turn has come, so
    that all who arrived meanwhile are in it.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Iterable[Answer]],
        size: Callable[[Item], int],
        cost: Cost,
        kind: Callable[[Item], Hashable] = lambda item: None,
        turn: Turn = _at_once,
        sizes: Counter[int] | None = None,
    ) -> None:
        self._compute, self._size, self._cost, self._kind, self._turn = compute, size, cost, kind, turn
        self._sizes: Counter[int] = Counter() if sizes is None else sizes
        self._guard = threading.Lock()
        self._waiting: list[_Part[Item, Answer]] = []  # in the order of asking
        self._leader: _Part[Item, Answer] | None = None
        self._batch: list[_Part[Item, Answer]] = []  # under way

    def __call__(self, items: Sequence[Item], stopped: Stopped = never, most: int = MOST) -> list[Answer]:
        """The answers to one request, in the order of its items; at most `most` items in a batch.

        A long request stands in the line with one batch at a time, those of similar size first, and goes
        to its end for each, so that it holds up nobody. Raises what `compute` raises for these items
        alone, and Cancelled when `stopped` says so before the last batch, or while another visitor's
        thread computes it.
        """
        answers: dict[int, Answer] = {}
        for part in self._parts(items, most):
            answers.update(zip(part, self._through([items[i] for i in part], stopped, most), strict=True))
        return [answers[i] for i in range(len(items))]

    def unwanted(self) -> bool:
        """Whether all have stopped who are in the batch under way; `compute` may ask, and give up."""
        return all(part.stopped() for part in self._batch)

    def _parts(self, items: Sequence[Item], most: int) -> list[list[int]]:
        """Indices of items of one kind and of similar size, at most `most` in each part."""
        kinds: dict[Hashable, list[int]] = {}
        sizes = list(map(self._size, items))
        for i, item in enumerate(items):
            kinds.setdefault(self._kind(item), []).append(i)
        parts: list[list[int]] = []
        for same in kinds.values():
            same.sort(key=sizes.__getitem__)
            batches = cuts([1] * len(same), [sizes[i] for i in same], most, self._cost)
            parts += [same[batch] for batch in batches]
        return parts

    def _through(self, items: list[Item], stopped: Stopped, most: int) -> list[Answer]:
        """Wait in the line with one part and lead where it falls to this thread; then its answers."""
        mine: _Part[Item, Answer] = _Part(items, self._kind(items[0]), max(map(self._size, items)), stopped)
        with self._guard:
            self._waiting.append(mine)
            if self._leader is None:
                self._lead(mine)
        try:
            while mine.answers is None:
                if stopped():
                    raise Cancelled("Stopped.")
                if self._leader is mine:
                    self._one_batch(most)
                else:
                    mine.called.wait(LOOK)
            return mine.answers
        finally:
            with self._guard:
                mine.gone = True
                if mine in self._waiting:
                    self._waiting.remove(mine)
                if self._leader is mine:
                    self._leader = None
                    if self._waiting:
                        self._lead(self._waiting[0])

    def _lead(self, part: _Part[Item, Answer]) -> None:
        """Call it with the guard held."""
        self._leader = part
        part.called.set()

    def _one_batch(self, most: int) -> None:
        """Compute the next batch, the leader's own part in it, and hand the answers out.

        If it fails, each part goes alone, in the thread of its own request: only the one at fault gets
        the error.
        """
        batch: list[_Part[Item, Answer]] = []
        answers: list[Answer] = []

        def step() -> None:
            batch[:] = self._batch = self._next(most)
            answers[:] = self._compute([item for part in batch for item in part.items])

        try:
            self._turn(step)
            items = sum(len(part.items) for part in batch)
            self._sizes[items] += 1
            if len(answers) != items:
                raise ValueError(f"{len(answers)} answers to {items} items")
            for part in batch:
                part.answers, answers = answers[: len(part.items)], answers[len(part.items) :]
                part.called.set()
        except Exception:
            if len(batch) < 2:
                raise
            log.debug("a batch of %s requests failed, each goes alone", len(batch), exc_info=True)
        finally:
            with self._guard:
                for part in batch:
                    part.alone = True
                self._batch = []
                self._waiting[:0] = [part for part in batch if part.answers is None and not part.gone]

    def _next(self, most: int) -> list[_Part[Item, Answer]]:
        """The part that has waited longest and those it goes with best, in the order of asking.

        No part is divided: the answers to one request come together.
        """
        with self._guard:
            first = self._waiting[0]
            chosen = [first]
            if not first.alone:
                same = [part for part in self._waiting if part.kind == first.kind and not part.alone]
                same.sort(key=lambda part: part.size)
                counts, sizes = [len(part.items) for part in same], [part.size for part in same]
                batches = (same[cut] for cut in cuts(counts, sizes, most, self._cost))
                chosen = next(batch for batch in batches if first in batch)
            batch = [part for part in self._waiting if part in chosen]
            self._waiting = [part for part in self._waiting if part not in chosen]
        return batch
