"""Turns on a device: one at a time, first come, first served."""

from __future__ import annotations

import threading

import pytest

from components.models.turns import Turns

WAIT = 10  # seconds after which a test that hangs fails


def test_one_at_a_time():
    turns, inside, most, guard = Turns(), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with turns:
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert most == 1


def test_all_steps_of_a_device_are_done_in_one_thread():
    turns, threads = Turns(), []
    callers = [
        threading.Thread(target=turns.run, args=(lambda: threads.append(threading.current_thread()),))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT)
    assert len(threads) == 8
    assert len(set(threads)) == 1
    assert not set(threads) & set(callers)


def test_an_error_in_a_step_is_the_callers_and_the_next_one_works():
    turns = Turns()

    def fails() -> None:
        raise ValueError("in the step")

    with pytest.raises(ValueError, match="in the step"):
        turns.run(fails)
    assert turns.run(lambda: 7) == 7


def test_turns_go_in_the_order_of_asking():
    turns, order, threads = Turns(), [], []

    def work(i: int) -> None:
        with turns:
            order.append(i)

    with turns:
        for i in range(10):
            threads.append(threading.Thread(target=work, args=(i,)))
            threads[-1].start()
            while len(turns._waiting) <= i:
                threading.Event().wait(0.001)
    for thread in threads:
        thread.join(WAIT)
    assert order == list(range(10))


def test_who_has_many_steps_waits_behind_who_has_one():
    turns, order = Turns(), []

    def short() -> None:
        with turns:
            order.append("short")

    with turns:
        thread = threading.Thread(target=short)
        thread.start()
        while not turns._waiting:
            threading.Event().wait(0.001)
    with turns:
        order.append("long, second step")
    thread.join(WAIT)
    assert order == ["short", "long, second step"]


def test_long_work_gives_way_between_its_steps():
    turns, order = Turns(), []

    def short() -> None:
        with turns:
            order.append("short")

    with turns:
        turns.give_way()  # nobody waits
        thread = threading.Thread(target=short)
        thread.start()
        while not turns._waiting:
            threading.Event().wait(0.001)
        turns.give_way()
        order.append("long, second step")
    thread.join(WAIT)
    assert order == ["short", "long, second step"]


def test_an_error_inside_hands_the_turn_on():
    turns = Turns()
    for _ in range(2):
        try:
            with turns:
                raise ValueError
        except ValueError:
            continue
    with turns:
        assert turns._taken
    assert not turns._taken
