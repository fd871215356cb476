"""The translation tab beside direct calls of a tiny Marian."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.compute import tokenization
from components.errors import Cancelled, InputError
from components.explain.attention import MEAN, SHOWN, SPECIAL, View
from components.inputs.wording import Wording
from demos import translation
from demos.translation import Attention, Sentence
from tests import tiny

TEXT = "You like this house."
TWO = "The weather is nice today. Shall we go for a walk in the park?"
LONG = f"{TWO}\n\nMy name is Anna and I live in Berlin. You like it. Quick foxes jump over dogs.\nA man."


@pytest.fixture
def models():
    return tiny.manager(tiny.marian())


@pytest.fixture(scope="module")
def loaded():
    return tiny.loaded(tiny.marian(), translation.RECIPE)


def direct(sentence: str, folder: Any = None) -> tuple[str, list[int], list[int]]:
    """Text, source ids and written ids by plain calls of tokenizer and generate."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = folder or tiny.marian()
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(sentence, return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**inputs)[0]
    return (
        str(tokenizer.decode(written, skip_special_tokens=True)),
        inputs["input_ids"][0].tolist(),
        written.tolist(),
    )


def attended(sentence: Sentence, folder: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention of a teacher-forced pass, layer by layer."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(folder or tiny.marian(), attn_implementation="eager").eval()
    with torch.inference_mode():
        out = model(
            input_ids=torch.tensor([sentence.source_ids]),
            decoder_input_ids=torch.tensor([sentence.target_ids[:-1]]),
            output_attentions=True,
        )
    encoder, decoder, cross = (
        np.stack([layer[0].numpy() for layer in layers])
        for layers in (out.encoder_attentions, out.decoder_attentions, out.cross_attentions)
    )
    return encoder, decoder, cross


# validate


@pytest.mark.parametrize("text", ["", " \n\t", None])
def test_no_text(models, text):
    with pytest.raises(InputError, match=r"no text yet.*Type"):
        translation.run(text, "auto", models)
    assert models.asked == []


def test_a_text_that_is_too_long():
    most = translation.MOST_CHARACTERS
    assert translation.validate("x" * most)
    with pytest.raises(InputError, match=f"{most + 1} characters; at most {most}"):
        translation.validate("x" * (most + 1))


# Steps


def test_preprocess_cuts(loaded):
    long = "this house " * 60
    (short, cut), kept = translation.preprocess([TEXT, long], loaded)
    assert short == dict(loaded.processor(TEXT))
    assert len(cut["input_ids"]) == 64
    assert cut["input_ids"][-1] == loaded.processor.eos_token_id, "the end is always there"
    assert kept[0] is None
    assert kept[1] is not None
    assert long.startswith(kept[1])


def test_forward_ends_a_loop_after_a_few_times_the_source():
    import torch

    loaded = tiny.loaded(tiny.marian(), translation.RECIPE)
    loaded.model.final_logits_bias[0, 0] = -1e4  # never ends by itself
    loaded.model.config.max_position_embeddings = 300
    loaded.model.generation_config.max_length = 300
    for part in (loaded.model.get_encoder(), loaded.model.get_decoder()):
        part.embed_positions = type(part.embed_positions)(300, 16)
    encodings, _ = translation.preprocess(["You", TEXT * 5], loaded)
    with loaded.turns:
        short, long = (translation.forward(tokenization.padded([one], loaded), loaded) for one in encodings)
    assert short.shape == (1, 3 * translation.STEP + 20)
    assert 64 < tokenization.length(encodings[1]) <= 96
    assert long.shape == (1, 300), "what the model takes"
    assert short.dtype == torch.int64


def test_forward_is_given_up_between_two_tokens(loaded):
    asked = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) == 3

    encodings, _ = translation.preprocess([TEXT], loaded)
    with loaded.turns, pytest.raises(Cancelled):
        translation.forward(tokenization.padded(encodings, loaded), loaded, stopped)
    assert len(asked) == 3


def test_stop_ends_a_translation_within_its_batch(models):
    """Before the last token: the batch itself is broken off, and the next visitor is served."""
    whole, steps = [], []

    def asked_often() -> bool:
        steps.append(True)
        return len(steps) > 4

    with models.use(translation.OFFER) as loaded:
        joint = loaded.share(translation.joint)
        compute, joint._compute = joint._compute, lambda texts: whole.append(compute(texts)) or whole[-1]
        with pytest.raises(Cancelled):
            translation.run(TEXT, "auto", models, stopped=asked_often)
        assert not whole
        joint._compute = compute
    assert translation.run(TEXT, "auto", models).text == translation.run(TEXT, "auto", models).text


