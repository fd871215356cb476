"""Our decoding loop beside Transformers' own generate."""

from __future__ import annotations

from typing import Any

import pytest

from components.checkpoints import Recipe
from components.decoding import Sampling, decode, end_tokens
from tests import tiny

RECIPE = Recipe("generation", lambda config: "AutoModelForCausalLM", "AutoTokenizer", lambda config: None)
MOST = 24


@pytest.fixture
def loaded():
    return tiny.loaded(tiny.llama(), RECIPE)


def prompt(loaded: Any, rows: int = 1, text: str = "So today, I just feel like") -> Any:
    return loaded.processor(text, return_tensors="pt")["input_ids"].expand(rows, -1)


def rows_of(steps: list[list[int | None]]) -> list[list[int]]:
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


def ours(loaded: Any, sampling: Sampling, rows: int = 1, **options: Any) -> list[list[int]]:
    return rows_of(list(decode(loaded.model, prompt(loaded, rows), MOST, sampling, **options)))


def theirs(loaded: Any, rows: int = 1, seed: int = 0, **options: Any) -> list[list[int]]:
    """generate, with what follows the first end token left out."""
    import torch

    torch.manual_seed(seed)
    ids = prompt(loaded, rows)
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


def test_greedy_is_token_for_token_what_generate_gives(loaded):
    assert ours(loaded, Sampling()) == theirs(loaded)
    assert len(ours(loaded, Sampling())[0]) > 1


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


def test_a_sequence_ends_at_an_end_token_and_the_others_go_on(loaded):
    end = loaded.model.generation_config.eos_token_id
    tiny.forced(loaded.model, [[10, 11, end, 12], [20, 21, 22, 23, end], [30, end]])
    steps = list(decode(loaded.model, prompt(loaded, 3), MOST, Sampling()))
    assert steps == [[10, 20, 30], [11, 21, None], [None, 22, None], [None, 23, None], [None, None, None]]


def test_several_end_tokens(loaded):
    loaded.model.generation_config.eos_token_id = [11, 12]
    tiny.forced(loaded.model, [[10, 12, 13]])
    assert ours(loaded, Sampling()) == [[10]]


def test_generate_ends_at_the_same_token(loaded):
    (row,) = ours(loaded, Sampling())
    loaded.model.generation_config.eos_token_id = [row[5], row[9]]
    (cut,) = ours(loaded, Sampling())
    assert cut == row[: min(row.index(row[5]), row.index(row[9]))]
    assert [cut] == theirs(loaded)


def test_without_an_end_token_the_number_asked_for_comes(loaded):
    loaded.model.generation_config.eos_token_id = None
    assert end_tokens(loaded.model) == []
    assert [len(row) for row in ours(loaded, Sampling(1.0), 2)] == [MOST, MOST]


@pytest.mark.parametrize(("end", "ids"), [(None, []), (7, [7]), ([7, 8], [7, 8])])
def test_end_tokens(loaded, end, ids):
    loaded.model.generation_config.eos_token_id = end
    assert end_tokens(loaded.model) == ids


def test_the_prompt_is_read_once_and_then_one_token_at_a_time(loaded):
    calls = tiny.counted(loaded.model)
    length = prompt(loaded).shape[1]
    loaded.model.generation_config.eos_token_id = None
    list(decode(loaded.model, prompt(loaded), 5, Sampling()))
    assert calls == [length, 1, 1, 1, 1]


def test_stop_ends_the_computation_within_one_token(loaded):
    calls = tiny.counted(loaded.model)
    loaded.model.generation_config.eos_token_id = None
    stop = False
    running = decode(loaded.model, prompt(loaded), 100, Sampling(), lambda: stop)
    for _ in range(3):
        next(running)
    stop = True
    assert list(running) == []
    assert len(calls) == 3


def test_stopped_before_it_began(loaded):
    calls = tiny.counted(loaded.model)
    assert list(decode(loaded.model, prompt(loaded), 100, Sampling(), lambda: True)) == []
    assert calls == []


def test_no_inference_mode_is_held_between_tokens(loaded):
    import torch

    for _ in decode(loaded.model, prompt(loaded), 3, Sampling(1.0)):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_each_step_may_run_in_another_thread(loaded):
    from concurrent.futures import ThreadPoolExecutor

    expected = ours(loaded, Sampling(1.0), 2)
    running = decode(loaded.model, prompt(loaded, 2), MOST, Sampling(1.0))
    steps = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for i in range(MOST):
            step = (one, other)[i % 2].submit(next, running, None).result(20)
            if step is None:
                break
            steps.append(step)
    assert rows_of(steps) == expected


def test_a_model_that_cannot_leave_out_logits(loaded):
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(loaded.processor),
        hidden_size=16,
        ffn_dim=16,
        word_embed_proj_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        init_std=0.8,
        eos_token_id=None,
    )
    model = OPTForCausalLM(config).eval()
    ids = prompt(loaded)
    with torch.inference_mode():
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert rows_of(list(decode(model, ids, 6, Sampling()))) == expected[:, ids.shape[1] :].tolist()
