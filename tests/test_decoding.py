"""Our decoding, alone and for several visitors at once, beside Transformers' own generate."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from components.compute import decoding
from components.compute.decoding import Engine, Request, Sampling, Step, decode, end_tokens
from components.models.manager import Loaded
from components.weights.checkpoints import Recipe
from tests import tiny

RECIPE = Recipe("generation", lambda config: "AutoModelForCausalLM", "AutoTokenizer", lambda config: None)
MOST = 24
PROMPT = "So today, I just feel like"
OTHERS = ["it was", "x", "I have been waiting for this course my whole life", "go on"]
TOGETHER = ["Llama", "GPT2", "Qwen2", "OPT"]
IN_TURNS = ["Mistral", "Mamba", "Bloom", "Rwkv"]  # a sliding window, states, no position ids


def of_kind(kind: str) -> Loaded:
    """A tiny model of that architecture with random weights, and a byte vocabulary.

    In double precision: of two tokens that are all but equally likely, a machine's rounding prefers neither.
    """
    import torch
    import transformers

    loaded = tiny.loaded(tiny.llama(), RECIPE)
    if kind == "Llama":
        return replace(loaded, model=loaded.model.double(), dtype=torch.float64)
    torch.manual_seed(5)
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": tiny.WIDE}
    heads = {**usual, "num_attention_heads": 2, "intermediate_size": 32}
    settings: dict[str, dict[str, Any]] = {
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": tiny.WIDE},
        "Qwen2": {**heads, "num_key_value_heads": 1},
        "OPT": {"hidden_size": 32, "ffn_dim": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "init_std": tiny.WIDE},
        "Mistral": {**heads, "num_key_value_heads": 1, "sliding_window": 8},
        "Mamba": {**usual, "state_size": 8},
        "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": tiny.WIDE},
        "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2},
    }
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(loaded.processor), **settings[kind], **ends
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if kind == "Rwkv":
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    return replace(loaded, model=model.double(), dtype=torch.float64, _shared={})


@pytest.fixture
def loaded() -> Loaded:
    return of_kind("Llama")


def prompt(loaded: Any, rows: int = 1, text: str = PROMPT) -> Any:
    return loaded.processor(text, return_tensors="pt")["input_ids"].expand(rows, -1)


def rows_of(steps: list[Step]) -> list[list[int]]:
    return [[token.id for token in row if token is not None] for row in zip(*steps, strict=True)]


def ours(
    loaded: Any, sampling: Sampling, rows: int = 1, text: str = PROMPT, **options: Any
) -> list[list[int]]:
    return rows_of(list(decode(loaded, prompt(loaded, rows, text), MOST, sampling, **options)))


def theirs(loaded: Any, rows: int = 1, seed: int = 0, text: str = PROMPT, **options: Any) -> list[list[int]]:
    """generate, with what follows the first end token left out."""
    import torch

    torch.manual_seed(seed)
    ids = prompt(loaded, rows, text)
    settings = {"do_sample": False, "top_k": None, "top_p": None, "temperature": None, **options}
    with torch.inference_mode():
        output = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST, pad_token_id=0, **settings
        )
    ends, texts = end_tokens(loaded.model), []
    for row in output[:, ids.shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        texts.append(row[:stop])
    return texts


def in_turn(running: list[Iterator[Step]], late: int = 0) -> list[list[Step]]:
    """A step of each at a time; the second begins `late` steps after the first, and so on."""
    steps: list[list[Step]] = [[] for _ in running]
    turn, left = 0, set(range(len(running)))
    while left:
        for i in sorted(left):
            if turn < i * late:
                continue
            step = next(running[i], None)
            if step is None:
                left.remove(i)
            else:
                steps[i].append(step)
        turn += 1
    return steps


def chained(model: Any, after: dict[int, list[int]]) -> None:
    """Make a model write one of `after[token]`, each as likely as the others, after that token."""

    def write(module: Any, inputs: Any, named: Any, output: Any) -> None:
        last = named["input_ids"][:, -1].tolist()
        for logits, token in zip(output.logits[:, -1], last, strict=True):
            logits[:] = -1e4
            logits[after.get(token, [token])] = 0

    model.register_forward_hook(write, with_kwargs=True)


def shapes(model: Any) -> list[tuple[int, int]]:
    """A list that grows by rows and tokens of each call of the model."""
    calls: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda module, inputs, named: calls.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return calls


def breaking(model: Any, broken: Any, error: Exception) -> None:
    """Raise that error, after the model has done its work, for inputs `[rows, tokens]` that are broken."""

    def check(module: Any, inputs: Any, named: Any, output: Any) -> None:
        if broken(named["input_ids"].tolist()):
            raise error

    model.register_forward_hook(check, with_kwargs=True)


def endless(loaded: Any) -> Any:
    loaded.model.generation_config.eos_token_id = None
    return loaded


def is_empty(engine: Any) -> bool:
    """Whether nobody's text or cache is kept."""
    places = (engine._waiting, engine._reading, engine._alone, engine._joint.requests, engine._joint._rows)
    return not any(places) and engine._joint._cache is None


