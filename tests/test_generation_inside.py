"""The inside of the generation tab beside direct calls of tokenizer, model and generate."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from components.compute.decoding import end_tokens
from components.errors import InputError
from components.models.joined import join
from components.models.manager import Loaded, ModelManager
from components.page import drawers
from components.settings import parse
from demos import generation
from tests import tiny, where
from tests.test_decoding import IN_TURNS, TOGETHER, chained, endless, of_kind

PROMPT = "So today, I just feel like"
SAMPLED = {"temperature": 1.2, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 4}
SETTINGS = [{"temperature": 0}, {"temperature": 0.9, "top_k": 0, "top_p": 1, "seed": 2}, SAMPLED]
WITHOUT_ATTENTION = ["Mamba", "Rwkv"]


def lending(loaded: Loaded) -> ModelManager:
    """A manager that lends this model, whatever is chosen."""
    checkpoint = loaded.checkpoint
    return ModelManager(
        choose=lambda offer, choice: (checkpoint, ""),
        fetch=lambda checkpoint, report: None,  # type: ignore[arg-type, return-value]
        load=lambda checkpoint, folder: loaded,
        size=lambda folder: 1,
        free=lambda: 10**12,
    )


@pytest.fixture
def starters() -> ModelManager:
    """The app's own, with its starters."""
    settings = replace(parse([], os.environ), checkpoints="starter", keep_alive=-1)
    return where.manager(settings)


@pytest.fixture
def models() -> ModelManager:
    return tiny.manager(tiny.llama())


def lent(models: Any) -> Loaded:
    with models.use(generation.OFFER) as loaded:
        return loaded


def ran(models: Any, prompt: str = PROMPT, **options: Any) -> generation.Ran:
    values = {"max_new_tokens": 12, "temperature": 0, **options}
    *_, last = generation.run(generation.validate(prompt, **values), "auto", models)
    assert last.ran is not None
    return last.ran


def ids_of(written: generation.Written) -> list[int]:
    return [token.id for token in written.tokens]


def forward(loaded: Any, ids: list[int]) -> Any:
    import torch

    with torch.inference_mode():
        return loaded.model(input_ids=torch.tensor([ids]), output_hidden_states=True)


def continued(loaded: Any, ids: list[int], most: int, rows: int = 1, **options: Any) -> Any:
    """Transformers' generate from these ids, with the logits and the scores of each step."""
    import torch

    values = {"temperature": None, "top_k": None, "top_p": None, **options}
    torch.manual_seed(values.pop("seed", 0))
    for name, nothing in (("top_k", 0), ("top_p", 1)):
        values[name] = None if values[name] == nothing else values[name]
    greedy = values["temperature"] in (None, 0)
    if greedy:
        values.update(temperature=None, top_k=None, top_p=None)
    inputs = torch.tensor([ids]).expand(rows, -1)
    with torch.inference_mode():
        return loaded.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=most,
            pad_token_id=0,
            do_sample=not greedy,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
            **values,
        )


def other(seen: generation.Inside, place: int) -> int:
    """The column of the likeliest candidate that was not taken, and ends nothing."""
    taken = seen.places.ids[place, -1]
    return next(
        column
        for column in seen.places.candidates(place)
        if seen.places.ids[place, column] not in (taken, 0, 1)
    )


# Every number beside direct calls


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
def test_numbers_are_those_of_generate(kind, settings):
    loaded = of_kind(kind)
    models = lending(loaded)
    run = ran(models, **settings)
    seen = generation.look_inside(run, models)
    count = len(seen.pieces)
    direct = continued(loaded, list(run.prompt), 12, **settings)
    text = direct.sequences[0, len(run.prompt) :].tolist()
    assert [piece.id for piece in seen.pieces] == text[:count]
    assert count >= min(len(text), 12)
    for place in range(count):
        ids = seen.places.ids[place]
        logits, scores = direct.logits[place][0].float(), direct.scores[place][0].float()
        np.testing.assert_allclose(seen.places.logits[place], logits[ids], atol=2e-3)
        shares = logits.softmax(-1)
        np.testing.assert_allclose(seen.places.probabilities[0, place], shares[ids], atol=1e-4)
        assert sorted(shares.topk(10).values.tolist()) == pytest.approx(
            sorted(seen.places.probabilities[0, place, :-1]), abs=1e-4
        )
        if settings["temperature"]:
            drawn = scores.softmax(-1)
            np.testing.assert_allclose(seen.places.probabilities[-1, place], drawn[ids], atol=1e-3)
        else:
            assert seen.places.probabilities[-1, place, -1] == 1
            assert seen.places.ids[place, -1] == scores.argmax()
        bits = -(shares * shares.clamp_min(1e-30).log2()).sum()
        assert seen.places.entropies[place] == pytest.approx(float(bits), abs=1e-2)


