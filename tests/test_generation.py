"""The generation tab beside Transformers' own generate, on a tiny Llama."""

from __future__ import annotations

import asyncio
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from components.compute.decoding import Sampling
from components.errors import InputError
from components.models.control import control_tokens
from demos import generation
from tests import tiny
from tests.test_decoding import chained, endless

PROMPT = "So today, I just feel like"


@pytest.fixture
def models():
    return tiny.manager(tiny.llama())


@pytest.fixture
def every_token(monkeypatch):
    """Show the text after each token, however quickly it comes."""
    monkeypatch.setattr(generation, "SHOW_EVERY", 0)


def run(
    models: Any, prompt: str = PROMPT, stopped: Any = lambda: False, **options: Any
) -> list[generation.Result]:
    values = {"max_new_tokens": 20, "temperature": 0, **options}
    return list(generation.run(generation.validate(prompt, **values), "auto", models, stopped=stopped))


def lent(models: Any) -> Any:
    with models.use(generation.OFFER) as loaded:
        return loaded


def says(loaded: Any, prompt: str, ids: list[int]) -> None:
    """Make the model write these tokens after the prompt, and then the last one again and again."""
    last = loaded.processor(prompt)["input_ids"][-1]
    steps = dict(zip([last, *ids], ids, strict=False))
    assert len(steps) == len(ids), "no token may come twice"
    chained(loaded.model, {before: [after] for before, after in steps.items()})


