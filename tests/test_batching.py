"""Joint batches: who goes with whom, in which order, and that nobody notices the neighbours."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from components.compute import tokenization
from components.compute.batching import Batcher, cuts
from components.errors import Cancelled
from components.models.manager import Loaded
from components.models.turns import Turns
from demos import image, sentiment, translation, zero_shot
from tests import tiny

WAIT = 10  # seconds after which a test that hangs fails


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads are about to do."""
    for _ in range(WAIT * 1000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not happen")


def cost(count: int, longest: int) -> float:
    return count * longest + 32


class Model:
    """Answers a word with its capitals; computes only while it is let. Words that hold "bad" fail."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.at_work = threading.Event()
        self.batcher = Batcher(self.compute, size=len, cost=cost)
        self.pool = ThreadPoolExecutor(64)

    def compute(self, words: list[str]) -> list[str]:
        self.batches.append(list(words))
        self.threads.append(threading.get_ident())
        self.at_work.set()
        assert self.free.wait(WAIT)
        if bad := [word for word in words if "bad" in word]:
            raise ValueError(bad[0])
        return [word.upper() for word in words]

    def ask(self, *words: str, **options: Any) -> Future[list[str]]:
        """A visitor who stands in the line behind all earlier ones when this returns."""
        before = len(self.batcher._waiting) + len(self.batches)
        answer = self.pool.submit(self.batcher, words, **options)
        until(lambda: len(self.batcher._waiting) + len(self.batches) > before)
        return answer

    @contextmanager
    def busy(self) -> Iterator[Future[list[str]]]:
        """Inside, a first visitor's word is being computed."""
        self.free.clear()
        self.at_work.clear()
        first = self.pool.submit(self.batcher, ["first"])
        assert self.at_work.wait(WAIT)
        yield first
        self.free.set()
        assert first.result(WAIT) == ["FIRST"]


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.free.set()
    model.pool.shutdown()
    assert model.batcher._waiting == []
    assert model.batcher._leader is None


# Who goes with whom


def test_who_finds_the_model_idle_goes_at_once_and_in_their_own_thread(model):
    assert model.batcher(["b", "ccc", "aa"]) == ["B", "CCC", "AA"]
    assert model.batches == [["b", "aa", "ccc"]]
    assert model.threads == [threading.get_ident()]


def test_nothing_is_asked():
    assert Model().batcher([]) == []


def test_those_who_come_meanwhile_go_together_sorted_by_length(model):
    with model.busy():
        answers = [model.ask(word) for word in ("three", "a", "four", "to")]
    assert [answer.result(WAIT) for answer in answers] == [["THREE"], ["A"], ["FOUR"], ["TO"]]
    assert model.batches[0] == ["first"]
    assert sorted(model.batches[1]) == ["a", "four", "three", "to"]
    assert len(model.batches) == 2


def test_a_batch_has_at_most_so_many_and_similar_lengths(model):
    with model.busy():
        sizes = (59, 1, 58, 80, 57, 2, 81, 60)
        answers = [model.ask("x" * size, most=4) for size in sizes]
    for size, answer in zip(sizes, answers, strict=True):
        assert answer.result(WAIT) == ["X" * size]
    lengths = [sorted(map(len, batch)) for batch in model.batches[1:]]
    assert lengths == [[57, 58, 59, 60], [1, 2], [80, 81]], "in the order of the first to come"


def test_the_words_of_one_visitor_stay_together(model):
    with model.busy():
        answers = [model.ask(*words, most=4) for words in (("a", "b", "c"), ("d", "e"), ("f", "g"))]
    assert [answer.result(WAIT) for answer in answers] == [["A", "B", "C"], ["D", "E"], ["F", "G"]]
    assert [sorted(batch) for batch in model.batches[1:]] == [["a", "b", "c"], ["d", "e", "f", "g"]]


def test_a_long_one_does_not_make_the_short_ones_long(model):
    with model.busy():
        answers = [model.ask(word) for word in ("a", "x" * 500, "b", "x" * 490)]
    assert [answer.result(WAIT)[0][:2] for answer in answers] == ["A", "XX", "B", "XX"]
    assert [sorted(map(len, batch)) for batch in model.batches[1:]] == [[1, 1], [490, 500]]


def test_one_request_with_a_long_word_among_short_ones(model):
    words = ["b", "x" * 500, "a"]
    assert model.batcher(words) == [word.upper() for word in words]
    assert model.batches == [["b", "a"], ["x" * 500]]


def cut(sizes: list[int], most: int = 32, counts: list[int] | None = None) -> list[list[int]]:
    return [sizes[part] for part in cuts(counts or [1] * len(sizes), sizes, most, cost)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([500], [[500]]),
        ([8] * 10 + [11], [[8] * 10 + [11]]),  # 10 times 3 of padding for one batch less
        ([8] * 10 + [12], [[8] * 10, [12]]),  # 10 times 4: not worth it
        ([1, 500, 501], [[1], [500, 501]]),
        ([7] * 70, [[7] * 6, [7] * 32, [7] * 32]),
    ],
)
def test_cuts(sizes, expected):
    assert cut(sizes) == expected


