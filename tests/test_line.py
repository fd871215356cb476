"""The line: who runs, who waits, and what becomes of those who leave."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from components.errors import Busy
from components.progress import Stopped
from components.server.line import Line, Ticket

WAIT = 10  # seconds after which a test that hangs fails


class Held:
    """Work that begins, waits to be let go, and notes that it has ended."""

    def __init__(self) -> None:
        self.began, self.free, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, stopped: Stopped) -> None:
        self.began.set()
        assert self.free.wait(WAIT)
        self.ended.set()


def nothing(stopped: Stopped) -> None:
    pass


def run_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "run"]


def finished(line: Line, ticket: Ticket) -> bool:
    return ticket.done.wait(WAIT)


def until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(WAIT * 100):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it never became so")


def test_as_many_as_a_lane_takes_run_and_the_others_have_places():
    line, work = Line(), [Held() for _ in range(5)]
    tickets = [line.enter("speech", 2, one) for one in work]
    assert work[0].began.wait(WAIT) and work[1].began.wait(WAIT)
    assert [line.place(ticket) for ticket in tickets] == [0, 0, 1, 2, 3]
    assert not work[2].began.is_set()
    assert line.counts() == (2, 3)
    work[1].free.set()
    assert work[2].began.wait(WAIT)
    assert [line.place(ticket) for ticket in tickets] == [0, 0, 0, 1, 2]
    for one in work:
        one.free.set()
    assert all(finished(line, ticket) for ticket in tickets)
    until(lambda: line.counts() == (0, 0))
    until(lambda: not run_threads())


def test_a_busy_lane_holds_up_no_other():
    line, long = Line(), Held()
    line.enter("speech", 1, long)
    waiting = line.enter("speech", 1, nothing)
    assert finished(line, line.enter("sentiment", 1, nothing))
    assert line.place(waiting) == 1
    long.free.set()
    assert finished(line, waiting)


def test_those_who_wait_go_in_the_order_of_asking():
    line, first, order = Line(), Held(), []
    line.enter("a", 1, first)
    tickets = [line.enter("a", 1, lambda stopped, i=i: order.append(i)) for i in range(10)]
    first.free.set()
    assert all(finished(line, ticket) for ticket in tickets)
    assert order == list(range(10))


def test_a_full_line_refuses_and_says_why():
    line, held = Line(most=2), Held()
    line.enter("a", 1, held)
    waiting = [line.enter("a", 1, nothing), line.enter("a", 1, nothing)]
    with pytest.raises(Busy, match="2 runs are waiting already"):
        line.enter("a", 1, nothing)
    with pytest.raises(Busy):
        line.enter("b", 0, nothing)  # the line is one for all tabs
    assert finished(line, line.enter("b", 1, nothing))  # room in its lane: no line to wait in
    held.free.set()
    assert all(finished(line, ticket) for ticket in waiting)
    assert finished(line, line.enter("a", 1, nothing))


def test_leaving_while_waiting_never_runs():
    line, held, ran = Line(), Held(), []
    running = line.enter("a", 1, held)
    leaving = line.enter("a", 1, lambda stopped: ran.append(1))
    behind = line.enter("a", 1, lambda stopped: ran.append(2))
    assert line.leave(leaving) is True
    assert leaving.done.is_set()
    assert line.place(behind) == 1
    held.free.set()
    assert finished(line, running) and finished(line, behind)
    assert ran == [2]


def test_leaving_while_running_asks_the_work_to_stop():
    line, stops, began = Line(), threading.Event(), threading.Event()

    def work(stopped: Stopped) -> None:
        began.set()
        until(stopped)
        stops.set()

    ticket = line.enter("a", 1, work)
    assert began.wait(WAIT)
    assert line.leave(ticket) is False
    assert finished(line, ticket) and stops.is_set()


def test_an_error_that_work_did_not_answer_for_is_logged_and_the_line_goes_on(caplog):
    line, held = Line(), Held()
    line.enter("a", 1, held)

    def fails(stopped: Stopped) -> None:
        raise ZeroDivisionError

    failing, behind = line.enter("a", 1, fails), line.enter("a", 1, nothing)
    held.free.set()
    assert finished(line, failing) and finished(line, behind)
    assert "a run of a ended in an error" in caplog.text
    until(lambda: line.counts() == (0, 0))


def test_closing_lets_finish_who_is_here_and_takes_nobody_new():
    line, held, after = Line(), Held(), []
    line.enter("a", 1, held)
    line.enter("a", 1, lambda stopped: after.append(stopped()))
    threading.Timer(0.05, held.free.set).start()
    assert line.close(WAIT, 0) is True
    assert after == [False]
    with pytest.raises(Busy, match="shutting down"):
        line.enter("a", 1, nothing)


def test_closing_stops_what_does_not_finish_in_time():
    line, began, stopped_running, ran = Line(), threading.Event(), threading.Event(), []

    def endless(stopped: Stopped) -> None:
        began.set()
        until(stopped)
        stopped_running.set()

    line.enter("a", 1, endless)
    waiting = line.enter("a", 1, lambda stopped: ran.append(1))
    assert began.wait(WAIT)
    assert line.close(0.05, 0) is False
    assert stopped_running.wait(WAIT)
    assert waiting.done.is_set() and not ran


def test_closing_waits_until_the_last_has_been_told():
    line = Line()
    ticket = line.enter("a", 1, nothing)
    assert finished(line, ticket)
    held = Held()
    told = line.enter("a", 1, held)
    threading.Timer(0.02, held.free.set).start()
    left = []
    threading.Timer(0.1, lambda: (left.append(1), line.leave(told))).start()
    assert line.close(WAIT, WAIT) is True
    assert left == [1]


def test_many_at_once_are_all_done_and_no_thread_is_left():
    line, count, guard = Line(most=1000), [0], threading.Lock()

    def work(stopped: Stopped) -> None:
        with guard:
            count[0] += 1

    tickets = [line.enter(f"lane{i % 3}", 4, work) for i in range(300)]
    assert all(finished(line, ticket) for ticket in tickets)
    assert count == [300]
    until(lambda: not run_threads())