def test_a_loop_ends_at_the_same_length_whatever_the_neighbours(loaded):
    limits = [translation.longest(length, loaded) for length in range(1, 64)]
    assert limits == sorted(limits)
    assert len(set(limits)) == 1, "64 positions are fewer than three times a step"
    wide = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=512)))
    by_length: dict[int, list[int]] = {}
    for length in range(1, 513):
        by_length.setdefault(translation.longest(length, wide), []).append(length)  # type: ignore[arg-type]
    assert by_length[116] == list(range(1, 33))
    assert by_length[212] == list(range(33, 65))
    assert max(by_length) == 512
    for same in by_length.values():
        # A batch is as wide as its longest: the limit is that of each.
        assert translation.longest(max(same), wide) == translation.longest(min(same), wide)  # type: ignore[arg-type]


def test_postprocess_takes_padding_off(loaded):
    import torch

    pad = loaded.processor.pad_token_id
    encodings, _ = translation.preprocess([TEXT, TWO], loaded)
    written = list(torch.tensor([[pad, 5, 6, 0, pad, pad], [pad, 7, 8, 9, 10, 0]]))
    first, second = (
        translation.postprocess(text, Wording(text), encoding, ids, loaded)
        for text, encoding, ids in zip((TEXT, TWO), encodings, written, strict=True)
    )
    assert first and second
    assert first.source_ids == tuple(loaded.processor(TEXT)["input_ids"])
    assert first.target_ids == (pad, 5, 6, 0)
    assert first.source == TEXT
    assert first.target == loaded.processor.decode([5, 6])
    assert second.target_ids == (pad, 7, 8, 9, 10, 0)


# run


@pytest.mark.parametrize("text", [TEXT, "A man", "Çà et là", "x"])
def test_a_sentence_is_what_generate_gives(models, text):
    result = translation.run(text, "auto", models)
    target, source_ids, target_ids = direct(text)
    (sentence,) = result.sentences
    assert sentence == Sentence(text, target, tuple(source_ids), tuple(target_ids))
    assert result.text == target


def test_a_long_text_keeps_its_order_and_its_paragraphs(models):
    result = translation.run(LONG, "auto", models)
    assert [part for part in result.parts if isinstance(part, str)] == [" ", "\n", "\n", " ", " ", "\n"]
    assert [s.source for s in result.sentences] == [
        "The weather is nice today.",
        "Shall we go for a walk in the park?",
        "My name is Anna and I live in Berlin.",
        "You like it.",
        "Quick foxes jump over dogs.",
        "A man.",
    ]
    expected = [direct(sentence.source)[0] for sentence in result.sentences]
    assert [sentence.target for sentence in result.sentences] == expected
    assert len(set(expected)) > 3, "they are told apart"
    lines = result.text.split("\n")
    assert lines == [" ".join(expected[:2]), "", " ".join(expected[2:5]), expected[5]]


def test_more_sentences_than_a_batch(models):
    words = ["house", "park", "man", "window", "weather"]
    text = " ".join(f"You like {'this ' * (i % 3)}{words[i % 5]}." for i in range(translation.BATCH + 4))
    result = translation.run(text, "auto", models)
    assert len(result.sentences) == translation.BATCH + 4
    for i in (0, 7, translation.BATCH, translation.BATCH + 3):
        assert result.sentences[i].target == direct(result.sentences[i].source)[0]


def test_stop_ends_it_between_two_batches(models):
    with models.use(translation.OFFER) as loaded:
        batches: list[int] = []
        loaded.model.get_encoder().register_forward_pre_hook(
            lambda module, inputs, named: batches.append(len(named["input_ids"])), with_kwargs=True
        )
    with pytest.raises(Cancelled):
        translation.run("You like it. " * 12, "auto", models, stopped=lambda: len(batches) == 2, batch=4)
    assert batches == [4, 4]


def test_a_sentence_that_is_too_long_is_translated_in_clauses_and_it_is_said(models):
    long = "this house " * 60
    result = translation.run(f"{TEXT} {long}", "auto", models)
    assert "1 sentence is longer than the 64 tokens" in result.status.remarks[0]
    assert all(len(sentence.source_ids) <= 64 for sentence in result.sentences)
    assert " ".join(sentence.source for sentence in result.sentences) == f"{TEXT} {long}".strip()