# One visitor


@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
def test_greedy_is_token_for_token_what_generate_gives(kind):
    loaded = of_kind(kind)
    expected = theirs(loaded)
    assert ours(loaded, Sampling()) == expected
    assert ours(loaded, Sampling(), 3) == theirs(loaded, 3)
    assert len(expected[0]) > 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.6, seed=3),
        Sampling(1.5, top_k=5, seed=1),
        Sampling(1.5, top_p=0.7, seed=2),
        Sampling(1.3, top_k=20, top_p=0.9, repetition_penalty=1.4, seed=2**32 - 1),
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_sampling_is_what_generate_draws_with_the_same_seed(loaded, sampling, rows):
    expected = theirs(
        loaded,
        rows,
        sampling.seed,
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
    )
    assert ours(loaded, sampling, rows) == expected


def test_the_others_draw_on_as_with_generate_where_one_has_ended(loaded):
    """The first of three ends early: what the others draw afterwards must not change."""
    for seed in range(30):
        expected = theirs(loaded, 3, seed, do_sample=True, temperature=1.5)
        lengths = [len(row) for row in expected]
        if min(lengths[:2]) < lengths[2]:
            break
    else:
        pytest.fail("no seed for which one ends before another")
    assert ours(loaded, Sampling(1.5, seed=seed), 3) == expected


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_the_repetition_penalty_counts_the_prompt_as_generate_does(loaded, penalty):
    assert ours(loaded, Sampling(repetition_penalty=penalty)) == theirs(loaded, repetition_penalty=penalty)


def test_greedy_takes_no_notice_of_the_limits_of_sampling(loaded):
    assert ours(loaded, Sampling(0, top_k=3, top_p=0.2, seed=9)) == ours(loaded, Sampling())


def test_top_k_of_one_is_greedy(loaded):
    assert ours(loaded, Sampling(2.0, top_k=1)) == ours(loaded, Sampling())
    assert ours(loaded, Sampling(2.0, top_p=1e-6)) == ours(loaded, Sampling())


def test_same_seed_same_tokens_other_seed_others(loaded):
    import torch

    first = ours(loaded, Sampling(1.0, seed=1), 2)
    torch.manual_seed(99)
    assert ours(loaded, Sampling(1.0, seed=1), 2) == first
    assert ours(loaded, Sampling(1.0, seed=2), 2) != first
    assert first[0] != first[1], "sequences of one run differ"


def test_the_random_numbers_of_others_are_left_alone(loaded):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ours(loaded, Sampling(1.0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.7, top_k=9, repetition_penalty=1.5, seed=4)])
def test_probabilities_are_those_of_the_model_before_any_processing(loaded, sampling):
    import torch

    ids = prompt(loaded)
    steps = list(decode(loaded, ids, MOST, sampling))
    tokens = [step[0] for step in steps if step[0] is not None]
    text = torch.cat([ids, torch.tensor([[token.id for token in tokens]])], dim=1)
    with torch.inference_mode():
        shares = loaded.model(text).logits[0].softmax(-1)
    for i, token in enumerate(tokens, ids.shape[1] - 1):
        assert token.probability == pytest.approx(float(shares[i, token.id]), abs=1e-5)
    assert len(tokens) > 3