@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
def test_probabilities_are_those_of_the_run(kind):
    models = lending(of_kind(kind))
    run = ran(models, **SAMPLED)
    seen = generation.look_inside(run, models)
    said = [token.probability for token in run.written[0].tokens]
    np.testing.assert_allclose(seen.places.taken[: len(said)], said, atol=1e-4)
    assert seen.off == pytest.approx(np.abs(seen.places.taken[: len(said)] - said).max(), abs=1e-12)
    assert "rounding" not in generation.draw_text(seen)


def test_probabilities_that_differ_are_said_to(models):
    run = ran(models)
    (written,) = run.written
    tokens = tuple(token._replace(probability=token.probability / 2) for token in written.tokens)
    seen = generation.look_inside(replace(run, written=(replace(written, tokens=tokens),)), models)
    assert "by rounding: the weights are float32" in generation.draw_text(seen)


@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
def test_the_hidden_states_have_the_shape_of_the_model_s_own(kind):
    loaded = of_kind(kind)
    models = lending(loaded)
    run = ran(models)
    seen = generation.look_inside(run, models)
    last = forward(loaded, [*run.prompt, *ids_of(run.written[0])]).hidden_states[-1]
    assert [axis.size for axis in seen.hidden] == list(last.shape)
    assert [axis.name for axis in seen.hidden] == ["batch", "sequence", "hidden"]


@pytest.mark.parametrize("sentencepiece", [False, True])
def test_the_stations_show_what_tokenizer_and_model_say(sentencepiece):
    models = tiny.manager(tiny.llama(sentencepiece=sentencepiece))
    loaded = lent(models)
    run = ran(models, **SAMPLED)
    seen = generation.look_inside(run, models)
    assert list(run.prompt) == loaded.processor(PROMPT)["input_ids"]
    assert [token.id for token in seen.tokens.tokens] == list(run.prompt)
    assert [token.text for token in seen.tokens.tokens] == loaded.processor.convert_ids_to_tokens(run.prompt)
    assert ("byte-level" in seen.algorithm) is not sentencepiece
    shown = generation.draw_inside(seen)
    logits = forward(loaded, list(run.prompt)).logits[0, -1]
    numbers = [float(cell) for cell in re.findall(r"<td>(-?[0-9.]+)</td>", shown)]
    for values in (logits, logits.softmax(-1)):
        for value in values.topk(10).values.tolist():
            assert min(abs(number - value) for number in numbers) < 2e-4
    for name in ("repetition penalty 1.3", "temperature 1.2", "top-k 30", "top-p 0.9"):
        assert f"<th>{name}</th>" in shown
    assert f"{loaded.model.config.vocab_size:,} tokens of the vocabulary" in shown
    assert shown.index("Tokenizer") < shown.index("Model") < shown.index("Head")
    assert shown.index("Head") < shown.index("Postprocessing")


def test_each_of_several_sequences_can_be_looked_into(models):
    run = ran(models, num_return_sequences=3, **SAMPLED)
    assert len({written.tokens for written in run.written}) == 3
    for index, written in enumerate(run.written):
        seen = generation.look_inside(run, models, index)
        assert [piece.id for piece in seen.pieces][: len(written.tokens)] == ids_of(written)
        assert seen.off < 1e-4


def test_one_pass_over_prompt_and_text(models):
    run = ran(models, max_new_tokens=20)
    calls = tiny.counted(lent(models).model)
    generation.look_inside(run, models)
    assert calls == [len(run.prompt) + len(run.written[0].tokens)]