def direct(ids: Any, folder: Any = None, rows: int = 1, seed: int = 0, **options: Any) -> tuple[str, ...]:
    """generate and decode, without the prompt and without half a character at the end."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder or tiny.llama()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if isinstance(ids, str):
        ids = tokenizer(ids, return_tensors="pt")["input_ids"]
    ids = ids.expand(rows, -1)
    settings = {"max_new_tokens": 20, "do_sample": False, **options}
    torch.manual_seed(seed)
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.eos_token_id, **settings
        )
    new = (tokenizer.decode(row, skip_special_tokens=True) for row in out[:, ids.shape[1] :])
    return tuple(str(text).rstrip("\ufffd") for text in new)


# validate


def test_validate_takes_what_the_sliders_give():
    request = generation.validate("Go on", 40.0, 2.0, 0.7, 50.0, 0.95, 1.1, 7.0, "chat")
    assert request == generation.Request("Go on", 40, 2, Sampling(0.7, 50, 0.95, 1.1, 7), "chat")
    assert isinstance(request.most, int)
    assert isinstance(request.sampling.seed, int)


@pytest.mark.parametrize("prompt", ["", "  \n ", None])
def test_no_prompt(prompt):
    with pytest.raises(InputError, match=r"no prompt yet.*Type"):
        generation.validate(prompt)


@pytest.mark.parametrize(
    ("field", "values", "name"),
    [
        ("max_new_tokens", (0, -1, 1025, None), "New tokens"),
        ("num_return_sequences", (0, 5, None), "Number of sequences"),
        ("temperature", (-0.1, 5.1, float("nan"), float("inf"), None), "Temperature"),
        ("top_k", (-1, 1001, None), "Top-k"),
        ("top_p", (-0.1, 1.1, 0, None, float("nan")), "Top-p"),
        ("repetition_penalty", (0, 0.4, 3.1, None), "Repetition penalty"),
        ("seed", (-1, 2**32, None, float("nan")), "Seed"),
    ],
)
def test_numbers_out_of_range(field, values, name):
    for value in values:
        with pytest.raises(InputError, match=f"^{name} must be"):
            generation.validate(PROMPT, **{field: value})


def test_the_bounds_themselves_are_taken():
    generation.validate(PROMPT, 1, 1, 0, 0, 1e-9, 0.5, 0)
    generation.validate(PROMPT, 1024, 4, 5, 1000, 1, 3, 2**32 - 1)


@pytest.mark.parametrize("mode", ["", "Chat", None])
def test_unknown_mode(mode):
    with pytest.raises(InputError, match="completion or chat"):
        generation.validate(PROMPT, mode=mode)


# run, completion


def test_greedy_text_is_that_of_generate(models):
    assert run(models)[-1].sequences == direct(PROMPT)


@pytest.mark.parametrize("prompt", [PROMPT, "x", "  two spaces ", "çà 🙂\nand a line", "<b>{}</b>"])
def test_prompts_are_taken_as_they_are(models, prompt):
    assert run(models, prompt)[-1].sequences == direct(prompt)


def test_several_sampled_sequences_are_those_of_generate(models):
    results = run(
        models, temperature=1.2, top_k=30, top_p=0.9, repetition_penalty=1.2, seed=4, num_return_sequences=3
    )
    expected = direct(
        PROMPT, rows=3, seed=4, do_sample=True, temperature=1.2, top_k=30, top_p=0.9, repetition_penalty=1.2
    )
    assert results[-1].sequences == expected
    assert len(set(expected)) == 3


def test_same_seed_same_text_other_seed_another(models):
    def text(seed: int) -> tuple[str, ...]:
        return run(models, temperature=1.0, seed=seed, num_return_sequences=2)[-1].sequences

    assert text(1) == text(1)
    assert text(1) != text(2)


@pytest.mark.usefixtures("every_token")
def test_results_come_token_by_token_and_the_status_last(models):
    endless(lent(models))
    results = run(models, max_new_tokens=7, num_return_sequences=2)
    assert [result.tokens for result in results] == [2, 4, 6, 8, 10, 12, 14, 14]
    assert [result.status is None for result in results] == [True] * 7 + [False]
    status = results[-1].status
    assert status is not None
    assert status.measured.startswith("14 tokens, ")
    assert status.run_seconds > 0


def test_what_comes_faster_than_it_can_be_read_is_counted_and_shown_at_the_end(models, monkeypatch):
    clock = iter(i * 0.04 for i in range(1000))
    monkeypatch.setattr(generation.time, "perf_counter", lambda: 100 + next(clock))
    endless(lent(models))
    results = run(models, max_new_tokens=7)
    assert [result.tokens for result in results] == [1, 4, 7, 7]
    assert results[-1].sequences == direct(PROMPT, max_new_tokens=7, eos_token_id=None)


@pytest.mark.usefixtures("every_token")
def test_a_sequence_that_ends_waits_for_the_others(models):
    loaded = lent(models)
    end, last = loaded.processor.eos_token_id, loaded.processor(PROMPT)["input_ids"][-1]
    a, b, c, d = loaded.processor.convert_tokens_to_ids(list("abcd"))
    chained(loaded.model, {last: [a, b], a: [end], b: [c], c: [d], d: [end]})
    for seed in range(50):
        results = run(models, num_return_sequences=2, temperature=1, seed=seed)
        if results[-1].sequences == ("a", "bcd"):
            break
    else:
        pytest.fail("no seed that draws these")
    shown = [result.sequences for result in results]
    assert shown == [("a", "b"), ("a", "bc"), ("a", "bcd"), ("a", "bcd"), ("a", "bcd")]
    assert results[-1].tokens == 4


def test_the_end_at_once_is_an_empty_text(models):
    loaded = lent(models)
    says(loaded, PROMPT, [loaded.processor.eos_token_id])
    assert run(models)[-1].sequences == ("",)


@pytest.mark.usefixtures("every_token")
def test_a_character_of_several_tokens_is_shown_when_it_is_whole(models):
    loaded = lent(models)
    says(loaded, PROMPT, loaded.processor("a🙂b")["input_ids"])
    shown = [result.sequences[0] for result in run(models, max_new_tokens=6)]
    assert shown == ["a", "a", "a", "a", "a🙂", "a🙂b", "a🙂b"]


def test_a_character_that_was_never_finished_is_left_out(models):
    loaded = lent(models)
    says(loaded, PROMPT, loaded.processor("a🙂")["input_ids"][:3])
    assert run(models, max_new_tokens=3)[-1].sequences == ("a",)


@pytest.mark.usefixtures("every_token")
def test_stop_ends_the_computation_within_one_token(models):
    loaded = endless(lent(models))
    calls, stop = tiny.counted(loaded.model), Event()
    seen = []
    request = generation.validate(PROMPT, 100, temperature=0)
    for result in generation.run(request, "auto", models, stopped=stop.is_set):
        seen.append(result)
        if len(seen) == 3:
            stop.set()
    assert len(calls) == 3
    assert seen[-1].tokens == 3
    assert seen[-1].status is not None
    assert seen[-1].status.remarks[-1] == "Stopped."
    assert [row.users for row in models.snapshot()] == [0]


def test_closing_the_generator_ends_the_computation_and_gives_the_model_back(models):
    calls = tiny.counted(lent(models).model)
    running = generation.run(generation.validate(PROMPT, 100, temperature=0), "auto", models)
    next(running)
    assert [row.users for row in models.snapshot()] == [1]
    running.close()
    assert len(calls) == 1
    assert [row.users for row in models.snapshot()] == [0]


def test_a_prompt_longer_than_the_model_keeps_its_end_and_says_so(models):
    prompt = "".join(chr(97 + i % 26) for i in range(300))
    results = run(models, prompt)
    assert results[-1].sequences == direct(prompt[-108:])
    assert results[-1].status is not None
    (remark,) = (remark for remark in results[-1].status.remarks if "cut" in remark)
    assert prompt[-108:][:80] in remark


def test_a_prompt_that_just_fits_is_not_cut(models):
    loaded = lent(models)
    for length, cut in ((108, False), (109, True)):
        ids, kept = generation.preprocess(generation.validate("x" * length, 20), loaded)
        assert ids.shape == (1, 108)
        assert (kept is not None) is cut


def test_more_new_tokens_than_the_model_takes(models):
    with pytest.raises(InputError, match=r"takes 128 tokens.*fewer"):
        run(models, max_new_tokens=128)
    assert run(models, max_new_tokens=127)[-1].tokens > 0


@pytest.mark.usefixtures("every_token")
@pytest.mark.parametrize("start", ["it", "go on", "i feel"])
def test_the_text_goes_on_after_the_prompt_with_its_space(start):
    """Vocabularies of sentencepiece lose the first space when the new tokens are decoded alone."""
    folder = tiny.llama(sentencepiece=True)
    models = tiny.manager(folder)
    loaded = lent(models)
    go_on = loaded.processor(" like it", add_special_tokens=False)["input_ids"]
    go_on = [i for i in go_on if loaded.processor.convert_ids_to_tokens(i) != "▁"]
    assert loaded.processor.convert_ids_to_tokens(go_on[0]).startswith("▁")
    says(loaded, start, go_on)
    results = run(models, start, max_new_tokens=len(go_on))
    assert start + results[-1].sequences[0] == f"{start} like it"
    assert start + results[0].sequences[0] == f"{start} like"


@pytest.mark.usefixtures("every_token")
def test_bytes_that_stand_for_a_character_are_shown_when_it_is_whole():
    models = tiny.manager(tiny.llama(sentencepiece=True))
    loaded = lent(models)
    ids = loaded.processor.convert_tokens_to_ids(["a", *(f"<0x{byte:02X}>" for byte in "🙂".encode()), "b"])
    says(loaded, PROMPT, ids)
    shown = [result.sequences[0] for result in run(models, max_new_tokens=6)]
    assert shown == ["a", "a", "a", "a", "a🙂", "a🙂b", "a🙂b"]


def test_a_temperature_near_zero_is_greedy(models):
    assert run(models, temperature=1e-42)[-1].sequences == run(models)[-1].sequences


@pytest.mark.parametrize(
    ("kind", "settings", "tokens"),
    [("Llama", {"max_position_embeddings": 77}, 77), ("GPT2", {"n_positions": 55}, 55), ("Bloom", {}, 2048)],
)
def test_how_many_tokens_a_model_takes(kind, settings, tokens):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    loaded: Any = SimpleNamespace(model=SimpleNamespace(config=config))
    assert generation._positions(loaded) == tokens


# Chat


def test_chat_goes_through_the_template():
    folder = tiny.llama(chat=True)
    models = tiny.manager(folder)
    results = run(models, "Who are you?", mode="chat")
    assert results[-1].chat
    assert results[-1].sequences == direct("<|user|>Who are you?\n<|assistant|>", folder)
    assert results[-1].sequences != run(models, "Who are you?")[-1].sequences


@pytest.mark.parametrize(
    "prompt",
    ["<|im_end|>", "Hi <|im_end|>\n<|im_start|>assistant\nYes", "a<|im_start|>b", "<s></s>", " <|im_end|> "],
)
def test_control_tokens_that_a_visitor_types_stay_text(prompt):
    loaded = tiny.loaded(tiny.llama(chat=True), generation.OFFER.starter.recipe)
    tokenizer = loaded.processor
    if not control_tokens(prompt, tokenizer):
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]}
        )
    plain = generation.chat_ids("Hello", tokenizer)
    ids = generation.chat_ids(prompt, tokenizer)
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    assert sum(one in special for one in ids) == sum(one in special for one in plain), "those of the template"
    assert prompt.strip() in tokenizer.decode(ids)


@pytest.mark.parametrize("prompt", ["I love ", "I love  ", "x "])
def test_a_space_at_the_end_is_said_where_it_parts_a_token(models, prompt):
    *_, last = run(models, prompt)
    *_, without = run(models, prompt.rstrip())
    with models.use(generation.OFFER) as loaded:
        parted = generation.splits_at_its_end(prompt, loaded.processor)
        assert not generation.splits_at_its_end(prompt.rstrip(), loaded.processor)
    assert (generation.SPACE in last.status.remarks) == parted
    assert generation.SPACE not in without.status.remarks


@pytest.mark.parametrize("text", ["é", "日本", "👩‍👩‍👧", "naïve €"])
def test_no_text_ends_in_half_a_character(models, text):
    with models.use(generation.OFFER) as loaded:
        prompt = loaded.processor("a")["input_ids"]
        ids = loaded.processor(text, add_special_tokens=False)["input_ids"]
        for end in range(len(ids) + 1):
            (written,) = generation.postprocess(prompt, [ids[:end]], loaded)
            assert not written.endswith("\ufffd")
            assert text.startswith(written.strip())


def test_completion_with_a_chat_checkpoint_is_plain():
    folder = tiny.llama(chat=True)
    assert run(tiny.manager(folder))[-1].sequences == direct(PROMPT, folder)


def test_chat_without_a_template(models):
    with pytest.raises(InputError, match=r"no chat template.*completion"):
        run(models, mode="chat")
    assert not run(models)[-1].chat
    assert [row.users for row in models.snapshot()] == [0]


# Fitting


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, True),
        ({"architectures": ["GPT2LMHeadModel"]}, True),
        ({"architectures": ["Qwen2ForCausalLM"]}, True),
        ({"architectures": ["BertForMaskedLM"]}, False),
        ({"architectures": ["BartForConditionalGeneration"]}, False),
        ({"architectures": ["MadeUpForCausalLM"]}, False),
        ({"architectures": []}, False),
        ({}, False),
    ],
)
def test_which_checkpoints_fit(config, fits):
    reason = generation.OFFER.recipe.fits(config)
    assert (reason is None) is fits
    if reason:
        assert "ForCausalLM" in reason
        assert "HuggingFaceTB/SmolLM2-360M" in reason


# The tab


def test_the_endpoint_ends_with_all_sequences(models):
    endpoint = tiny.tab(generation.DEMO, models).endpoint("generate")
    values = endpoint(PROMPT, 10, 2, 0.0)
    assert values[-1] == {"sequences": list(direct(PROMPT, rows=2, max_new_tokens=10)), "remarks": []}
    one = endpoint(PROMPT, 5, 1, 1.0, 50, 0.95, 3)[-1]
    assert one == endpoint(PROMPT, 5, 1, 1.0, 50, 0.95, 3)[-1]
    assert one != endpoint(PROMPT, 5, 1, 1.0, 50, 0.95, 4)[-1]
    assert len(one["sequences"]) == 1


def test_the_endpoint_streams(models):
    """The model goes on only once the client has the first token."""
    seen, calls = Event(), tiny.counted(lent(models).model)

    def wait(*inputs: Any) -> None:
        assert len(calls) < 2 or seen.wait(20)

    lent(models).model.register_forward_pre_hook(wait)
    (generate,) = (
        fn.fn for fn in tiny.tab(generation.DEMO, models).app.fns.values() if fn.api_name == "generate"
    )

    async def values() -> list[Any]:
        got = []
        async for value in generate(PROMPT, 10, 1, 0.0, 50, 0.95, 0, "auto", None):
            got.append(value["sequences"][0])
            seen.set()
        return got

    first, *_, last = asyncio.run(values())
    assert (first,) == direct(PROMPT, max_new_tokens=1)
    assert (last,) == direct(PROMPT, max_new_tokens=10)


def test_the_endpoint_tells_what_is_wrong(models):
    import gradio as gr

    endpoint = tiny.tab(generation.DEMO, models).endpoint("generate")
    with pytest.raises(gr.Error, match="no prompt yet"):
        endpoint("")
    with pytest.raises(gr.Error, match="Temperature must be between"):
        endpoint(PROMPT, 40, 1, None)


KNOBS = (8, 2, 0, 50, 0.95, 1, 0)  # new tokens, sequences, temperature, top-k, top-p, penalty, seed


def test_the_button_shows_both_sequences_after_the_prompt(models):
    steps = tiny.tab(generation.DEMO, models).press(PROMPT, *KNOBS, "completion")
    answer, mode, _, problem, status = steps[-1]
    assert answer.count(f'<span class="prompt">{PROMPT}</span>') == 2
    assert "Sequence 2" in answer
    assert mode["visible"] is False, "there is nothing to choose without a template"
    assert problem == ""
    assert "tokens/s" in status


def test_a_chat_checkpoint_offers_the_mode():
    models = tiny.manager(tiny.llama(chat=True))
    answer, mode, _, problem, _ = tiny.tab(generation.DEMO, models).press("Hello", *KNOBS, "chat")[-1]
    assert mode["visible"] is True
    assert '<span class="prompt"></span>' in answer
    assert problem == ""


def test_the_mode_can_be_left_again_after_another_checkpoint_was_picked():
    """Chat was chosen, then a checkpoint without a template: the visitor must not be stuck."""
    models = tiny.manager(tiny.llama())
    steps = tiny.tab(generation.DEMO, models).press("Hello", *KNOBS, "chat")
    assert "no chat template" in steps[-1][-2]


# Many visitors


def test_visitors_at_once_each_get_their_own_text(models):
    """Sixteen runs, of which some end early: what each says is what it would have said alone."""
    from concurrent.futures import ThreadPoolExecutor

    asked = [(f"{PROMPT} {i}", {"max_new_tokens": 5 + i, "temperature": i % 2, "seed": i}) for i in range(16)]
    alone = [run(models, prompt, **options)[-1].sequences for prompt, options in asked]
    calls = tiny.counted(lent(models).model)
    with ThreadPoolExecutor(16) as pool:
        runs = [pool.submit(run, models, prompt, **options) for prompt, options in asked]
        together = [one.result(60) for one in runs]
    assert [results[-1].sequences for results in together] == alone
    assert len(calls) < sum(results[-1].tokens for results in together), "they share steps"
    assert [row.users for row in models.snapshot()] == [0]


def test_out_of_memory_in_the_middle_of_a_text_begins_it_again(models):
    """What was shown of the first try is replaced by the second one."""
    import torch

    expected = run(models)[-1].sequences
    calls = tiny.counted(lent(models).model)

    def exhausted(*inputs: Any) -> None:
        if len(calls) == 4:
            raise torch.OutOfMemoryError("none left")

    lent(models).model.register_forward_hook(exhausted)
    results = run(models)
    assert results[-1].sequences == expected
    assert len(calls) > len(expected[0])


def test_runs_of_the_tab_that_go_on_together_fit_into_a_step():
    from components.compute.decoding import ABREAST

    assert generation.DEMO.at_once <= ABREAST