def test_a_sequence_ends_at_an_end_token_and_the_others_go_on(loaded):
    end, last = loaded.model.generation_config.eos_token_id, int(prompt(loaded)[0, -1])
    chained(loaded.model, {last: [10, 20, 30], 10: [11], 11: [end], 20: [21], 21: [22], 22: [end], 30: [end]})
    for seed in range(50):
        steps = list(decode(loaded, prompt(loaded, 3), MOST, Sampling(1.0, seed=seed)))
        if rows_of(steps) == [[10, 11], [20, 21, 22], [30]]:
            break
    else:
        pytest.fail("no seed that draws these")
    ids = [[token and token.id for token in step] for step in steps]
    assert ids == [[10, 20, 30], [11, 21, None], [None, 22, None], [None, None, None]]


def test_rows_of_ended_sequences_are_not_computed_any_more(loaded):
    end, last = loaded.model.generation_config.eos_token_id, int(prompt(loaded)[0, -1])
    chained(loaded.model, {last: [10, 20], 10: [end], 20: [20]})
    calls = shapes(loaded.model)
    for seed in range(50):
        calls.clear()
        texts = ours(loaded, Sampling(1.0, seed=seed), 2)
        if texts == [[10], [20] * MOST]:
            break
    else:
        pytest.fail("no seed that draws these")
    assert [rows for rows, _ in calls] == [1, 2] + [1] * (MOST - 2)


def test_several_end_tokens(loaded):
    loaded.model.generation_config.eos_token_id = [11, 12]
    chained(loaded.model, {int(prompt(loaded)[0, -1]): [10], 10: [12], 12: [13]})
    assert ours(loaded, Sampling()) == [[10]]


def test_generate_ends_at_the_same_token(loaded):
    (row,) = ours(loaded, Sampling())
    loaded.model.generation_config.eos_token_id = [row[5], row[7]]
    (cut,) = ours(loaded, Sampling())
    assert cut == row[: min(row.index(row[5]), row.index(row[7]))]
    assert [cut] == theirs(loaded)


def test_without_an_end_token_the_number_asked_for_comes(loaded):
    assert end_tokens(endless(loaded).model) == []
    assert [len(row) for row in ours(loaded, Sampling(1.0), 2)] == [MOST, MOST]


@pytest.mark.parametrize(("end", "ids"), [(None, []), (7, [7]), ([7, 8], [7, 8])])
def test_end_tokens(loaded, end, ids):
    loaded.model.generation_config.eos_token_id = end
    assert end_tokens(loaded.model) == ids


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
def test_the_prompt_is_read_once_and_then_one_token_at_a_time(kind):
    loaded = endless(of_kind(kind))
    calls = tiny.counted(loaded.model)
    list(decode(loaded, prompt(loaded, 3), 5, Sampling()))
    assert calls == [prompt(loaded).shape[1], 1, 1, 1, 1]


def test_a_prompt_is_read_once_for_all_its_sequences(loaded):
    calls = shapes(endless(loaded).model)
    list(decode(loaded, prompt(loaded, 3), 3, Sampling()))
    assert calls == [(1, prompt(loaded).shape[1]), (3, 1), (3, 1)]


def test_no_tokens_asked_for(loaded):
    assert list(decode(loaded, prompt(loaded), 0, Sampling())) == []


def test_a_long_prompt_is_read_in_parts(loaded, monkeypatch):
    expected = theirs(loaded, text=OTHERS[2])
    monkeypatch.setattr(decoding, "READ", 7)
    calls, length = tiny.counted(loaded.model), prompt(loaded, text=OTHERS[2]).shape[1]
    assert ours(loaded, Sampling(), 2, OTHERS[2]) == expected * 2
    parts = [min(7, length - read) for read in range(0, length, 7)]
    assert calls[: len(parts)] == parts
    assert set(calls[len(parts) :]) == {1}