def test_the_language_pair_comes_from_the_tokenizer(models):
    assert translation.run(TEXT, "auto", models).pair == ("en", "fr")


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("Helsinki-NLP/opus-mt-en-de", ("en", "de")),
        ("Helsinki-NLP/opus-mt-tc-big-en-fr@v2", ("en", "fr")),
        ("someone/mine", ("?", "?")),
    ],
)
def test_the_language_pair_comes_from_the_name_where_the_tokenizer_has_none(name, pair):
    from dataclasses import replace

    loaded = tiny.loaded(tiny.marian(pair=None), translation.RECIPE)
    renamed = replace(loaded, checkpoint=replace(loaded.checkpoint, name=name))
    assert translation.language_pair(renamed) == pair


@pytest.mark.parametrize(("code", "name"), [("fr", "French"), ("en", "English"), ("xx", "xx"), ("?", "?")])
def test_language_names(code, name):
    assert translation.language_name(code) == name


def test_several_target_languages():
    folder = tiny.marian((">>fra<<", ">>ita<<"))
    models = tiny.manager(folder)
    result = translation.run(f"{TEXT} >>ita<< {TEXT}", "auto", models)
    first, second = result.sentences
    assert first.target == direct(f">>fra<< {TEXT}", folder)[0]
    assert second.target == direct(f">>ita<< {TEXT}", folder)[0]
    assert first.source == TEXT, "the code that was put before it is not shown"
    remark, *_ = result.status.remarks
    assert "Into >>fra<<" in remark
    assert ">>ita<<" in remark


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"architectures": ["MarianMTModel"]}, True),
        ({"architectures": ["T5ForConditionalGeneration"]}, False),
        ({"architectures": None}, False),
        ({}, False),
    ],
)
def test_which_checkpoints_fit(config, fits):
    reason = translation.RECIPE.fits(config)
    assert (reason is None) is fits
    if reason:
        assert "Marian" in reason
        assert "Helsinki-NLP/opus-mt-en-fr" in reason


# What stands in texts besides sentences, with the starter


def by_starter(models, text: str) -> translation.Result:
    return translation.run(text, "starter", models)


@pytest.fixture(scope="module")
def starters(starter_cache):
    """The app's own manager with its starters."""
    import os
    from dataclasses import replace

    import app
    from components.settings import parse
    from components.weights.hub import HubStatus

    return app.create_manager(
        replace(parse([], os.environ), checkpoints="starter", keep_alive=-1), HubStatus()
    )


@pytest.mark.parametrize(
    "text", ["?", "12/05/2024", "😀", " \n- 3.50 €\n", "https://a.org/b", "`x = 1`", "{name}"]
)
def test_what_has_no_words_stays_and_it_is_said(starters, text):
    result = by_starter(starters, text)
    assert result.text == text
    assert result.sentences == []
    assert "No letters" in result.status.remarks[0]
    tab = tiny.tab(translation.DEMO, starters)
    value, figure = tab.endpoint("translate")(text, "starter")
    assert value == text and not json.loads(figure["plot"])["data"]
    assert "No letters" in figure["remarks"][0]
    shown = tab.press(text, checkpoint="starter")[-1]
    assert shown[0]["value"] == text and shown[4] is None and "No letters" in shown[-1]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("  1. You like it.\n  2. Two dogs.\n\n> A man.", r"  1\. \S.*\n  2\. \S.*\n\n> \S.*"),
        ("- [ ] The cat sleeps.\r\n- [x] We eat.\r\n", r"- \[ \] \S.*\r\n- \[x\] \S.*\r\n"),
        ("Ask {name} about %s.", r".*\{name\}.*%s.*\."),
        ("You have %d new messages from {user} 😀", r".*%d.*\{user\}.* 😀"),
        ("I wrote to a.b@c.org and saw https://a.org/b?c=d.", r".*a\.b@c\.org.*https://a\.org/b\?c=d.*"),
        ("Ask {a} or {b} or {c} or {d} or {e} about it.", r".*\{a\}.*\{b\}.*\{c\}.*\{d\}.*\{e\}.*"),
        ("I have 88 books and 67 cats.", r".*88.*67.*"),
        ("“I am tired.”", r"“[^“”]+”"),
        ("He said “I am tired” and left.", r".*“[^“”]+”.*"),
        ("The door was open — we went in.", r".* — .*"),
        ("(The house is big)", r"\([^()]+\)"),
        ("THE DOG IS RUNNING ON THE BEACH.", r"[^a-z]+"),
        ("<b>The house</b> is big.", r"<b>.*</b> .*"),
        ("The weather is nice today and we would\n  like to go to the park.", r".+\n  .+"),
    ],
)
def test_what_is_no_word_survives(starters, text, whole):
    import re

    result = by_starter(starters, text)
    assert re.fullmatch(whole, result.text), result.text
    for sentence in result.sentences:
        attention = translation.attend(sentence, "starter", starters)
        read = "".join(attention.source_tokens[:-1]).replace("▁", " ").strip()
        assert "<0x" in read or read == sentence.read, "the maps are of what the model read"