def test_what_is_remembered_is_small(models):
    endless(lent(models))
    run = ran(models, max_new_tokens=80, num_return_sequences=4, **SAMPLED)
    seen = generation.look_inside(run, models)
    assert pickle.loads(pickle.dumps(run)) == run
    assert len(pickle.dumps(seen)) < 100_000


# The text


def test_the_end_token_is_shown_as_the_last_one(models):
    loaded = lent(models)
    end = loaded.processor.eos_token_id
    last = loaded.processor(PROMPT)["input_ids"][-1]
    a, b = loaded.processor.convert_tokens_to_ids(["a", "b"])
    chained(loaded.model, {last: [a], a: [b], b: [end]})
    run = ran(models)
    assert run.written[0].ended
    assert ids_of(run.written[0]) == [a, b]
    seen = generation.look_inside(run, models)
    assert [piece.id for piece in seen.pieces] == [a, b, end]
    assert [piece.special for piece in seen.pieces] == [False, False, True]


def test_an_end_is_the_likeliest_of_the_end_tokens(models):
    loaded = lent(models)
    first = int(forward(loaded, loaded.processor(PROMPT)["input_ids"]).logits[0, -1].argmax())
    loaded.model.generation_config.eos_token_id = [5, first, 6]
    run = ran(models)
    assert run.written == (generation.Written((), ended=True),)
    seen = generation.look_inside(run, models)
    assert [piece.id for piece in seen.pieces] == [first]
    assert seen.pieces[0].special
    text = generation.draw_text(seen)
    assert text.count("data-place") == 1
    assert "piece special" in text


def test_a_run_that_was_stopped_before_its_first_token(models):
    request = generation.validate(PROMPT, 5, temperature=0)
    run = generation.Ran(
        request, "tiny", tuple(lent(models).processor(PROMPT)["input_ids"]), (generation.Written(()),)
    )
    seen = generation.look_inside(run, models)
    assert seen.pieces == ()
    assert "no token to colour" in generation.draw_text(seen)
    assert generation.draw_entropy(seen) is None
    assert "(chosen)" not in generation.draw_inside(seen)
    with pytest.raises(InputError, match="not there any more"):
        generation.draw_alternatives(seen, 0)


def test_a_text_longer_than_is_shown_says_so(models, monkeypatch):
    endless(lent(models))
    monkeypatch.setattr(generation, "MOST_INSIDE", 5)
    seen = generation.look_inside(ran(models, max_new_tokens=12), models)
    assert len(seen.pieces) == 5
    assert "first 5 tokens are shown; 7 more" in generation.draw_text(seen)


def test_a_prompt_that_was_cut_is_shown_so(models):
    prompt = "".join(chr(97 + i % 26) for i in range(140))
    seen = generation.look_inside(ran(models, prompt), models)
    shown = generation.draw_inside(seen)
    assert "The beginning of the prompt did not fit" in shown
    assert f"<del>{prompt[:24]}</del>" in shown
    assert len(seen.tokens.tokens) == 116


def test_a_chat_template_is_part_of_the_tokens():
    models = tiny.manager(tiny.llama(chat=True))
    run = ran(models, "Who?", mode="chat")
    assert list(run.prompt) == lent(models).processor("<|user|>Who?\n<|assistant|>")["input_ids"]
    assert "chat template" in generation.draw_inside(generation.look_inside(run, models))


def test_tokens_are_named_by_their_text_where_it_is_whole(models):
    tokenizer = lent(models).processor
    ids = tokenizer("a é\n")["input_ids"]
    names = generation.names_of([*ids, len(tokenizer) + 7], tokenizer)
    assert [names[one] for one in ids] == ["a", " ", "Ã", "©", "\n"]
    assert names[len(tokenizer) + 7] == f"[{len(tokenizer) + 7}]"