def test_a_text_that_the_joint_cache_has_no_room_for(loaded):
    expected = ours(loaded, Sampling()), ours(loaded, Sampling(1.0, seed=3), 2)
    engine = Engine(loaded, room=60)  # for one such text, not for two
    small, large = (
        engine.write(Request(loaded, prompt(loaded, rows), MOST, Sampling(warm, seed=3), lambda: False))
        for rows, warm in ((1, 0.0), (2, 1.0))
    )
    got = in_turn([small, large])
    assert (rows_of(got[0]), rows_of(got[1])) == expected
    assert is_empty(engine)


def test_a_cache_that_grows(loaded, monkeypatch):
    expected = theirs(loaded)
    monkeypatch.setattr(decoding, "GROW", 1)
    assert ours(loaded, Sampling(), 2) == expected * 2


def test_logits_of_all_positions_are_left_out_where_they_can_be(loaded):
    kept = []
    loaded.model.lm_head.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].shape[1]))
    ours(loaded, Sampling())
    assert set(kept) == {1}


# Stop, and what is left behind


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
def test_stop_ends_the_computation_within_one_token(kind):
    loaded = endless(of_kind(kind))
    calls = tiny.counted(loaded.model)
    stop = False
    running = decode(loaded, prompt(loaded), 100, Sampling(), lambda: stop)
    for _ in range(3):
        next(running)
    stop = True
    assert list(running) == []
    assert len(calls) == 3
    assert is_empty(loaded.share(Engine))


def test_stopped_before_it_began(loaded):
    calls = tiny.counted(loaded.model)
    assert list(decode(loaded, prompt(loaded), 100, Sampling(), lambda: True)) == []
    assert calls == []
    assert is_empty(loaded.share(Engine))


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
def test_nothing_is_kept_of_who_has_ended_or_left(kind):
    loaded = of_kind(kind)
    ours(loaded, Sampling(), 2)
    assert is_empty(loaded.share(Engine))
    running = decode(loaded, prompt(loaded), MOST, Sampling())
    next(running)
    assert not is_empty(loaded.share(Engine))
    running.close()  # type: ignore[attr-defined]
    assert is_empty(loaded.share(Engine))


def test_neither_inference_mode_nor_the_device_is_held_between_tokens(loaded):
    import torch

    for _ in decode(loaded, prompt(loaded), 3, Sampling(1.0)):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert ThreadPoolExecutor(1).submit(loaded.turns.__enter__).result(20) is None
        loaded.turns.__exit__()


def test_each_step_may_run_in_another_thread(loaded):
    expected = ours(loaded, Sampling(1.0), 2)
    running = decode(loaded, prompt(loaded, 2), MOST, Sampling(1.0))
    steps = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for i in range(MOST):
            step = (one, other)[i % 2].submit(next, running, None).result(20)
            if step is None:
                break
            steps.append(step)
    assert rows_of(steps) == expected


# Several visitors


@pytest.mark.parametrize("late", [0, 1, 3])
@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
def test_everybody_gets_what_they_would_get_alone(kind, late):
    loaded = of_kind(kind)
    texts = [PROMPT, *OTHERS]
    expected = [theirs(loaded, text=text) for text in texts]
    calls = shapes(loaded.model)
    running = [decode(loaded, prompt(loaded, text=text), MOST, Sampling()) for text in texts]
    assert [rows_of(steps) for steps in in_turn(running, late)] == expected
    assert (max(rows for rows, _ in calls) > 1) is (kind in TOGETHER)
    assert is_empty(loaded.share(Engine))


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Mistral"])
def test_the_same_seed_gives_the_same_whoever_takes_part(kind):
    loaded = of_kind(kind)
    asked = [
        (PROMPT, 2, Sampling(1.0, seed=1)),
        (OTHERS[0], 1, Sampling(1.4, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=2)),
        (PROMPT, 2, Sampling(1.0, seed=3)),
        (OTHERS[2], 4, Sampling()),
    ]
    expected = [ours(loaded, sampling, rows, text) for text, rows, sampling in asked]
    running = [decode(loaded, prompt(loaded, rows, text), MOST, how) for text, rows, how in asked]
    assert [rows_of(steps) for steps in in_turn(running, 2)] == expected
    assert expected[0] != expected[2]