def test_cuts_are_the_cheapest():
    numbers = random.Random(5)
    for _ in range(50):
        counts = [numbers.randint(1, 5) for _ in range(7)]
        sizes = sorted(numbers.randint(1, 60) for _ in counts)

        def price(ends: tuple[int, ...], counts: list[int] = counts, sizes: list[int] = sizes) -> float:
            total, begin = 0.0, 0
            for end in ends:
                items = sum(counts[begin:end])
                total += cost(items, sizes[end - 1]) if items <= 9 else float("inf")
                begin = end
            return total

        ways = [
            (*ends, len(counts))
            for size in range(len(counts))
            for ends in itertools.combinations(range(1, len(counts)), size)
        ]
        found = tuple(part.stop for part in cuts(counts, sizes, 9, cost))
        assert price(found) == min(map(price, ways))


def test_what_stays_together_may_be_more_than_a_batch():
    assert cut([3, 4, 5], most=4, counts=[9, 3, 1]) == [[3], [4, 5]]


def test_kinds_go_apart():
    batches: list[list[str]] = []

    def compute(words: list[str]) -> list[str]:
        batches.append(words)
        return [word.upper() for word in words]

    batcher = Batcher(compute, size=len, cost=cost, kind=lambda word: word[0])
    assert batcher(["a1", "b1", "a2", "b"]) == ["A1", "B1", "A2", "B"]
    assert batches == [["a1", "a2"], ["b", "b1"]]


def test_those_who_come_before_the_turn_on_the_device_are_in_the_batch():
    turns, batches = Turns(), []

    def compute(words: list[str]) -> list[str]:
        batches.append(sorted(words))
        return words

    batcher = Batcher(compute, size=len, cost=cost, turn=turns.run)
    with ThreadPoolExecutor(3) as pool:
        with turns:  # another model is at work
            answers = [pool.submit(batcher, [word]) for word in "abc"]
            until(lambda: len(batcher._waiting) == 3)
        assert [answer.result(WAIT) for answer in answers] == [["a"], ["b"], ["c"]]
    assert batches == [["a", "b", "c"]]


# Fairness


def test_a_long_request_lets_a_single_one_in_after_one_batch(model):
    with model.busy():
        many = model.ask(*(f"many {i:02}" for i in range(40)), most=4)
        single = model.ask("a single one", most=4)
    assert single.result(WAIT) == ["A SINGLE ONE"]
    assert many.result(WAIT) == [f"MANY {i:02}" for i in range(40)]
    place = next(i for i, batch in enumerate(model.batches) if "a single one" in batch)
    assert place <= 2, "the one under way, one of the long request, then this one"


def test_nobody_waits_for_ever_while_others_keep_coming(model):
    """What is unlike all others goes when it is the oldest."""
    with model.busy():
        long = model.ask("x" * 500, most=2)
        short = [model.ask(f"short {i}", most=2) for i in range(6)]
    assert long.result(WAIT) == ["X" * 500]
    assert [answer.result(WAIT) for answer in short] == [[f"SHORT {i}"] for i in range(6)]
    assert model.batches[1] == ["x" * 500]


def test_the_lead_goes_to_those_who_still_wait(model):
    with model.busy():
        answers = [model.ask(f"word {i}", most=1) for i in range(3)]
    assert [answer.result(WAIT) for answer in answers] == [[f"WORD {i}"] for i in range(3)]
    assert model.batches[1:] == [["word 0"], ["word 1"], ["word 2"]]
    assert len(set(model.threads)) == 4, "each led for its own"


# Errors