def test_what_seems_lost_is_said(starters):
    result = by_starter(starters, "We met on 12 May 1945 at the house of my friend.")
    lost = Sentence("In 1945 he left.", "Il partit.", (1,) * 8, (1,) * 6)
    assert translation.seems_off(lost)
    assert translation.seems_off(Sentence("a", "b", (1,) * 30, (1,) * 9))
    assert translation.seems_off(Sentence("a", "b", (1,) * 10, (1,) * 40))
    assert not translation.seems_off(Sentence("4 cats", "quatre chats", (1,) * 5, (1,) * 12))
    assert any("may be lost" in remark for remark in result.status.remarks) == any(
        map(translation.seems_off, result.sentences)
    )


def test_a_long_sentence_is_translated_in_clauses(starters):
    text = "A man is standing in the park, and two dogs are running on the beach, " * 3 + "but we are happy."
    result = by_starter(starters, text)
    assert len(result.sentences) > 1
    assert all(len(sentence.source_ids) <= 32 for sentence in result.sentences)
    assert result.text.count(",") >= text.count(",") - len(result.sentences)
    assert any("clause by clause" in remark for remark in result.status.remarks)


# Attention


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_attention_is_that_of_a_teacher_forced_pass(models, text):
    for sentence in translation.run(text, "auto", models).sentences:
        attention = translation.attend(sentence, "auto", models)
        encoder, decoder, cross = attended(sentence)
        assert np.allclose(attention.encoder, encoder, atol=1e-5)
        assert np.allclose(attention.decoder, decoder, atol=1e-5)
        assert np.allclose(attention.cross, cross, atol=1e-5)


def test_shapes_tokens_and_rows(models):
    (sentence,) = translation.run(TEXT, "auto", models).sentences
    attention = translation.attend(sentence, "auto", models)
    source, target = len(sentence.source_ids), len(sentence.target_ids) - 1
    assert attention.encoder.shape == (3, 2, source, source)
    assert attention.decoder.shape == (2, 4, target, target)
    assert attention.cross.shape == (2, 4, target, source)
    assert len(attention.source_tokens) == source
    assert len(attention.target_tokens) == target
    for weights in (attention.encoder, attention.decoder, attention.cross):
        assert weights.dtype == np.float32
        assert np.allclose(weights.sum(-1), 1, atol=1e-5)
    assert np.allclose(np.triu(attention.decoder, 1), 0), "the decoder sees nothing that is to come"
    assert attention.source_tokens[-1] == "</s>"
    assert attention.target_tokens[0] == "<pad>"
    assert {"</s>", "<pad>", "<unk>"} <= attention.special


def test_an_empty_translation_has_attention_too():
    models = tiny.manager(tiny.marian())
    with models.use(translation.OFFER) as loaded:
        loaded.model.final_logits_bias[0, 0] = 1e4
    result = translation.run(TEXT, "auto", models)
    assert result.text == ""
    attention = translation.attend(result.sentences[0], "auto", models)
    assert attention.target_tokens == ("<pad>",)
    for kind in translation.KINDS.values():
        for special in SPECIAL:
            assert translation.draw(attention, View(kind, 1, MEAN, special=special)).to_json()


def example() -> Attention:
    """Weights that tell layer, head and place: 3 source tokens, 2 target tokens."""
    rng = np.random.default_rng(0)
    return Attention(
        rng.random((3, 2, 3, 3)).astype(np.float32),
        rng.random((2, 4, 2, 2)).astype(np.float32),
        rng.random((2, 4, 2, 3)).astype(np.float32),
        ("▁A", "man", "</s>"),
        ("<pad>", "▁Un"),
        frozenset({"</s>", "<pad>"}),
    )


def drawn(figure: Any) -> tuple[np.ndarray, list[str], list[str]]:
    (map_,) = figure.data
    return np.asarray(map_.z), list(figure.layout.yaxis.ticktext), list(figure.layout.xaxis.ticktext)


def test_by_default_the_encoders_last_layer_averaged_without_special_tokens():
    attention = example()
    figure = translation.draw(attention)
    weights, queries, keys = drawn(figure)
    assert np.allclose(weights, attention.encoder[-1].mean(0)[:2, :2])
    assert queries == keys == ["␣A", "man"]
    assert figure.layout.title.text == "Encoder self-attention,<br>layer 3 of 3, mean of heads"


