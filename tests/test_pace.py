"""The number of threads of a step, with a clock and a machine of its own."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from components.models import pace
from components.models.pace import COST, FAR, TRY, Pace, paced


class Machine:
    """seconds: threads -> what a step takes with so many."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = {1: seconds["one"], 4: seconds["all"]}
        self.threads, self.now = 4, 0.0
        self.used: list[int] = []
        self.pace = Pace(self.step, (4, 1), self.use, lambda: self.now)

    def use(self, threads: int) -> None:
        self.threads = threads

    def step(self, input_ids, **others):
        self.used.append(self.threads)
        self.now += self.seconds[self.threads]
        return len(self.used)

    def run(self, steps: int, rows: int = 1) -> Counter[int]:
        """How often each number of threads was used."""
        self.used.clear()
        for number in range(steps):
            assert self.pace(input_ids=SimpleNamespace(shape=(rows, 1))) == number + 1
            assert self.threads == 4, "what else is computed has all of them"
        return Counter(self.used)


@pytest.mark.parametrize(("seconds", "best"), [({"one": 3, "all": 2}, 4), ({"one": 2, "all": 3}, 1)])
def test_the_faster_choice_is_used_and_the_other_tried_now_and_then(seconds, best):
    machine = Machine(**seconds)
    used = machine.run(10 * TRY)
    other = {1: 4, 4: 1}[best]
    assert 8 <= used[other] <= 12
    assert set(machine.used[4:TRY]) == {best}


def test_another_process_that_comes_and_goes_is_noticed():
    machine = Machine(one=3, all=2)
    assert machine.run(2 * TRY)[4] > 1.8 * TRY
    machine.seconds[4] = 30.0
    assert machine.run(TRY)[4] <= 3, "noticed within three steps"
    machine.seconds[4] = 2.0
    machine.run(8 * TRY)
    assert machine.run(2 * TRY)[4] > 1.8 * TRY


@pytest.mark.parametrize("slower", [2, 10, 30, 1000])
def test_trying_what_is_much_slower_costs_little(slower):
    machine = Machine(one=1, all=slower)
    machine.run(TRY)
    began = machine.now
    used = machine.run(4 * FAR)
    assert 4 <= used[4] <= 4 * FAR / TRY, "tried now and then, however slow it was"
    if slower < 1000:
        assert machine.now - began < (1 + 2 * COST) * 4 * FAR


def test_few_and_many_rows_are_known_apart():
    machine = Machine(one=2, all=3)
    machine.run(TRY)
    machine.seconds = {1: 9.0, 4: 5.0}
    assert set(machine.used[4:]) == {1}
    machine.run(TRY, rows=16)
    assert set(machine.used[4:]) == {4}
    machine.seconds = {1: 2.0, 4: 3.0}
    assert machine.run(TRY // 2)[4] <= 1


def test_threads_are_given_back_after_an_error():
    machine = Machine(one=2, all=3)
    machine.run(TRY)
    machine.pace._step = lambda **named: 1 / 0
    with pytest.raises(ZeroDivisionError):
        machine.pace(input_ids=SimpleNamespace(shape=(1, 1)))
    assert machine.threads == 4


def test_other_devices_and_one_thread_are_left_alone(monkeypatch):
    import torch

    def step(**named):
        return named

    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert paced(step, torch.device("meta")) is step
    assert isinstance(paced(step, torch.device("cpu")), Pace)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert paced(step, torch.device("cpu")) is step


def test_a_thread_that_begins_during_a_step_gets_all_threads_back(monkeypatch):
    import torch

    usual, seen = torch.get_num_threads(), []
    monkeypatch.setattr(pace, "all_threads", lambda: 3)

    def begins():
        seen.append(torch.get_num_threads())
        pace.use_all()
        seen.append(torch.get_num_threads())

    def step(input_ids):
        thread = threading.Thread(target=begins)
        thread.start()
        thread.join()

    try:
        torch.set_num_threads(3)
        Pace(step, (1, 3), torch.set_num_threads)(input_ids=torch.zeros(1, 1))
        assert seen == [1, 3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


def test_threads_are_given_back_by_a_step_that_fails():
    machine = Machine(one=1, all=2)
    machine.pace._step = lambda **named: 1 / 0
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            machine.pace(input_ids=SimpleNamespace(shape=(1, 1)))
        assert machine.threads == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_texts_are_written_together_with_any_number_of_threads(threads, monkeypatch, caplog):
    import torch

    from components.compute.decoding import Engine, Sampling, decode
    from tests import tiny
    from tests.test_decoding import RECIPE

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    loaded = tiny.loaded(tiny.llama(), RECIPE)
    ids = loaded.processor("a b c", return_tensors="pt")["input_ids"]
    texts = [list(decode(loaded, ids, 9, Sampling(temperature=1.0, seed=2))) for _ in range(2)]
    assert texts[0] == texts[1]
    assert isinstance(loaded.share(Engine)._token, Pace) == (threads > 1) == bool(used)
    assert not caplog.records, "no step failed and was done again"