def test_one_bad_of_sixteen_fails_alone(model):
    with model.busy():
        answers = [model.ask("bad" if i == 5 else f"word {i}") for i in range(15, -1, -1)][::-1]
    for i, answer in enumerate(answers):
        if i == 5:
            with pytest.raises(ValueError, match=r"^bad$"):
                answer.result(WAIT)
        else:
            assert answer.result(WAIT) == [f"WORD {i}"]
    assert [len(batch) for batch in model.batches] == [1, 16] + [1] * 16


def test_all_of_a_bad_request_fails_and_the_next_one_works(model):
    with pytest.raises(ValueError, match="bad"):
        model.batcher(["good", "bad"])
    assert model.batcher(["good"]) == ["GOOD"]


def test_an_error_arises_in_the_thread_of_its_own_request(model):
    with model.busy():
        answers = [model.ask(word) for word in ("good", "bad")]
    error = answers[1].exception(WAIT)
    assert isinstance(error, ValueError)
    assert error.__context__ is None
    frames, trace = [], error.__traceback__
    while trace:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames.count("_through") == 1
    assert frames[-1] == "compute"


def test_a_leader_that_is_torn_down_leaves_its_neighbours_to_others(model):
    def compute(words: list[str]) -> list[str]:
        if "torn" in words:
            raise SystemExit
        return Model.compute(model, words)

    with model.busy():
        model.batcher._compute = compute
        torn, other = model.ask("torn"), model.ask("other")
    assert isinstance(torn.exception(WAIT), SystemExit)
    assert other.result(WAIT) == ["OTHER"]


def test_a_wrong_number_of_answers_is_an_error():
    batcher: Batcher[str, str] = Batcher(lambda words: words[1:], size=len, cost=cost)
    with pytest.raises(ValueError, match="1 answers to 2 items"):
        batcher(["a", "b"])


# Stop


def test_who_waits_and_stops_leaves_at_once(model):
    stop = threading.Event()
    with model.busy():
        leaving = model.ask("leaving", stopped=stop.is_set)
        staying = model.ask("staying")
        stop.set()
        with pytest.raises(Cancelled):
            leaving.result(WAIT)
    assert staying.result(WAIT) == ["STAYING"]
    assert model.batches == [["first"], ["staying"]]


def test_a_leader_that_has_stopped_hands_the_lead_on(model):
    stop = threading.Event()
    with model.busy():
        first, second = model.ask("a", stopped=stop.is_set, most=1), model.ask("b", most=1)
        stop.set()
        with pytest.raises(Cancelled):
            first.result(WAIT)
    assert second.result(WAIT) == ["B"]


def test_who_stops_leaves_while_another_visitors_thread_computes_for_them():
    stop, go_on, batches = threading.Event(), threading.Event(), []

    def compute(words: list[str]) -> list[str]:
        batches.append(words)
        assert go_on.wait(WAIT)
        if len(batches) == 1:
            raise ValueError("all of it again")
        return [word.upper() for word in words]

    turns = Turns()
    batcher: Batcher[str, str] = Batcher(compute, size=len, cost=cost, turn=turns.run)
    with ThreadPoolExecutor(2) as pool:
        with turns:
            leading = pool.submit(batcher, ["leading"])
            until(lambda: len(batcher._waiting) == 1)
            leaving = pool.submit(batcher, ["leaving"], stop.is_set)
            until(lambda: len(batcher._waiting) == 2)
        until(lambda: bool(batches))
        stop.set()
        with pytest.raises(Cancelled):
            leaving.result(WAIT)
        go_on.set()
        assert leading.result(WAIT) == ["LEADING"]
    assert batches == [["leading", "leaving"], ["leading"]], "who has left is not computed again"
    assert batcher._waiting == []


def test_work_is_given_up_when_all_have_stopped_who_are_in_it():
    stops, seen = {word: threading.Event() for word in "ab"}, []

    def compute(words: list[str]) -> list[str]:
        if sorted(words) != ["a", "b"]:
            return words
        for word in words:
            seen.append(batcher.unwanted())
            stops[word].set()
        seen.append(batcher.unwanted())
        raise Cancelled("Nobody waits.")

    turns = Turns()
    batcher: Batcher[str, str] = Batcher(compute, size=len, cost=cost, turn=turns.run)
    with ThreadPoolExecutor(2) as pool:
        with turns:
            answers = [pool.submit(batcher, [word], stops[word].is_set) for word in "ab"]
            until(lambda: len(batcher._waiting) == 2)
        for answer in answers:
            with pytest.raises(Cancelled):
                answer.result(WAIT)
    assert seen == [False, False, True]
    assert batcher(["c"]) == ["c"]


