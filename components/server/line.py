"""Line: which visitors' runs are under way, who waits, and at which place?

Each tab has a number of runs that may go on at once; further ones wait in the order of asking, so that
one busy tab holds up no other. A run has a thread for as long as it lasts and none while it waits; the
thread then serves who comes soon after, or ends.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue

from components.errors import Busy
from components.progress import Stopped
from components.server.access import NOBODY, Limits, Visitor

log = logging.getLogger("tour")
runs = logging.getLogger("tour.runs")

LINGER = 2.0  # seconds that a thread waits for another run
Work = Callable[[Stopped], str | None]


@dataclass(frozen=True)
class Ended:
    """What is known of a run that is over, which is nothing of what it was given.

    number: counted since the start; outcome: "ok", or the class of the error that the visitor was told;
    seconds: without those that it waited in line.
    """

    number: int
    lane: str
    outcome: str
    seconds: float = 0.0
    waited: float = 0.0


def _logged(run: Ended) -> None:
    runs.info(
        "run %d of %s: %s in %.3f s after %.3f s in line",
        run.number,
        run.lane,
        run.outcome,
        run.seconds,
        run.waited,
        extra={"fields": asdict(run)},
    )


class Ticket:
    """One run. stop: it is asked to end; done: it has ended, or will never begin; left: so has who asked."""

    def __init__(self, number: int, lane: str, work: Work) -> None:
        self.number, self.lane, self.work = number, lane, work
        self.asked = time.monotonic()
        self.stop = threading.Event()
        self.done, self.left = threading.Event(), threading.Event()


class Line:
    """Starts runs at once or when their tab has room for them.

    most: how many may wait in all; limits: says which visitors ask too often; told: is given what is known
    of each run that is over or was refused, besides the log.
    """

    def __init__(
        self,
        most: int = 64,
        limits: Limits | None = None,
        told: Callable[[Ended], None] = lambda run: None,
    ) -> None:
        self.most = most
        self._limits, self._told = limits or Limits(0), told
        self._numbers = itertools.count(1)
        self._waiting: dict[str, deque[Ticket]] = {}
        self._running: Counter[str] = Counter()
        self._tickets: set[Ticket] = set()
        self._free: list[SimpleQueue[Ticket]] = []  # the inboxes of threads with nothing to do
        self._guard = threading.Lock()
        self.closing = False

    def enter(self, lane: str, at_once: int, work: Work, visitor: Visitor = NOBODY) -> Ticket:
        """Have `work(stopped)` done in a thread, at most `at_once` of that lane together.

        `work` answers for its own errors, and gives the class of the one its visitor was told, if any.
        Raises Busy if the line is full, the visitor asks too often or the app is shutting down.
        """
        ticket = Ticket(next(self._numbers), lane, work)
        try:
            self._limits.check(visitor)
            self._admit(ticket, at_once)
        except Busy:
            self._over(Ended(ticket.number, lane, Busy.__name__))
            raise
        return ticket

    def _admit(self, ticket: Ticket, at_once: int) -> None:
        lane = ticket.lane
        with self._guard:
            if self.closing:
                raise Busy("The app is shutting down. Try again in a minute.")
            start = self._running[lane] < at_once
            if not start:
                if (ahead := sum(map(len, self._waiting.values()))) >= self.most:
                    raise Busy(
                        f"Many people are here: {ahead} runs are waiting already, and no more are taken. "
                        "Try again in a minute."
                    )
                self._waiting.setdefault(lane, deque()).append(ticket)
            else:
                self._running[lane] += 1
            self._tickets.add(ticket)
            if start:
                self._start(ticket)

    def _over(self, run: Ended) -> None:
        _logged(run)
        self._told(run)

    def place(self, ticket: Ticket) -> int:
        """1 for the next of its lane, 0 when it runs or is done."""
        with self._guard:
            waiting = self._waiting.get(ticket.lane, ())
            return waiting.index(ticket) + 1 if ticket in waiting else 0

    def leave(self, ticket: Ticket) -> bool:
        """For who asked for it and has been told of its end, or does not want it any more."""
        ticket.left.set()
        waited = self.stop(ticket)
        with self._guard:
            self._forget(ticket)
        return waited

    def stop(self, ticket: Ticket) -> bool:
        """What runs is asked to stop, what waits is forgotten. Whether it was waiting."""
        with self._guard:
            if ticket.done.is_set():
                return False
            ticket.stop.set()
            waiting = self._waiting.get(ticket.lane, deque())
            if ticket not in waiting:
                return False
            waiting.remove(ticket)
            self._finish(ticket)
            return True

    def counts(self) -> tuple[int, int]:
        """How many run and how many wait."""
        with self._guard:
            return self._running.total(), sum(map(len, self._waiting.values()))

    def close(self, patience: float, telling: float) -> bool:
        """Take nobody new and let those who are here finish; after `patience` seconds ask them to stop.

        Gives them `telling` seconds more to be told. Whether all finished of their own accord.
        """
        with self._guard:
            self.closing = True
            tickets = list(self._tickets)
        finished = _all_set([ticket.done for ticket in tickets], patience)
        for ticket in tickets:
            self.stop(ticket)
        _all_set([ticket.left for ticket in tickets], telling)
        return finished

    def _start(self, ticket: Ticket) -> None:
        """In a thread that has just become free, else in a new one. Call it with the guard held."""
        if self._free:
            self._free.pop().put(ticket)
        else:
            threading.Thread(target=self._work, args=(ticket,), name="run", daemon=True).start()

    def _work(self, ticket: Ticket) -> None:
        """A thread that serves one, and others that come soon after: a new one would cost each more."""
        inbox: SimpleQueue[Ticket] = SimpleQueue()
        while True:
            self._serve(ticket)
            with self._guard:
                self._free.append(inbox)
            try:
                ticket = inbox.get(timeout=LINGER)
            except Empty:
                with self._guard:
                    if inbox in self._free:
                        self._free.remove(inbox)
                        return
                ticket = inbox.get()  # it came in between

    def _serve(self, ticket: Ticket) -> None:
        """Run this one, and then whoever waits in its lane, until nobody does."""
        following: Ticket | None = ticket
        while following is not None:
            started, outcome = time.monotonic(), "fault"
            try:
                outcome = following.work(following.stop.is_set) or "ok"
            except Exception:
                log.exception("a run of %s ended in an error that it should have answered for", ticket.lane)
            seconds, waited = time.monotonic() - started, started - following.asked
            self._over(Ended(following.number, ticket.lane, outcome, seconds, waited))
            with self._guard:
                self._finish(following)
                waiting = self._waiting.get(ticket.lane)
                following = waiting.popleft() if waiting else None
                if following is None:
                    self._running[ticket.lane] -= 1

    def _finish(self, ticket: Ticket) -> None:
        ticket.done.set()
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        if ticket.done.is_set() and ticket.left.is_set():
            self._tickets.discard(ticket)


def _all_set(events: list[threading.Event], patience: float) -> bool:
    """Wait for all of them, at most so many seconds in all."""
    until = time.monotonic() + patience
    return all([event.wait(max(0.0, until - time.monotonic())) for event in events])