def test_what_a_visitor_or_checkpoint_writes_stays_text(models):
    loaded = lent(models)
    last = loaded.processor(PROMPT + "<b>")["input_ids"][-1]
    less, quote = loaded.processor.convert_tokens_to_ids(["<", '"'])
    chained(loaded.model, {last: [less], less: [quote], quote: [less]})
    run = ran(models, PROMPT + "<b>", max_new_tokens=3)
    loaded.model._forward_hooks.clear()
    seen = generation.look_inside(run, models)
    for shown in (generation.draw_inside(seen), generation.draw_text(seen)):
        assert "<b><</b>" not in shown
        assert ">&lt;<" in shown
    assert "&lt;" in generation.draw_alternatives(seen, 1)
    assert ">&quot;</b>" in generation.draw_alternatives(seen, 1)
    figure = generation.draw_entropy(seen)
    assert figure is not None
    assert figure.data[0].customdata[0] == "&lt;"


# Alternatives and branches


def test_alternatives_show_each_step_and_mark_the_chosen(models):
    seen = generation.look_inside(ran(models, **SAMPLED), models)
    place = 3
    shown = generation.draw_alternatives(seen, place)
    rows = len(seen.places.candidates(place))
    assert shown.count("<tr") == rows + 1
    assert shown.count('aria-label="continue from here with') == rows - 1
    assert shown.count("chosen</small>") == 1
    for step in range(len(seen.places.steps)):
        value = seen.places.probabilities[step, place, -1]
        assert f"<td>{value:.4f}</td>" in shown
    assert f"{seen.places.left[-1, place]:,} after top-p 0.9" in shown


@pytest.mark.parametrize("kind", TOGETHER + IN_TURNS)
@pytest.mark.parametrize("settings", [SETTINGS[0], SAMPLED])
def test_a_branch_is_what_generate_writes_from_there(kind, settings):
    loaded = of_kind(kind)
    models = lending(loaded)
    run = ran(models, **settings)
    seen = generation.look_inside(run, models)
    place = min(3, len(run.written[0].tokens) - 1)
    column = other(seen, place)
    chosen = int(seen.places.ids[place, column])
    *_, last = generation.branch(seen, place, column, models)
    prefix = [*run.prompt, *ids_of(run.written[0])[:place], chosen]
    expected = continued(loaded, prefix, 12, **settings).sequences[0].tolist()
    ends = [i for i, one in enumerate(expected) if i >= len(prefix) and one in end_tokens(loaded.model)]
    expected = expected[: ends[0]] if ends else expected
    assert [*run.prompt, *ids_of(last.written)] == expected
    assert last.written.ended == bool(ends)
    assert last.written.forks == (place,)
    assert last.status is not None
    whole = generation.postprocess(list(run.prompt), [ids_of(last.written)], loaded)[0]
    assert whole.startswith(last.shared)
    assert whole.endswith(last.text)
    original = generation.postprocess(list(run.prompt), [ids_of(run.written[0])], loaded)[0]
    assert last.shared + last.original == original


def test_a_branch_can_be_looked_into_and_branched_again(models):
    endless(lent(models))
    run = ran(models)
    seen = generation.look_inside(run, models)
    *_, first = generation.branch(seen, 4, other(seen, 4), models)
    book = replace(run, written=(*run.written, first.written))
    seen = generation.look_inside(book, models, 1)
    assert [piece.id for piece in seen.pieces] == ids_of(first.written)
    assert seen.off < 1e-4
    assert generation.draw_text(seen).count("chosen by you") == 1
    *_, later = generation.branch(seen, 6, other(seen, 6), models)
    *_, earlier = generation.branch(seen, 2, other(seen, 2), models)
    assert later.written.forks == (4, 6)
    assert earlier.written.forks == (2,)
    assert later.written.origin == 1
    assert ids_of(later.written)[:6] == ids_of(first.written)[:6]
    titles = generation.titles(replace(book, written=(*book.written, later.written)))
    assert [number for _, number in titles] == [1, 2, 3]
    assert titles[2][0].startswith("3: branch of 2, ")


def test_an_end_token_as_a_branch_ends_the_text(models):
    loaded = endless(lent(models))
    seen = generation.look_inside(ran(models), models)
    column = other(seen, 2)
    loaded.model.generation_config.eos_token_id = int(seen.places.ids[2, column])
    calls = tiny.counted(loaded.model)
    (only,) = generation.branch(seen, 2, column, models)
    assert calls == []
    assert only.written.ended
    assert only.written.tokens == seen.ran.written[0].tokens[:2]
    assert only.chosen == generation.readable(seen.names[int(seen.places.ids[2, column])])
    again = generation.look_inside(replace(seen.ran, written=(only.written,)), models)
    assert again.pieces[-1].id == seen.places.ids[2, column]
    assert again.pieces[-1].special