def test_all_take_one_step_together_and_one_prompt_is_read_between_two_steps(loaded):
    calls = shapes(endless(loaded).model)
    lengths = [prompt(loaded, text=text).shape[1] for text in OTHERS[:3]]
    running = [decode(loaded, prompt(loaded, text=text), 6, Sampling()) for text in OTHERS[:3]]
    in_turn(running)
    first, second, third = ((1, length) for length in lengths)
    assert calls[:6] == [first, (1, 1), second, (2, 1), third, (3, 1)]
    # The last to come needs five steps more; the others are done before.
    assert len(calls) == 6 + 4


def at_once(loaded: Any, asked: list[tuple[str, int, Sampling]]) -> list[Any]:
    """What each gets, or its error, where all others come while the prompt of the first is being read."""
    begun, arrived = threading.Event(), [threading.Event() for _ in asked[1:]]

    def hold(*inputs: Any) -> None:
        held.remove()
        begun.set()
        assert all(one.wait(20) for one in arrived)

    held = loaded.model.register_forward_pre_hook(hold)

    def visit(i: int) -> Any:
        text, rows, sampling = asked[i]
        ids = prompt(loaded, rows, text)
        if i == 0:
            return outcome(decode(loaded, ids, MOST, sampling))
        assert begun.wait(20)

        def goes_on() -> bool:
            """Asked for the first time when the visitor has been put in line."""
            arrived[i - 1].set()
            return False

        return outcome(decode(loaded, ids, MOST, sampling, goes_on))

    with ThreadPoolExecutor(len(asked)) as pool:
        runs = [pool.submit(visit, i) for i in range(len(asked))]
        return [run.result(60) for run in runs]


ASKED = [
    (PROMPT, 1, Sampling()),
    (OTHERS[0], 2, Sampling(1.0, seed=1)),
    (OTHERS[1], 1, Sampling()),
    (OTHERS[3], 3, Sampling(0.8, top_k=9, repetition_penalty=1.2, seed=2)),
    (PROMPT, 1, Sampling(1.0, seed=3)),
]


@pytest.mark.parametrize("kind", TOGETHER)
def test_prompts_that_wait_are_read_together(kind):
    loaded = of_kind(kind)
    expected = [ours(loaded, sampling, rows, text) for text, rows, sampling in ASKED]
    calls = shapes(loaded.model)
    assert at_once(loaded, ASKED) == expected
    lengths = [prompt(loaded, text=text).shape[1] for text, _, _ in ASKED]
    assert calls[0] == (1, lengths[0])
    assert (4, max(lengths[1:])) in calls[:3]
    assert sum(tokens > 1 for _, tokens in calls) == 2, "no prompt is read twice"
    assert is_empty(loaded.share(Engine))


def test_prompts_that_are_long_together_are_read_one_after_another(loaded, monkeypatch):
    monkeypatch.setattr(decoding, "READ", 2 * prompt(loaded).shape[1])
    expected = [ours(loaded, sampling, rows, text) for text, rows, sampling in ASKED]
    calls = shapes(loaded.model)
    assert at_once(loaded, ASKED) == expected
    assert max(rows * tokens for rows, tokens in calls if tokens > 1) <= decoding.READ
    assert max(rows for rows, tokens in calls if tokens > 1) > 1


def test_reading_together_that_fails_is_done_again_for_each_alone(loaded):
    expected = [ours(loaded, sampling, rows, text) for text, rows, sampling in ASKED]
    bad, error = prompt(loaded, text=OTHERS[3])[0].tolist(), ValueError("this prompt")
    breaking(loaded.model, lambda rows: any(row[: len(bad)] == bad for row in rows), error)
    expected[3] = error
    assert at_once(loaded, ASKED) == expected
    assert is_empty(loaded.share(Engine))