def test_a_stopped_request_ends_after_the_batch_under_way(model):
    with pytest.raises(Cancelled):
        model.batcher([f"word {i}" for i in range(10)], stopped=lambda: len(model.batches) == 2, most=3)
    assert len(model.batches) == 2


def test_what_is_being_computed_when_stop_comes_is_kept(model):
    stop = threading.Event()
    model.free.clear()
    answer = model.ask("word", stopped=stop.is_set)
    assert model.at_work.wait(WAIT)
    stop.set()
    model.free.set()
    assert answer.result(WAIT) == ["WORD"]


# Many at once


def test_every_answer_belongs_to_its_question(model):
    numbers = random.Random(1)
    model.free.clear()
    requests = [
        [f"{i} {j} {'x' * numbers.choice((3, 5, 90))}" for j in range(numbers.choice((1, 1, 1, 2, 11, 70)))]
        for i in range(150)
    ]
    bad = {i for i in range(150) if i % 17 == 3}
    gone = {i for i in range(150) if i % 19 == 5}
    for i in bad:
        requests[i][-1] += " bad"
    answers = [
        model.pool.submit(model.batcher, words, stopped=lambda i=i: i in gone, most=16)
        for i, words in enumerate(requests)
    ]
    until(lambda: len(model.batcher._waiting) > 30)
    model.free.set()
    for i, (words, answer) in enumerate(zip(requests, answers, strict=True)):
        if i in gone:
            assert isinstance(answer.exception(WAIT), Cancelled)
        elif i in bad:
            assert isinstance(answer.exception(WAIT), ValueError)
        else:
            assert answer.result(WAIT) == [word.upper() for word in words]
    assert max(map(len, model.batches)) <= 16
    mixed = [batch for batch in model.batches if len({word.split()[0] for word in batch}) > 1]
    assert mixed, "they share batches"
    assert all(max(map(len, batch)) - min(map(len, batch)) < 50 for batch in model.batches)


# Answers of real models do not depend on the company


def shares(rows: Any) -> Any:
    return rows.softmax(-1)


def texts(count: int, most: int) -> list[str]:
    numbers = random.Random(2)
    return [" ".join(numbers.choices(tiny.WORDS.split(), k=numbers.randint(1, most))) for _ in range(count)]


def classified(loaded: Loaded) -> list[Any]:
    return sentiment.preprocess(texts(40, 50), loaded)[0]


def compared(loaded: Loaded) -> list[Any]:
    encodings = []
    for text in texts(12, 12):
        request = zero_shot.Request(text[:40], ("sport", "so", "my whole life"), "It is {}.", False)
        encodings += zero_shot.preprocess(request, loaded)[0]
    return encodings


def pictured(loaded: Loaded) -> list[Any]:
    import torch

    side = 224 if loaded.checkpoint.is_starter else 32
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, 3, side, side, generator=generator, dtype=loaded.dtype) for _ in range(10)]


def largest_difference(demo: Any, loaded: Loaded, items: list[Any], finish: Callable[[Any], Any]) -> float:
    """Between the probabilities or embeddings of each item alone and in five random batches."""
    import torch

    def compute(batch: list[Any]) -> Any:
        inputs = torch.cat(batch) if demo is image else tokenization.padded(batch, loaded)
        return finish(demo.forward(inputs, loaded))

    alone = [compute([item])[0] for item in items]
    assert max(float((row - alone[0]).abs().max()) for row in alone) > 0.01, "they are told apart"
    numbers, largest = random.Random(4), 0.0
    for _ in range(5):
        chosen = numbers.sample(range(len(items)), numbers.randint(2, len(items)))
        together = compute([items[i] for i in chosen])
        differences = [(row - alone[i]).abs().max() for row, i in zip(together, chosen, strict=True)]
        largest = max(largest, float(max(differences)))
    return largest


@pytest.mark.parametrize(
    ("demo", "given", "finish"),
    [
        (sentiment, classified, shares),
        (zero_shot, compared, lambda rows: rows),
        (image, pictured, shares),
    ],
    ids=["sentiment", "zero-shot", "image"],
)
def test_a_starters_answers_do_not_depend_on_the_company(models, demo, given, finish):
    with models.use(demo.OFFER, "starter") as loaded:
        assert largest_difference(demo, loaded, given(loaded), finish) < 1e-5