def test_a_branch_is_shown_as_it_grows_and_can_be_stopped(models, monkeypatch):
    endless(lent(models))
    monkeypatch.setattr(generation, "SHOW_EVERY", 0)
    seen = generation.look_inside(ran(models), models)
    shown: list[generation.Branch] = []
    for one in generation.branch(seen, 1, other(seen, 1), models, stopped=lambda: len(shown) >= 3):
        shown.append(one)
    assert [len(one.written.tokens) for one in shown] == [3, 4, 5, 5]
    assert shown[-1].status is not None
    assert shown[-1].status.remarks[-1] == "Stopped."


def test_a_branch_ends_where_the_checkpoint_does(models):
    endless(lent(models))
    run = ran(models, "x" * 100, max_new_tokens=28)
    seen = generation.look_inside(run, models)
    *_, last = generation.branch(seen, 20, other(seen, 20), models)
    assert len(run.prompt) + len(last.written.tokens) == 128
    assert last.status is not None
    assert "takes 128 tokens in all" in last.status.remarks[-1]
    with pytest.raises(InputError, match="128 tokens in all, and they are used up"):
        list(generation.branch(seen, 27, other(seen, 27), models))


def test_a_candidate_that_is_not_there(models):
    seen = generation.look_inside(ran(models), models)
    for place, column in ((-1, 0), (99, 0), (0, 99), (0, -1)):
        with pytest.raises(InputError, match="not among the alternatives"):
            list(generation.branch(seen, place, column, models))
    for place in (-1, 99):
        with pytest.raises(InputError, match="not there any more"):
            generation.draw_alternatives(seen, place)


# Attention


def direct_attention(loaded: Any, ids: list[int]) -> np.ndarray:
    """`[layers, heads, query, key]`, from a model that was made with eager attention."""
    import torch
    import transformers

    config = copy.deepcopy(loaded.model.config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    weights = loaded.model.state_dict()
    if weights.keys() != model.state_dict().keys():
        join(model)
    model.to(loaded.dtype).load_state_dict(weights)
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_attentions=True)
    return torch.cat(output.attentions).numpy()


@pytest.mark.parametrize("kind", [kind for kind in TOGETHER + IN_TURNS if kind not in WITHOUT_ATTENTION])
def test_attention_is_the_model_s_own_and_masked(kind):
    loaded = of_kind(kind)
    models = lending(loaded)
    run = ran(models)
    before = loaded.model.config._attn_implementation
    ids = [*run.prompt, *ids_of(run.written[0])]
    expected = direct_attention(loaded, ids)
    later = np.triu(np.ones(expected.shape[2:], dtype=bool), 1)
    for layer in range(2):
        for head in (None, 0, 1):
            seen = generation.look_at_attention(run, models, 0, layer, head)
            own = expected[layer].mean(0) if head is None else expected[layer, head]
            assert (np.isnan(seen.weights) == later).all()
            np.testing.assert_allclose(seen.weights[~later], own[~later], atol=1e-5)
            np.testing.assert_allclose(np.nansum(seen.weights, -1), 1, atol=1e-4)
            assert (seen.layers, seen.heads, seen.left_out, seen.divided) == (2, 2, 0, False)
            assert len(seen.tokens) == len(ids)
    assert loaded.model.config._attn_implementation == before, "the others' model stays as it was"


@pytest.mark.parametrize("kind", WITHOUT_ATTENTION)
def test_an_architecture_without_attention_says_so(kind):
    models = lending(of_kind(kind))
    with pytest.raises(InputError, match="no attention weights"):
        generation.look_at_attention(ran(models), models)