def test_at_most_so_many_sequences_at_once_and_the_first_who_waits_goes_on(loaded):
    engine = Engine(endless(loaded), abreast=3)
    calls = shapes(loaded.model)
    stops = [False] * 4

    def asked(i: int, rows: int) -> Iterator[Step]:
        request = Request(loaded, prompt(loaded, rows, OTHERS[i]), 20, Sampling(), lambda: stops[i])
        return engine.write(request)

    first, second, third, fourth = (asked(i, rows) for i, rows in enumerate((2, 1, 2, 1)))
    next(first)
    next(second)
    with ThreadPoolExecutor(2) as pool:
        # The third does the steps of the first two until there is room for its own two sequences.
        waiting = pool.submit(next, third)
        assert next(first)
        stops[1] = True
        assert list(second) == []
        behind = pool.submit(next, fourth)
        stops[0] = True
        assert list(first) == []
        assert len(waiting.result(20)) == 2
        assert len(behind.result(20)) == 1
    assert max(rows for rows, _ in calls) == 3
    assert [rows_of([step]) for step in (next(third), next(fourth))]
    third.close()  # type: ignore[attr-defined]
    fourth.close()  # type: ignore[attr-defined]
    assert is_empty(engine)


def test_more_sequences_than_are_taken_at_once_go_alone(loaded):
    engine = Engine(loaded, abreast=2)
    request = Request(loaded, prompt(loaded, 4), MOST, Sampling(), lambda: False)
    assert rows_of(list(engine.write(request))) == theirs(loaded, 4)


def test_who_stops_or_leaves_does_not_disturb_the_others(loaded):
    expected = [ours(endless(loaded), Sampling(), text=text) for text in OTHERS]
    stop = False
    running = [
        decode(loaded, prompt(loaded, text=text), MOST, Sampling(), (lambda: stop) if i == 1 else never)
        for i, text in enumerate(OTHERS)
    ]
    steps = [[next(one)] for one in running]
    stop = True
    running[2].close()  # type: ignore[attr-defined]
    assert list(running[1]) == []
    for i in (0, 3):
        steps[i] += running[i]
        assert rows_of(steps[i]) == expected[i]
    assert is_empty(loaded.share(Engine))


def never() -> bool:
    return False


def test_visitors_in_threads_of_their_own_come_and_go(loaded):
    """Of twenty visitors some stop and some leave; the others get their own text, and no thread stays."""
    chance = random.Random(4)
    asked = [
        (
            chance.choice([PROMPT, *OTHERS]),
            chance.choice((1, 1, 2, 4)),
            Sampling(chance.choice((0, 1.0)), seed=i),
        )
        for i in range(20)
    ]
    expected = [ours(loaded, sampling, rows, text) for text, rows, sampling in asked]
    engine = Engine(loaded, abreast=6, room=300)
    before, together = set(threading.enumerate()), threading.Barrier(len(asked))

    def visit(i: int) -> list[list[int]]:
        text, rows, sampling = asked[i]
        steps: list[Step] = []
        stop = threading.Event()
        running = engine.write(Request(loaded, prompt(loaded, rows, text), MOST, sampling, stop.is_set))
        together.wait(20)
        for step in running:
            steps.append(step)
            if i % 5 == 1 and len(steps) == 2:
                stop.set()
            if i % 5 == 2 and len(steps) == 2:
                break
        running.close()  # type: ignore[attr-defined]
        return rows_of(steps)

    with ThreadPoolExecutor(len(asked)) as pool:
        got = list(pool.map(visit, range(len(asked)), timeout=100))
    for i, text in enumerate(got):
        cut = [row[:2] for row in expected[i]] if i % 5 in (1, 2) else expected[i]
        assert text == cut, i
    assert is_empty(engine)
    assert set(threading.enumerate()) <= before


# Failures


def outcome(running: Iterator[Step]) -> Any:
    """The tokens, or the error."""
    try:
        return rows_of(list(running))
    except Exception as error:
        return error


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
def test_a_prompt_that_fails_is_the_matter_of_one_visitor(kind):
    loaded = of_kind(kind)
    expected = [theirs(loaded, text=text) for text in OTHERS]
    error = ValueError("this prompt")
    bad = prompt(loaded, text=OTHERS[3])[0].tolist()
    breaking(loaded.model, lambda rows: rows[0] == bad, error)
    running = [decode(loaded, prompt(loaded, text=text), MOST, Sampling()) for text in OTHERS]
    first = next(running[0])
    got = [outcome(one) for one in running]
    got[0] = [[token.id for token in first if token] + got[0][0]]
    assert got == [*expected[:3], error]
    assert is_empty(loaded.share(Engine))