def test_special_tokens_on_request():
    attention = example()
    weights, queries, keys = drawn(translation.draw(attention, View("cross", 2, special=SHOWN)))
    assert np.allclose(weights, attention.cross[-1].mean(0))
    assert queries == ["&lt;pad&gt;", "␣Un"]
    assert keys == ["␣A", "man", "&lt;/s&gt;"]


@pytest.mark.parametrize(("kind", "rows", "columns"), [("encoder", 3, 3), ("decoder", 2, 2), ("cross", 2, 3)])
def test_layer_and_head_count_from_one(kind, rows, columns):
    attention = example()
    layers, heads = getattr(attention, kind).shape[:2]
    for layer in range(1, layers + 1):
        for head in range(1, heads + 1):
            figure = translation.draw(attention, View(kind, layer, head, special=SHOWN))
            weights, queries, keys = drawn(figure)
            expected = getattr(attention, kind)[layer - 1, head - 1]
            if kind == "decoder":
                assert np.isnan(weights[np.triu_indices(2, 1)]).all()
                expected = np.where(np.isnan(weights), np.nan, expected)
            assert np.array_equal(weights, expected, equal_nan=True)
            assert (len(queries), len(keys)) == (rows, columns)
            assert figure.layout.title.text.endswith(f"layer {layer} of {layers}, head {head}")


def test_a_layer_and_head_that_are_not_there_become_the_last():
    attention = example()
    weights, _, _ = drawn(translation.draw(attention, View("cross", 3, 9, special=SHOWN)))
    assert np.array_equal(weights, attention.cross[1, 3])


@pytest.mark.parametrize(("kind", "shape"), [("encoder", (2, 2)), ("decoder", (1, 1)), ("cross", (1, 2))])
def test_special_tokens_are_left_out_on_both_sides(kind, shape):
    weights, queries, keys = drawn(translation.draw(example(), View(kind, 1)))
    assert weights.shape == shape == (len(queries), len(keys))


# The tab


def test_the_endpoint_gives_text_and_figure(models):
    endpoint = tiny.tab(translation.DEMO, models).endpoint("translate")
    text, figure = endpoint(TWO)
    assert text == translation.run(TWO, "auto", models).text
    first = translation.run(TWO, "auto", models).sentences[0]
    expected = translation.draw(translation.attend(first, "auto", models))
    assert json.loads(figure["plot"]) == json.loads(expected.to_json())
    assert figure["remarks"] == list(translation.run(TWO, "auto", models).status.remarks)
    assert endpoint(TEXT, "starter")[0] == direct(TEXT)[0]


def test_the_button_shows_translation_and_heatmap(models):
    last = tiny.tab(translation.DEMO, models).press(TWO)[-1]
    answer, sentence, figure, reading, ran, attention, problem, status = last
    result = translation.run(TWO, "auto", models)
    assert answer["value"] == result.text
    assert answer["label"] == "Translation, English to French"
    assert sentence["visible"]
    assert [value for _, value in sentence["choices"]] == [0, 1]
    assert "Encoder self-attention,<br>layer 3 of 3" in figure["value"].layout.title.text
    expected = translation.draw(translation.attend(result.sentences[0], "auto", models))
    assert np.allclose(drawn(figure["value"])[0], drawn(expected)[0])
    assert "Queries down, keys across" in reading
    assert "Attention explorer" in reading
    assert ran == translation.Ran(result.parts, result.status.checkpoint, tuple(result.sentences))
    assert isinstance(attention, Attention)
    assert problem == ""
    assert "tiny/marian" in status


def test_one_sentence_needs_no_picking(models):
    sentence = tiny.tab(translation.DEMO, models).press(TEXT)[-1][1]
    assert not sentence["visible"]


def test_another_sentence_brings_its_own_attention(models):
    tab = tiny.tab(translation.DEMO, models)
    ran = tab.press(TWO)[-1][4]
    ((attention, figure, reading, problem),) = tab.pick(ran, 1)
    second = ran.sentences[1]
    assert np.allclose(attention.encoder, attended(second)[0], atol=1e-5)
    assert drawn(figure["value"])[1][0] == "␣"
    assert "Queries down" in reading
    assert problem == ""


def test_sentences_before_the_first_run_do_nothing(models):
    ((*answers, problem),) = tiny.tab(translation.DEMO, models).pick(None, None)
    assert len(answers) == 3
    assert all(answer == {"__type__": "update"} for answer in answers)
    assert problem == ""


def test_a_problem_is_shown(models):
    last = tiny.tab(translation.DEMO, models).press("")[-1]
    assert "no text yet" in last[-2]