def test_at_most_64_tokens_are_drawn_and_that_is_said(models):
    loaded = endless(lent(models))
    run = ran(models, "x" * 60, max_new_tokens=20)
    seen = generation.look_at_attention(run, models)
    assert seen.weights.shape == (64, 64)
    assert seen.left_out == 16
    assert "16 are left out" in generation.attention_remarks(seen)
    whole = direct_attention(loaded, [*run.prompt, *ids_of(run.written[0])])
    np.testing.assert_allclose(np.nan_to_num(seen.weights), whole[0].mean(0)[:64, :64], atol=1e-5)


def test_a_layer_that_another_checkpoint_had(models):
    run = ran(models)
    last = generation.look_at_attention(run, models, 0, 1, 1)
    beyond = generation.look_at_attention(run, models, 0, 28, 14)
    np.testing.assert_array_equal(beyond.weights, last.weights)


def test_the_mask_is_drawn_over_the_map():
    from components.show.generation_markup import causal_map

    weights = np.array([[1, np.nan], [0.3, 0.7]])
    figure = causal_map(weights, ["<b>", "a"], "“<i>”", "layer")
    weight, mask = figure.data
    assert np.isnan(np.array(weight.z, dtype=float)).tolist() == [[False, True], [False, False]]
    assert np.isnan(np.array(mask.z, dtype=float)).tolist() == [[True, False], [True, True]]
    assert "masked" in mask.hovertemplate
    assert figure.layout.xaxis.ticktext[0] == "&lt;b&gt;"
    assert figure.layout.title.text == "“&lt;i&gt;”<br>layer"


# The tab


def handlers(tab: Any, name: str) -> list[Any]:
    return [fn.fn for fn in tab.app.fns.values() if fn.name == name]


def opened(tab: Any, outputs: int, *values: Any) -> tuple[Any, ...]:
    """What opening the drawer with so many outputs shows."""
    (fn,) = [fn for fn in tab.app.fns.values() if fn.name == "opened" and len(fn.outputs) == outputs + 2]
    return fn.fn(*values)[1:]


def event(**data: Any) -> Any:
    return gr.EventData(None, data)


INSIDE, ATTENTION = 11, 4  # outputs of the drawers


def test_drawers_invite_before_there_is_a_run(models):
    tab = tiny.tab(generation.DEMO, models)
    assert opened(tab, INSIDE, None, None, None)[-1].count(drawers.NOT_YET) == 1
    assert opened(tab, ATTENTION, None, None, None, 1, "mean")[-1].count(drawers.NOT_YET) == 1


def test_a_press_before_there_is_a_run(models):
    (press,) = handlers(tiny.tab(generation.DEMO, models), "press")
    for data in ({"place": 0}, {"place": "x"}, {}):
        place, shown, problem = press(None, event(**data))
        assert (place, shown) == (None, "")
        assert "not there any more" in problem


def choosing(tab: Any, *values: Any) -> list[tuple[Any, ...]]:
    """What pressing an alternative yields: the branches, the branch, the problem and the status line."""
    (fn,) = [
        fn
        for fn in tab.app.fns.values()
        if fn.name == "handler" and inspect.isasyncgenfunction(fn.fn) and not fn.show_progress_on
    ]

    async def collect() -> list[tuple[Any, ...]]:
        request = SimpleNamespace(session_hash="visitor", username=None, client=None)
        return [(*step[:2], *step[-2:]) async for step in fn.fn(request, *values)]

    return asyncio.run(collect())


def test_a_branch_before_there_is_a_run(models):
    tab = tiny.tab(generation.DEMO, models)
    for values in ((None, None, 0), (None, 1, 0)):
        assert "Press a token of the text first" in choosing(tab, *values)[-1][-2]