@pytest.mark.parametrize(
    ("folder", "demo", "given", "finish"),
    [
        (tiny.distilbert, sentiment, classified, shares),
        (tiny.bart, zero_shot, compared, shares),
        (tiny.sentence_encoder, zero_shot, compared, lambda rows: rows),
        (tiny.vit, image, pictured, shares),
    ],
    ids=["distilbert", "bart", "encoder", "vit"],
)
def test_a_tiny_models_answers_do_not_depend_on_the_company(monkeypatch, folder, demo, given, finish):
    """In double precision, since weights this wide make much of rounding; a leak would be larger by far."""
    import torch

    loaded = tiny.loaded(folder(), demo.RECIPE)
    loaded.model.double()
    loaded = replace(loaded, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what forward hands out
    assert largest_difference(demo, loaded, given(loaded), finish) < 1e-9


SENTENCES = """\
You like this house.
The weather is nice today.
Shall we go for a walk in the park?
Two dogs are running on the beach.
A man in a blue shirt is standing on a ladder cleaning a window.
I do not know what to say about that film.
She has been working here for ten years.
Where is the nearest train station?
The children are playing football in the garden.
He forgot his umbrella at the office.
We would like to order two coffees and a piece of cake.
My name is Anna and I live in Berlin.
It was raining all day long.
Can you help me find my keys?
The museum is closed on Mondays.
They bought a new car last week.
I think that this is a good idea.
Please close the door behind you.
The cat is sleeping on the sofa.
Tomorrow we will visit our grandparents in the countryside."""


def test_a_translation_does_not_depend_on_the_company(models):
    together = translation.run(SENTENCES, "starter", models).sentences
    alone = [translation.run(one, "starter", models).sentences[0] for one in SENTENCES.split("\n")]
    assert together == alone
    assert len({sentence.target for sentence in alone}) == 20


def test_attention_does_not_depend_on_the_company(models):
    short, long = translation.run(
        "You like this house.\nThe cat is sleeping on the sofa.", "starter", models
    ).sentences
    alone = [translation.attend(sentence, "starter", models) for sentence in (short, long)]
    with models.use(translation.OFFER, "starter") as loaded:
        batcher = loaded.share(translation.joint_attention)
        passes, compute = [], batcher._compute
        batcher._compute = lambda pairs: passes.append(len(pairs)) or compute(pairs)
        with ThreadPoolExecutor(2) as pool:
            with loaded.turns:
                results = [pool.submit(translation.attend, one, "starter", models) for one in (short, long)]
                until(lambda: len(batcher._waiting) == 2)
            together = [result.result(WAIT) for result in results]
    assert passes == [2]
    for one, other in zip(alone, together, strict=True):
        for kind in translation.KINDS.values():
            assert getattr(one, kind).shape == getattr(other, kind).shape
            np.testing.assert_allclose(getattr(one, kind), getattr(other, kind), atol=1e-5)
            np.testing.assert_allclose(getattr(other, kind).sum(-1), 1, atol=1e-4)


def test_visitors_who_click_at_once_share_batches_and_get_their_own_answers(models):
    lines = [f"I {verb} it {'so ' * i}much" for verb in ("love", "hate") for i in (1, 2)] * 6
    alone = [sentiment.run(line, "starter", models).rows[0].scores for line in lines]
    batches: list[int] = []
    with models.use(sentiment.OFFER, "starter") as loaded:
        hook = loaded.model.register_forward_pre_hook(
            lambda module, inputs, named: batches.append(len(named["input_ids"])), with_kwargs=True
        )
        batcher = loaded.share(sentiment.joint)
        with ThreadPoolExecutor(len(lines)) as pool:
            with loaded.turns:  # the device is taken until all have come
                results = [pool.submit(sentiment.run, line, "starter", models) for line in lines]
                until(lambda: len(batcher._waiting) == len(lines))
            rows = [result.result(WAIT).rows[0] for result in results]
        hook.remove()
    assert batches == [len(lines)]
    for line, row, scores in zip(lines, rows, alone, strict=True):
        assert row.text == line
        assert dict(row.scores) == pytest.approx(dict(scores), abs=1e-5)