def test_a_choice_that_fails_is_the_matter_of_one_visitor(loaded, monkeypatch):
    expected, processors = ours(loaded, Sampling()), decoding._processors
    calls = []

    def wrong(ids: Any, scores: Any) -> Any:
        calls.append(ids.shape)
        return scores * (float("nan") if len(calls) > 2 else 1)

    monkeypatch.setattr(decoding, "_processors", lambda how: wrong if how.seed == 13 else processors(how))
    running = [
        decode(loaded, prompt(loaded), MOST, Sampling(warm, seed=seed)) for warm, seed in ((0, 0), (1.0, 13))
    ]
    steps = [[next(one)] for one in running]
    with pytest.raises(RuntimeError, match="nan"):
        list(running[1])
    assert rows_of([*steps[0], *running[0]]) == expected
    assert is_empty(loaded.share(Engine))


def test_a_joint_step_that_fails_is_done_again_for_each_alone(loaded):
    expected = [theirs(loaded, text=text) for text in OTHERS]
    breaking(loaded.model, lambda rows: len(rows) > 1, MemoryError())
    running = [decode(loaded, prompt(loaded, text=text), MOST, Sampling()) for text in OTHERS]
    assert [rows_of(steps) for steps in in_turn(running, 1)] == expected
    assert is_empty(loaded.share(Engine))


def test_who_fails_alone_as_well_is_told_and_nobody_else(loaded):
    import torch

    texts = [PROMPT, *OTHERS]
    expected = [theirs(loaded, text=text) for text in texts]
    # A token of one text at which it breaks, in the middle and in no other text.
    bad, until = next(
        (token, i)
        for i, token in enumerate(expected[0][0])
        if 0 < i < len(expected[0][0]) - 1 and not any(token in text[0] for text in expected[1:])
    )
    error = torch.OutOfMemoryError("none left")
    breaking(loaded.model, lambda rows: any(row[-1] == bad for row in rows), error)
    expected[0] = error
    running = [decode(loaded, prompt(loaded, text=text), MOST, Sampling()) for text in texts]
    begun = [next(one) for one in running]
    got = [outcome(one) for one in running]
    for i, step in enumerate(begun[1:], 1):
        got[i] = [[token.id for token in step if token] + got[i][0]]
    assert got == expected
    assert until
    assert is_empty(loaded.share(Engine))


def test_the_model_can_be_used_again_after_an_error(loaded):
    expected = ours(loaded, Sampling())
    broken = True
    breaking(loaded.model, lambda rows: broken and len(rows[0]) == 1, RuntimeError("once"))
    with pytest.raises(RuntimeError, match="once"):
        ours(loaded, Sampling())
    broken = False
    assert ours(loaded, Sampling()) == expected


def test_out_of_memory_reaches_the_visitor_as_torch_raised_it():
    import torch

    from components.errors import OutOfMemory
    from components.weights.checkpoints import Offer

    models = tiny.manager(tiny.llama())
    tiny_checkpoint = tiny.checkpoint(tiny.llama(), RECIPE)
    with (
        pytest.raises(OutOfMemory) as told,
        models.use(Offer(tiny_checkpoint, tiny_checkpoint, ())) as loaded,
    ):
        error = torch.OutOfMemoryError("none left")
        breaking(loaded.model, lambda rows: len(rows[0]) == 1, error)
        ours(loaded, Sampling())
    assert told.value.__cause__ is error


# Which architectures take steps together


@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
def test_who_can_join(kind):
    assert decoding._can_join(of_kind(kind).model) is (kind in TOGETHER)


@pytest.mark.parametrize(
    ("rope", "joins"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, True),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, True),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, False),
    ],
)
def test_positions_that_depend_on_the_longest_text_are_not_shared(loaded, rope, joins):
    loaded.model.config.rope_parameters = rope
    assert decoding._can_join(loaded.model) is joins