def test_a_visitor_runs_looks_presses_and_branches(models):
    endless(lent(models))
    tab = tiny.tab(generation.DEMO, models)
    *_, step = tab.press(PROMPT, 12, 2, 0.8, 50, 0.95, 1, 3, "completion")
    run = step[2]
    assert isinstance(run, generation.Ran)
    assert run.request.sampling.seed == 3

    book, which, *emptied, seen, told, coloured, curve, others, place, said = opened(
        tab, INSIDE, run, None, None
    )
    assert [*emptied, others, said] == [""] * 5
    assert which["choices"] == [("Sequence 1", 1), ("Sequence 2", 2)]
    assert which["visible"]
    assert told == generation.draw_inside(seen)
    assert coloured.count("data-place") == 12
    assert len(curve.data[0].y) == 12
    assert book == run
    assert place is None

    (press,) = handlers(tab, "press")
    place, others, problem = press(seen, event(place=5))
    assert (place, problem) == (5, "")
    assert others == generation.draw_alternatives(seen, 5)

    (choose,) = handlers(tab, "choose")
    column, grown = choose(event(place=other(seen, 5)))
    assert grown is None
    *_, (shown, grown, problem, status) = choosing(tab, seen, place, column)
    assert problem == ""
    assert "ran in" in status
    assert shown.count("Original") == shown.count("Branch") == 1
    assert shown.count("here the texts part") == 2

    (adopt,) = handlers(tab, "adopt")
    book, which = adopt(book, grown)
    assert [number for _, number in which["choices"]] == [1, 2, 3]
    assert adopt(book, grown) == (gr.skip(), gr.skip()), "no branch comes twice"
    another = replace(run, prompt=(3, 4))
    assert adopt(another, grown) == (gr.skip(), gr.skip()), "nor to another run"

    calls = tiny.counted(lent(models).model)
    again = opened(tab, INSIDE, run, book, seen)
    assert again == ((gr.skip(),) * INSIDE + ("",)), "opened again, what was pressed stays"
    assert calls == []

    (answer,) = [answer for answer in tab.pick(book, 3) if len(answer) == 7]
    assert answer[0].index == 2
    assert answer[2].count("chosen by you") == 1

    layer, head, how, figure, said = opened(tab, ATTENTION, run, book, 3, 2, 1)
    assert layer["choices"] == [1, 2]
    assert head["choices"] == ["mean", 1, 2]
    assert "causal mask" in how
    assert said == ""
    assert "branch of 1" in figure.layout.title.text
    assert "layer 2, head 1" in figure.layout.title.text


def test_attention_is_not_computed_in_a_closed_drawer(models):
    tab = tiny.tab(generation.DEMO, models)
    run = ran(models)
    calls = tiny.counted(lent(models).model)
    answers = tab.pick(False, run, run, 1, 1, "mean")
    assert len(answers) == 3
    assert all(answer[:4] == (gr.skip(),) * 4 for answer in answers)
    assert calls == []


def test_attention_of_a_text_of_an_earlier_run_is_not_shown(models):
    """The selector and the branches are brought up to date by another event than this."""
    tab = tiny.tab(generation.DEMO, models)
    run, earlier = ran(models), ran(models, "x y z", num_return_sequences=2)
    *_, figure, said = opened(tab, ATTENTION, run, earlier, 2, 1, "mean")
    assert said == ""
    assert "Sequence 1" in figure.layout.title.text
    assert len(figure.data[0].z) == len(run.prompt) + len(run.written[0].tokens)


# The starter


def test_the_numbers_of_the_starter_are_those_of_generate(starters):
    models = starters
    with models.use(generation.OFFER, "starter") as loaded:
        run = ran(models, max_new_tokens=8, temperature=0.7, top_k=50, top_p=0.95, seed=0)
        seen = generation.look_inside(run, models)
        direct = continued(
            loaded, list(run.prompt), 8, temperature=0.7, top_k=50, top_p=0.95, repetition_penalty=1.0
        )
        assert [piece.id for piece in seen.pieces] == direct.sequences[0, len(run.prompt) :].tolist()
        for place in range(8):
            ids = seen.places.ids[place]
            shares = direct.logits[place][0].float().softmax(-1)
            np.testing.assert_allclose(seen.places.probabilities[0, place], shares[ids], atol=1e-4)
            drawn = direct.scores[place][0].float().softmax(-1)
            np.testing.assert_allclose(seen.places.probabilities[-1, place], drawn[ids], atol=1e-4)
        assert seen.off < 1e-4
        assert [axis.size for axis in seen.hidden] == [1, len(run.prompt) + 8, 576]
        attention = generation.look_at_attention(run, models, 0, 29, 8)
        assert (attention.layers, attention.heads) == (30, 9)
        np.testing.assert_allclose(np.nansum(attention.weights, -1), 1, atol=1e-4)
